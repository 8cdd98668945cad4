"""CLIP as is, densely: the baseline that methods for CLIP's patches start from."""

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from harness.data.prompts import check_templates
from harness.method.method import SegmentationMethod
from harness.method.windows import Box, ScoreMap
from harness.system.errors import ConfigurationError
from methods.backbones.clip_patches import CLIPPatches, Patches, classify


class CLIPDense(SegmentationMethod):
    """Every patch is classified as CLIP classifies an image: last norm, projection, cosine with the classes' texts.

    Args:
        clip: The image-text model.
        templates: Prompt templates; null takes the protocol's.
        temperature: What cosines are divided by before a softmax over the classes, 0.01 in CLIP; null compares the
            cosines themselves, whose order at a patch is the same.
        background_threshold: Constant score of the background, for vocabularies that have one: a cosine, or with a
            temperature a probability.
        window_batch: Windows that go through CLIP at once.

    Raises:
        ConfigurationError: A setting is out of range.
    """

    name = "clip_dense"
    encode_settings = frozenset({"clip"})

    def __init__(
        self,
        clip: CLIPPatches,
        templates: Sequence[str] | None = None,
        temperature: float | None = None,
        background_threshold: float | None = None,
        window_batch: int = 8,
    ) -> None:
        super().__init__(window_batch, background_threshold)
        if temperature is not None and temperature <= 0:
            raise ConfigurationError(f"method.temperature must be positive, not {temperature}")
        self.clip = clip
        self.templates = None if templates is None else check_templates(templates, "method.templates")
        self.temperature = temperature

    def prepare(self) -> None:
        """Encode the classes but the background, whose score is a constant."""
        self.text = self.clip.encode_classes(self.vocabulary.foreground, self.templates or self.protocol.templates)

    def encode(self, windows: Tensor, boxes: Sequence[Box], image: Any) -> Patches:
        """CLIP's patches."""
        return self.clip.tokens(windows)

    def score(self, encoded: Patches, boxes: Sequence[Box], context: Any) -> list[ScoreMap]:
        """Cosines of patches and classes."""
        return [ScoreMap(classify(encoded.embeddings, self.text, self.temperature), encoded.extent)]
