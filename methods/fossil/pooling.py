"""Mean features of regions (FOSSIL, Eq. 4)."""

import torch.nn.functional as F
from torch import Tensor


def pool_regions(features: Tensor, masks: Tensor) -> Tensor:
    """v_R: the mean of the features under each mask, weighted by the mask's value on their grid (Eq. 4).

    Masks reach the grid by bilinear interpolation, as in the paper, and weigh with the fractions that it gives, as in
    FreeDA (aimagelab/freeda, ``freeda.py``), by the same authors; FreeDA aligns corners, here cells cover the image
    evenly. Bilinear interpolation reads a few pixels of a cell: a mask so thin that it misses all of them is weighted
    by the share of each cell that it covers.

    Args:
        features: Φ_v(I), [D, h, w].
        masks: M, [L, H, W] bool, none empty.

    Returns:
        [L, D] float32.
    """
    grid = (features.shape[1], features.shape[2])
    planes = masks[:, None].float()
    weights = F.interpolate(planes, grid, mode="bilinear", align_corners=False)
    missed = ~weights.flatten(1).any(dim=1)
    if missed.any():
        weights[missed] = F.interpolate(planes[missed], grid, mode="area")
    cells = weights.flatten(1)
    return (cells @ features.flatten(1).T.float()) / cells.sum(dim=1, keepdim=True)
