"""CLIPSeg (Lüddecke and Ecker, Image Segmentation Using Text and Image Prompts, CVPR 2022).

Its decoder was trained on masks (PhraseCut): no training-free method, but a reference for what such training gives.
"""

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from harness.data.prompts import check_templates
from harness.method.method import SegmentationMethod
from harness.method.windows import Box, ScoreMap
from harness.system.errors import ConfigurationError
from methods.backbones.hub_clip_seg import HubCLIPSeg


class CLIPSeg(SegmentationMethod):
    """Every class is segmented by itself; a pixel takes the class whose mask is surest of it.

    Args:
        model: CLIPSeg.
        templates: Prompt templates, whose conditions are averaged; null takes the protocol's. CLIPSeg was trained with
            one at a time, of which this is one.
        score_stride: Pixels of the image that CLIPSeg sees per score, in both directions.
        background_threshold: Constant score of the background, for vocabularies that have one; scores are
            probabilities, of which 0.5 is where the model itself tells a mask from the rest.
        window_batch: Windows that go through the model at once.

    Raises:
        ConfigurationError: A setting is out of range.
    """

    name = "clip_seg"
    encode_settings = frozenset({"model"})

    def __init__(
        self,
        model: HubCLIPSeg,
        templates: Sequence[str] | None = ("a photo of a {}.",),
        score_stride: int = 4,
        background_threshold: float | None = None,
        window_batch: int = 8,
    ) -> None:
        super().__init__(window_batch, background_threshold)
        if score_stride < 1:
            raise ConfigurationError("method.score_stride must be at least 1")
        self.model = model
        self.templates = None if templates is None else check_templates(templates, "method.templates")
        self.score_stride = score_stride

    def prepare(self) -> None:
        """The classes' conditions, not of unit length: the decoder reads them as CLIP gives them."""
        templates = self.templates or self.protocol.templates
        names = self.vocabulary.foreground
        texts = [template.replace("{}", name) for name in names for template in templates]
        self.conditions = self.model.embed_text(texts).unflatten(0, (len(names), len(templates))).mean(dim=1)

    def encode(self, windows: Tensor, boxes: Sequence[Box], image: Any) -> list[Tensor]:
        """What the decoder reads of every window, the same for all texts."""
        return self.model.activations(windows)

    def score(self, encoded: list[Tensor], boxes: Sequence[Box], context: Any) -> list[ScoreMap]:
        """One mask per class."""
        return [ScoreMap(self.model.masks(encoded, self.conditions, self.score_stride))]
