"""CLIP-DIY (Wysoczańska et al., CLIP Dense Inference Yields Open-Vocabulary Semantic Segmentation For-Free, WACV 2024).

Symbols as in the paper: Φ_V and Φ_T are CLIP's encoders, P a patch size, S the set of scales, Θ the saliency.
"""

import math
from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor

from harness.data.datamodule import Sample
from harness.data.prompts import check_templates
from harness.data.protocol import Protocol
from harness.data.vocabulary import Vocabulary
from harness.method.method import SegmentationMethod
from harness.method.windows import Box, ScoreMap
from harness.system.errors import ConfigurationError
from methods.backbones.image_text import ImageText
from methods.regions.found import Saliency


class ClipDIY(SegmentationMethod):
    """Dense multi-scale CLIP classification, guided by objectness.

    Where paper and release (wysoczanska/clip-diy) differ, the default is the paper's:

    - Patches do not overlap (``overlap`` 0, Sec. 3.1); the release steps by half a patch (``overlap`` 0.5).
    - Patches lie where they were cut (``placement`` centre); the release stretches their grid over the image as if
      they did not overlap (``placement`` stretch).
    - Scale 0 is global in both (Fig. 3, Table 3): its patch, P_0 = 256, is the whole image, squashed to 256x256 and
      seen without windows (the protocols ``clip_diy_whole`` and ``clip_diy_release``). Sec. 4.1 also names a short
      side of 448, which in the release is that of the label maps. Under ``tcl`` scale 0 is 2x2 patches of each
      window.
    - Θ sees the image that CLIP sees (``saliency_input`` resized; the paper is silent, the release's notebook does
      so); the release's evaluation shows it the native size (``native``).
    - "an" before a vowel is not written (``templates``): the paper does not say so, the release means to and fails.

    Args:
        clip: Φ_V and Φ_T. ViT-B/32 of LAION-2B in the paper.
        saliency: Θ (FOUND in the paper); null leaves objectness out, as in Table 2.
        patch_sizes: P_s in pixels of the resized image, one per scale; one of the image's size is global.
        scale_weights: Weights of the scales, normalised to sum to 1; null weighs them equally (Eq. 2).
        overlap: Share of a patch that its neighbour covers again, in [0, 1).
        placement: Where the scores of overlapping patches are put, see above.
        templates: Prompt templates; null takes the protocol's.
        saliency_input: The size at which Θ sees the image, see above.
        window_batch: Windows that are classified at once.
        patch_batch: Patches that go through CLIP at once.

    Raises:
        ConfigurationError: A setting is out of range.
    """

    name = "clip_diy"
    scores_background = True
    image_settings = frozenset({"saliency", "saliency_input"})
    encode_settings = frozenset({"clip", "patch_sizes", "overlap"})

    def __init__(
        self,
        clip: ImageText,
        saliency: Saliency | None = None,
        patch_sizes: Sequence[int] = (256, 128, 64),
        scale_weights: Sequence[float] | None = None,
        overlap: float = 0.0,
        placement: Literal["centre", "stretch"] = "centre",
        templates: Sequence[str] | None = ("a photo of a {}",),
        saliency_input: Literal["resized", "native"] = "resized",
        window_batch: int = 8,
        patch_batch: int = 256,
    ) -> None:
        super().__init__(window_batch=window_batch)
        if not patch_sizes or min(patch_sizes) < 1:
            raise ConfigurationError("method.patch_sizes needs at least one size, all positive")
        if scale_weights is not None and len(scale_weights) != len(patch_sizes):
            raise ConfigurationError(
                f"method.scale_weights has {len(scale_weights)} weights for {len(patch_sizes)} patch sizes"
            )
        if scale_weights is not None and sum(scale_weights) <= 0:
            raise ConfigurationError("method.scale_weights must have a positive sum")
        if not 0 <= overlap < 1:
            raise ConfigurationError(f"method.overlap must lie in [0, 1), not {overlap}")
        self.clip = clip
        self.saliency = saliency
        self.patch_sizes = tuple(patch_sizes)
        weights = tuple(scale_weights or [1.0] * len(patch_sizes))
        # The engine takes the mean over score maps: weights with mean 1 make it the weighted mean.
        self.scale_weights = tuple(weight * len(weights) / sum(weights) for weight in weights)
        self.overlap = overlap
        self.placement = placement
        self.templates = None if templates is None else check_templates(templates, "method.templates")
        self.saliency_input = saliency_input
        self.patch_batch = patch_batch

    def bind(self, vocabulary: Vocabulary, protocol: Protocol) -> None:
        """Without a background class Θ has nothing to guide: it would only scale all classes alike."""
        super().bind(vocabulary, protocol)
        if not vocabulary.background:
            self.saliency = None

    def prepare(self) -> None:
        """Φ_T(T): encode the prompts (Sec. 3.1, "Encoding prompts"), "background" among them as t_0."""
        self.text = self.clip.encode_classes(self.vocabulary.names, self.templates or self.protocol.templates)

    def encode_image(self, sample: Sample) -> Tensor | None:
        """Θ(x) on the resized image, [h, w] in [0, 1] (Sec. 3.2)."""
        if self.saliency is None:
            return None
        native = self.saliency_input == "native"
        saliency = self.saliency(sample.original if native else sample.image)
        size = sample.image.shape[1:]
        resized = torch.nn.functional.interpolate(saliency[None, None].float(), size, mode="bilinear")
        return resized[0, 0]

    def encode(self, windows: Tensor, boxes: Sequence[Box], image: Tensor | None) -> list[Tensor]:
        """Φ_V of the patches of every scale, [B, rows, columns, D] each."""
        return [self._embed_patches(windows, size) for size in self.patch_sizes]

    def score(self, encoded: list[Tensor], boxes: Sequence[Box], context: Tensor | None) -> list[ScoreMap]:
        """ρ_s of every scale (Eq. 1); their mean is M_CLIP (Eq. 2)."""
        scales = zip(encoded, self.patch_sizes, self.scale_weights, strict=True)
        return [self._similarities(patches, boxes[0].size, size, weight) for patches, size, weight in scales]

    def fuse(self, planes: Tensor, classes: slice, context: Tensor | None) -> Tensor:
        """M_CLIP ⊙ M̂: Θ(x) for every class, 1 - Θ(x) for the background (Eq. 3 and 4).

        The softmax of Eq. 4 keeps the order of the classes at every pixel, so the argmax does without it.
        """
        if context is None:
            return planes
        guided = planes * context
        if classes.start == 0:
            guided[0] = planes[0] * (1 - context)
        return guided

    def _embed_patches(self, windows: Tensor, patch: int) -> Tensor:
        """Cut one scale's patches from windows and encode them: [B, 3, h, w] -> [B, rows, columns, D]."""
        height, width = windows.shape[2:]
        tops, lefts = positions(height, patch, self.overlap), positions(width, patch, self.overlap)
        side_y, side_x = min(patch, height), min(patch, width)
        patches = [windows[:, :, top : top + side_y, left : left + side_x] for top in tops for left in lefts]
        cut = torch.stack(patches, dim=1).flatten(0, 1)
        embedded = torch.cat([self.clip.encode_images(part) for part in cut.split(self.patch_batch)])
        return embedded.float().unflatten(0, (windows.shape[0], len(tops), len(lefts)))

    def _similarities(self, patches: Tensor, size: tuple[int, int], patch: int, weight: float) -> ScoreMap:
        """One scale of Eq. 1: compare patches with the texts, and put the cosines where the patches were cut."""
        cosines = (patches.flatten(0, 2) @ self.text.float().T) * weight
        grid = cosines.unflatten(0, patches.shape[:3]).permute(0, 3, 1, 2)
        if self.placement == "stretch":
            return ScoreMap(grid)
        (height, width), overlap = size, self.overlap
        top, bottom = _covered(positions(height, patch, overlap), min(patch, height), height)
        left, right = _covered(positions(width, patch, overlap), min(patch, width), width)
        return ScoreMap(grid, (top, left, bottom, right))


def positions(length: int, patch: int, overlap: float) -> list[int]:
    """Where patches begin along a side: ⌈length / patch⌉ of them (more with overlap), spread evenly from end to end.

    Where the patch size divides the side, these are the non-overlapping patches of Sec. 3.1; elsewhere the paper
    leaves the last, incomplete patch open, and here all move a little together so that each is complete.
    """
    if patch >= length:
        return [0]
    step = patch * (1 - overlap)
    count = math.ceil(round((length - patch) / step, 6)) + 1
    return [round(index * (length - patch) / (count - 1)) for index in range(count)]


def _covered(starts: Sequence[int], patch: int, length: int) -> tuple[float, float]:
    """The stretch that a regular grid of cells centred on the patches covers, in pixels."""
    if len(starts) == 1:
        return 0.0, float(length)
    step = (starts[-1] - starts[0]) / (len(starts) - 1)
    return patch / 2 - step / 2, starts[-1] + patch / 2 + step / 2
