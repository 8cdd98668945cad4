"""Which prototypes decided a region of an image."""

import torch
import torch.nn.functional as F
from torch import Tensor


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
