"""MaskCut (Wang et al., Cut and Learn for Unsupervised Object Detection and Instance Segmentation, CVPR 2023).

Reference implementation: facebookresearch/CutLER, ``maskcut/maskcut.py``.
"""

from typing import Literal, Protocol

import numpy as np
import torch
import torch.nn.functional as F
from scipy.linalg import eigh
from torch import Tensor

from harness.system.errors import ConfigurationError
from methods.backbones.dense import Dense, Kind
from methods.backbones.pixels import resize
from methods.refinement.crf import DenseCRF, refine_proposal
from methods.regions.base import Regions
from methods.regions.ncut import WEAK, PatchGraph

Mode = Literal["fast", "reference"]

# Peaks this close to the highest, relative to it, count as equal, and the first of them is taken: patches of one clean
# region have equal values, whose order would be left to rounding.
TIE = 1e-5


class Cut(Protocol):
    """A graph of patches that can be bipartitioned again and again."""

    @property
    def device(self) -> torch.device:
        """Where the vectors are."""

    @property
    def uniform(self) -> bool:
        """Whether to stop cutting."""

    def second_eigenvector(self) -> Tensor:
        """[n], of either sign."""

    def exclude(self, patches: Tensor) -> None:
        """Take patches, [n] bool, out of the graph."""


class ReferenceGraph:
    """The graph as CutLER builds and solves it: dense, in float64, on the CPU, from the features anew at every stage.

    Args:
        features: [D, n] float32.
        tau: Threshold.
    """

    def __init__(self, features: Tensor, tau: float) -> None:
        self.tau = tau
        self._features = features

    @property
    def device(self) -> torch.device:
        """The features' device, though the reference solves on the CPU."""
        return self._features.device

    @property
    def uniform(self) -> bool:
        """Never true: the reference cuts even a graph whose edges are all alike, wherever rounding happens to fall."""
        return False

    def exclude(self, patches: Tensor) -> None:
        """Set the features of ``patches`` to zero; the reference's features become float64 by it."""
        self._features = self._features.double() * (~patches)

    def second_eigenvector(self) -> Tensor:
        """[n] float64, on the features' device."""
        unit = F.normalize(self._features, dim=0)
        similar = (unit.T @ unit).cpu().numpy() > self.tau
        affinity = np.where(similar, 1.0, WEAK)
        degrees = np.diag(affinity.sum(axis=1))
        _, vectors = eigh(degrees - affinity, degrees, subset_by_index=[1, 2])
        return torch.from_numpy(vectors[:, 0].copy()).to(self._features.device)


def cosines(features: Tensor) -> Tensor:
    """[D, gh, gw] -> [gh gw, gh gw] float32, for graphs of any τ."""
    unit = F.normalize(features.float().flatten(1), dim=0)
    return unit.T @ unit


def maskcut(features: Tensor, stages: int = 3, tau: float = 0.15, mode: Mode = "fast") -> Tensor:
    """MaskCut on a feature map.

    Args:
        features: [D, gh, gw].
        stages: N, the most masks.
        tau: Cosine above which patches are alike.
        mode: ``reference`` solves as CutLER does; ``fast`` gives the same masks from one cosine matrix and an
            iterative solver, on the features' device. Where all edges are alike, the reference's cut is an accident of
            rounding; ``fast`` stops there, as FOSSIL's Section 3.4 says.

    Returns:
        [stages, gh, gw] bool, see ``cut_masks``.
    """
    if mode == "fast":
        return cut_masks(PatchGraph(cosines(features), tau), _grid(features), stages)
    return cut_masks(ReferenceGraph(features.float().flatten(1), tau), _grid(features), stages)


def cut_masks(graph: Cut, grid: tuple[int, int], stages: int) -> Tensor:
    """Cut a graph ``stages`` times, each time generation over what was found.

    As the reference does: from the second stage on a mask is dropped if its IoU with the mask of the stage before
    exceeds 0.5 or if it covers at most 1 % of the patches. A dropped mask excludes no patch, so that the next stage
    finds it again and, the stage before being empty now, may accept it. At the end masks are made disjoint by taking
    away the earlier ones.

    Args:
        graph: The patches.
        grid: (rows, columns) of patches.
        stages: How often to cut.

    Returns:
        [stages, rows, columns] bool, disjoint; some may be empty, as all are from where a uniform graph stopped it.
    """
    masks = torch.zeros(stages, *grid, dtype=torch.bool, device=graph.device)
    taken = last = torch.zeros(grid, dtype=torch.bool, device=graph.device)
    for stage in range(stages):
        if graph.uniform:
            break
        mask = foreground(graph.second_eigenvector(), grid)
        repeated = (mask & last).sum() > 0.5 * (mask | last).sum()
        if stage > 0 and (repeated or mask.sum() <= 0.01 * mask.numel()):
            mask = torch.zeros_like(mask)
        graph.exclude(mask.flatten())
        masks[stage] = mask & ~taken
        taken, last = taken | mask, mask
    return masks


def foreground(vector: Tensor, grid: tuple[int, int]) -> Tensor:
    """The object in a bipartition: the side with the peak, unless that side holds three of the four corners.

    An eigenvector has no sign of its own, but the reference's result depends on it: patches equal to the mean, the
    corners and the peak are seen differently in v and -v. LAPACK's sign being an accident, the sign is fixed here, for
    both modes: the entry of largest magnitude is positive. So the side with the peak is v > mean(v), and it is
    reversed for its corners alone.

    Args:
        vector: [n], of either sign.
        grid: (rows, columns).

    Returns:
        [rows, columns] bool: the 4-connected component, within the chosen side, of that side's own peak.
    """
    peak = _first_peak(vector.abs())
    vector = torch.where(vector[peak] < 0, -vector, vector)
    side = (vector > vector.mean()).reshape(grid)
    corners = int(side[0, 0]) + int(side[0, -1]) + int(side[-1, 0]) + int(side[-1, -1])
    if corners >= 3 or not side.flatten()[peak]:
        side, vector = ~side, -vector
    return component(side, _first_peak(vector))


def component(mask: Tensor, seed: Tensor) -> Tensor:
    """The 4-connected component of [rows, columns] bool ``mask`` that holds the patch of flat index ``seed``.

    Grown from the seed on the mask's device. If the seed lies outside, all that lies outside is returned, as the
    label 0 of the reference's labelling would be.
    """
    if not mask.flatten()[seed]:
        return ~mask
    within = mask.float()[None, None]
    grown = torch.zeros_like(within)
    grown.view(-1)[seed] = 1
    size = 0.0
    while size < (size := grown.sum().item()):
        # Several steps for each look at the device.
        for _ in range(8):
            sideways = F.max_pool2d(grown, (1, 3), stride=1, padding=(0, 1))
            grown = torch.maximum(sideways, F.max_pool2d(grown, (3, 1), stride=1, padding=(1, 0))) * within
    return grown[0, 0] > 0


def _first_peak(values: Tensor) -> Tensor:
    """Index of the first of the highest values, a scalar tensor."""
    highest = values.max()
    return (values >= highest - TIE * highest.abs()).to(torch.uint8).argmax()


def _grid(features: Tensor) -> tuple[int, int]:
    return int(features.shape[1]), int(features.shape[2])


class MaskCut(Regions):
    """MaskCut's masks of an image, with the settings of CutLER's README and of FOSSIL.

    The image is squashed to a square by Pillow's Lanczos filter as in CutLER, the masks of its patches
    are enlarged to that square (nearest), refined there if a CRF is given, and brought to the image's size by Pillow's
    bicubic filter, as 8-bit images cut at half of their highest value.

    Args:
        backbone: DINO ViT-B/8 (``facebook/dino-vitb8``).
        stages: N, the most masks.
        tau: Cosine above which patches are alike.
        size: Side of the square in pixels, taken to the nearest multiple of the patch size.
        kind: Which features of the last layer.
        mode: See ``maskcut``.
        crf: ``DenseCRF.cutler()``'s parameters give the published post-processing; none leaves masks of whole
            patches. After it masks may overlap, and one that the CRF changes beyond recognition is dropped.
    """

    def __init__(
        self,
        backbone: Dense,
        stages: int = 3,
        tau: float = 0.15,
        size: int = 480,
        kind: Kind = "key",
        mode: Mode = "fast",
        crf: DenseCRF | None = None,
    ) -> None:
        super().__init__()
        if stages < 1 or size < 1:
            raise ConfigurationError("MaskCut: stages and size must be at least 1")
        self.backbone = backbone
        self.stages = stages
        self.tau = tau
        self.size = size
        self.kind = kind
        self.mode: Mode = mode
        self.crf = crf

    @torch.no_grad()
    def masks(self, image: Tensor) -> Tensor:
        """[3, H, W] uint8 RGB -> [M, H, W] bool with M at most ``stages``."""
        square = squash(image, self.size, self.backbone.patch_size)
        features = self.backbone.features(square[None], self.kind).patches[0]
        found = maskcut(features, self.stages, self.tau, self.mode)
        return resize_masks(refine_in_square(found, square, self.crf), image)


def squash(image: Tensor, size: int, patch_size: int) -> Tensor:
    """[3, H, W] uint8 -> [3, s, s] uint8 by Pillow's Lanczos; s, near ``size``, is a whole number of patches."""
    side = max(1, round(size / patch_size)) * patch_size
    return resize(image[None], (side, side), "lanczos")[0].to(image.dtype)


def refine_in_square(masks: Tensor, square: Tensor, crf: DenseCRF | None) -> Tensor:
    """[M, gh, gw] bool masks of patches -> [M', s, s] bool masks of pixels of [3, s, s] uint8, those not empty."""
    pixels = enlarge(masks[masks.flatten(1).any(dim=1)], square)
    if crf is not None:
        for i, mask in enumerate(pixels):
            pixels[i] = refine_proposal(crf, square, mask)
    return pixels[pixels.flatten(1).any(dim=1)]


def enlarge(masks: Tensor, square: Tensor) -> Tensor:
    """[M, gh, gw] bool masks of patches -> [M, s, s] bool, every pixel of [3, s, s] as its patch."""
    # F.interpolate refuses to resize nothing.
    if not len(masks):
        return square.new_zeros(0, *square.shape[1:], dtype=torch.bool)
    return F.interpolate(masks[None].to(torch.uint8), square.shape[1:], mode="nearest")[0].bool()


def resize_masks(masks: Tensor, image: Tensor) -> Tensor:
    """[M, h, w] bool -> [M', H, W] bool at the size of [3, H, W], those not empty, as CutLER's ``maskcut.py`` does.

    There a mask is an image of 0 and 255, resized by Pillow (its default, bicubic), and cut at half of its maximum.
    """
    levels = resize(masks[:, None].to(torch.uint8) * 255, (int(image.shape[1]), int(image.shape[2])))[:, 0]
    resized = levels > levels.amax(dim=(1, 2), keepdim=True) / 2
    return resized[resized.flatten(1).any(dim=1)]


def resize_masks_antialiased(masks: Tensor, image: Tensor, mode: str) -> Tensor:
    """[M, h, w] bool -> [M', H, W] bool at the size of [3, H, W], those not empty; antialiased, cut at one half."""
    if not len(masks):
        return image.new_zeros(0, *image.shape[1:], dtype=torch.bool)
    resized = F.interpolate(masks[None].float(), image.shape[1:], mode=mode, antialias=True)[0] > 0.5
    return resized[resized.flatten(1).any(dim=1)]
