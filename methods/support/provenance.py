"""From a prototype back to the region of the support image that it stands for (OVDiff, Section 4.4)."""

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor

from methods.support.prototypes import LEVELS


def support_region(
    prototypes: Mapping[str, Tensor], masks: Mapping[str, Tensor], region: str, index: int
) -> tuple[int, Tensor]:
    """The support image and region in which a prototype shows best.

    An instance prototype comes from one image's mask; a part from all its cells, of which the image with the most is
    shown; a class mean from all masks, of which the largest is shown.

    Args:
        prototypes: An entry of ``PrototypeStage``.
        masks: The entry of ``MaskStage`` that it was made from.
        region: ``foreground`` or ``background``.
        index: Which of the entry's vectors.

    Returns:
        n, the support image, and its region [h, w] bool, at the masks' or the features' size.
    """
    level = LEVELS[int(prototypes[f"{region}.level"][index])]
    if level == "part":
        cells = prototypes[f"{region}.parts"] == index
        image = int(cells.flatten(1).sum(dim=1).argmax())
        return image, cells[image]
    if level == "instance":
        image = int(prototypes[f"{region}.image"][index])
    else:
        image = int(masks[region].flatten(1).sum(dim=1).argmax())
    return image, masks[region][image]


def stretch(region: Tensor, size: tuple[int, int]) -> Tensor:
    """[h, w] bool -> [*size] bool, nearest."""
    return F.interpolate(region[None, None].float(), size, mode="nearest")[0, 0] > 0


def winners(features: Tensor, prototypes: Tensor, region: Tensor) -> list[tuple[int, int]]:
    """Which prototypes decide the features' cells in a region, and how many each.

    Args:
        features: [D, h, w], normalised.
        prototypes: [P, D], normalised.
        region: [H, W] bool, of any size.

    Returns:
        (index, cells won), the most first; ties by index.
    """
    cells = stretch(region, (features.shape[1], features.shape[2]))
    if not len(prototypes) or not cells.any():
        return []
    best = (prototypes @ features[:, cells]).argmax(dim=0)
    counts = torch.bincount(best, minlength=len(prototypes))
    order = counts.argsort(descending=True, stable=True)
    return [(int(index), int(counts[index])) for index in order if counts[index] > 0]
