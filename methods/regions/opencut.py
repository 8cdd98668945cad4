"""OpenCut (Barsellotti et al., FOSSIL, WACV 2024, Section 3.4): MaskCut at several thresholds, until most is covered.

No code was released. What the paper leaves open is a parameter here: the thresholds and their order, the grid on which
η, μ and ρ are measured, and whether the CRF sees MaskCut's masks or the regions made of them.
"""

from collections.abc import Iterable, Sequence
from typing import Literal

import numpy as np
import torch
from scipy import ndimage
from torch import Tensor

from harness.system.errors import ConfigurationError
from methods.backbones.dense import Dense, Kind
from methods.refinement.crf import DenseCRF, refine_proposal
from methods.regions.base import Regions
from methods.regions.maskcut import cosines, cut_masks, enlarge, refine_in_square, resize_masks_antialiased, squash
from methods.regions.ncut import PatchGraph


class OpenCut(Regions):
    """Mutually exclusive regions of an image, objects first, then background; some pixels may stay uncovered.

    For each τ in turn, MaskCut gives up to ``stages`` masks (Eq. 1 to 3, stopping where all edges are alike), starting
    from the unmasked image. Each mask passes through ``exclusive_regions``. All thresholds share one cosine matrix.
    Eq. 1 joins patches at cosines of at least τ, MaskCut's code above τ, and so does this.

    Args:
        backbone: DINO ViT-B/8.
        taus: Thresholds in order. The paper names none; it says that objects come first and that negative values and
            values close to 1 find background. These are a choice of ours, beginning with CutLER's.
        stages: t, the most masks per threshold.
        min_area: η, the fewest pixels of a component.
        merge_iou: μ, the IoU above which a component is merged into an earlier region.
        max_overlap: ρ, the share of a component, covered by earlier regions, above which it is dropped.
        grid: Whether η, μ and ρ are measured on ``patch``es or on ``pixel``s of the square. With patches of 8 pixels,
            16 of them are 0.4 % of an image, 16 pixels a quarter of one patch.
        size: Side of the square in pixels to which the image is squashed.
        kind: Which features of the last layer.
        crf: The CRF of MaskCut, if any; the paper has one.
        crf_on: ``masks`` refines each mask of MaskCut, as the paper's "to post-process masks" reads most plainly, and
            needs ``grid: pixel``; ``regions`` refines the finished regions, the earlier one keeping disputed pixels.
    """

    def __init__(
        self,
        backbone: Dense,
        taus: Sequence[float] = (0.15, 0.25, 0.35, 0.6, 0.05, -0.05),
        stages: int = 3,
        min_area: int = 16,
        merge_iou: float = 0.8,
        max_overlap: float = 0.7,
        grid: Literal["patch", "pixel"] = "patch",
        size: int = 480,
        kind: Kind = "key",
        crf: DenseCRF | None = None,
        crf_on: Literal["masks", "regions"] = "masks",
    ) -> None:
        super().__init__()
        if not taus or stages < 1 or size < 1:
            raise ConfigurationError("OpenCut: it needs one tau or more, and stages and size of at least 1")
        if crf is not None and crf_on == "masks" and grid == "patch":
            raise ConfigurationError("OpenCut: masks refined by a CRF are measured in pixels: set grid to pixel")
        self.backbone = backbone
        self.taus = tuple(taus)
        self.stages = stages
        self.min_area, self.merge_iou, self.max_overlap = min_area, merge_iou, max_overlap
        self.grid = grid
        self.size = size
        self.kind = kind
        self.crf = crf
        self.crf_on = crf_on

    @torch.no_grad()
    def masks(self, image: Tensor) -> Tensor:
        """[3, H, W] uint8 RGB -> [L, H, W] bool, mutually exclusive, none empty."""
        square = squash(image, self.size, self.backbone.patch_size)
        features = self.backbone.features(square[None], self.kind).patches[0]
        found = proposals(features, self.taus, self.stages)
        if self.grid == "pixel":
            found = refine_in_square(found, square, self.crf if self.crf_on == "masks" else None)
        regions = exclusive_regions(found, self.min_area, self.merge_iou, self.max_overlap)
        if self.crf is not None and self.crf_on == "regions":
            regions = self._refine_regions(regions, square, self.crf)
        # Bilinear weights add to 1, so that no two exclusive masks pass one half at a pixel.
        return resize_masks_antialiased(regions, image, mode="bilinear")

    def _refine_regions(self, regions: Tensor, square: Tensor, crf: DenseCRF) -> Tensor:
        pixels = enlarge(regions, square)
        taken = torch.zeros_like(square[0], dtype=torch.bool)
        for i, region in enumerate(pixels):
            pixels[i] = refine_proposal(crf, square, region) & ~taken
            taken |= pixels[i]
        return pixels[pixels.flatten(1).any(dim=1)]


def proposals(features: Tensor, taus: Sequence[float], stages: int) -> Tensor:
    """MaskCut at each threshold: [D, gh, gw] -> [M, gh, gw] bool, none empty, of one threshold after the other."""
    similarity = cosines(features)
    grid = (int(features.shape[1]), int(features.shape[2]))
    found = torch.cat([cut_masks(PatchGraph(similarity, tau), grid, stages) for tau in taus])
    return found[found.flatten(1).any(dim=1)]


def exclusive_regions(
    masks: Iterable[Tensor], min_area: int = 16, merge_iou: float = 0.8, max_overlap: float = 0.7
) -> Tensor:
    """OpenCut's mask refinement: what each mask, in order, adds to the regions before it.

    Every 4-connected component of a mask is taken by itself. One of fewer than ``min_area`` pixels is dropped. One
    whose IoU with a region so far exceeds ``merge_iou`` is the same object: its uncovered pixels join that region (the
    one of highest IoU). One of which more than ``max_overlap`` lies in regions so far is dropped. Of any other, the
    uncovered pixels become a region, be they few or in several pieces.

    Args:
        masks: [M, h, w] bool.
        min_area: η.
        merge_iou: μ.
        max_overlap: ρ.

    Returns:
        [L, h, w] bool, mutually exclusive.
    """
    stacked = torch.stack(list(masks)) if not isinstance(masks, Tensor) else masks
    regions = stacked[:0]
    taken = torch.zeros(stacked.shape[1:], dtype=torch.bool, device=stacked.device)
    for part in (part for mask in stacked for part in components(mask, min_area)):
        if len(regions):
            overlap = (regions & part).flatten(1).sum(dim=1)
            iou = overlap / (regions | part).flatten(1).sum(dim=1)
            if iou.max() > merge_iou:
                regions[iou.argmax()] |= part & ~taken
                taken |= part
                continue
        if (part & taken).sum() > max_overlap * part.sum():
            continue
        regions = torch.cat([regions, (part & ~taken)[None]])
        taken = taken | part
    return regions[regions.flatten(1).any(dim=1)]


def components(mask: Tensor, min_area: int = 1) -> Tensor:
    """[h, w] bool -> [parts, h, w] bool: 4-connected components of at least ``min_area`` pixels, in reading order."""
    labels, _ = ndimage.label(mask.cpu().numpy())
    numbers = [n for n, area in enumerate(np.bincount(labels.flat)) if n > 0 and area >= min_area]
    parts = labels == np.array(numbers, dtype=labels.dtype)[:, None, None]
    return torch.from_numpy(parts).to(mask.device)
