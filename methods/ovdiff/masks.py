"""Foreground and background of generated images, from attribution maps with or without class-agnostic masks."""

from collections.abc import Sequence
from typing import Literal, NamedTuple

import torch
import torch.nn.functional as F
from skimage.filters import threshold_multiotsu
from torch import Tensor

# Of OVDiff's release (karazijal/sdov, sample_support_set.py), for maps in [0, 1].
FALLBACK = (0.2, 0.5)
ReleaseRule = Literal["overlaps", "cut", "erosion"]
RULES: tuple[ReleaseRule, ...] = ("overlaps", "cut", "erosion")


class Masks(NamedTuple):
    """Foreground and background; what is in neither is left open.

    Attributes:
        foreground: bool, of the heat maps' shape.
        background: bool, of the same shape.
    """

    foreground: Tensor
    background: Tensor


def otsu_thresholds(maps: Tensor) -> tuple[float, float]:
    """Multi-Otsu's two thresholds over all attribution maps of a class jointly (karazijal/sdov).

    Args:
        maps: [N, h, w] in [0, 1].

    Returns:
        (lower, upper): background is below the first, foreground above the second. 0.2 and 0.5 where the maps have
        too few values to be divided in three.
    """
    try:
        lower, upper = threshold_multiotsu(maps.float().flatten().cpu().numpy(), classes=3)
    except ValueError:
        return FALLBACK
    return float(lower), float(upper)


def threshold_masks(maps: Tensor, thresholds: tuple[float, float]) -> Masks:
    """Foreground above the upper and background below the lower threshold.

    Args:
        maps: [..., h, w].
        thresholds: (lower, upper), as from ``otsu_thresholds``.
    """
    return Masks(maps > thresholds[1], maps < thresholds[0])


def with_complement(instances: Tensor) -> Tensor:
    """Instance masks [M, H, W] bool, preceded by a mask of all that is in none of them: [M + 1, H, W]."""
    return torch.cat([~instances.any(dim=0, keepdim=True), instances])


def select_masks(
    masks: Tensor, heat: Tensor, resolve_overlaps: bool = False, cut: float | None = None, erode: bool = False
) -> Masks:
    """The promptable segmenter (OVDiff Eq. 1): of all masks, the hottest is foreground and the coldest background.

    Empty masks do not count. The options are off in the paper and all on in the release with a cut of 0.2
    (karazijal/sdov). See ``choose_masks`` for images without an instance.

    Args:
        masks: [M, H, W] bool, class-agnostic and the background's complement among them (``with_complement``).
        heat: [H, W] in [0, 1], the class's attribution.
        resolve_overlaps: Give every pixel to the hottest mask that covers it; the background is then the coldest mask
            that has pixels left.
        cut: The background is cooler than this.
        erode: Take the background's outermost pixels away, but not those at the image's border (``erosion``).

    Returns:
        Two masks [H, W]. With fewer than two masks there is no background, and with none no foreground.
    """
    flat = masks.flatten(1)
    masks = masks[flat.any(dim=1)]
    nothing = torch.zeros_like(heat, dtype=torch.bool)
    if not len(masks):
        return Masks(nothing, nothing)
    areas = masks.flatten(1).float()
    means = areas @ heat.flatten().float() / areas.sum(dim=1)  # M^T A / M^T M
    masks = masks[means.argsort(descending=True, stable=True)]
    if resolve_overlaps:
        taken = masks.cumsum(dim=0) - masks.long()
        masks = masks & (taken == 0)
        masks = masks[masks.flatten(1).any(dim=1)]
    background = masks[-1] if len(masks) > 1 else nothing
    if cut is not None:
        background = background & (heat < cut)
    return Masks(masks[0], erosion(background) if erode else background)


class MaskRules(NamedTuple):
    """What comes on top of Eq. 1: nothing in the paper, all of it in the release.

    Attributes:
        resolve_overlaps: As in ``select_masks``.
        cut: As in ``select_masks``.
        erode: As in ``select_masks``.
    """

    resolve_overlaps: bool = False
    cut: float | None = None
    erode: bool = False

    @classmethod
    def of_release(cls, chosen: bool | Sequence[ReleaseRule]) -> "MaskRules":
        """All of the release's rules, none, or those that are named; the cut is at 0.2."""
        names: Sequence[str] = (
            (("overlaps", "cut", "erosion") if chosen else ()) if isinstance(chosen, bool) else chosen
        )
        return cls("overlaps" in names, FALLBACK[0] if "cut" in names else None, "erosion" in names)


PAPER_RULES = MaskRules()
RELEASE_RULES = MaskRules.of_release(True)


def choose_masks(instances: Tensor, heat: Tensor, rules: MaskRules = RELEASE_RULES) -> Masks:
    """Foreground and background of one image from a segmenter's instances.

    Without any instance the only mask is the background's, which by Eq. 1 would be foreground and background both:
    the paper does not say what happens then, and heat above 0.5 and below 0.2 is taken, as in the release.

    Args:
        instances: [M, H, W] bool, M may be 0.
        heat: [H, W] in [0, 1].
        rules: What comes on top of Eq. 1.
    """
    if not instances.flatten(1).any():
        return threshold_masks(heat, FALLBACK)
    return select_masks(with_complement(instances), heat, *rules)


def release_masks(instances: Tensor, heat: Tensor, cut: float = FALLBACK[0]) -> Masks:
    """``choose_masks`` by all rules of OVDiff's release (karazijal/sdov, ``sample_support_set.py``)."""
    return choose_masks(instances, heat, RELEASE_RULES._replace(cut=cut))


def erosion(mask: Tensor) -> Tensor:
    """[H, W] bool without the pixels of which one of the four neighbours is in the image but not in the mask.

    What is beyond the image takes nothing away, as in skimage's ``binary_erosion``, which the release uses.
    """
    padded = F.pad(mask, (1, 1, 1, 1), value=True)
    return mask & padded[:-2, 1:-1] & padded[2:, 1:-1] & padded[1:-1, :-2] & padded[1:-1, 2:]
