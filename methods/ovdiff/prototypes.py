"""Prototypes of a class from its support set (OVDiff, Section 3.3, Eq. 2 and 3), each with its provenance."""

from collections.abc import Sequence
from typing import Literal, NamedTuple

import torch
import torch.nn.functional as F
from sklearn.cluster import KMeans
from torch import Tensor

Level = Literal["class", "instance", "part"]
LEVELS: tuple[Level, ...] = ("class", "instance", "part")
MaskResize = Literal["any", "half"]


def resize_mask(masks: Tensor, grid: tuple[int, int], rule: MaskResize = "any") -> Tensor:
    """M̂: masks at the features' size.

    Args:
        masks: [N, H, W] bool.
        grid: (height, width) of the features.
        rule: ``any`` keeps a cell with any positive bilinear value, which dilates (OVDiff's release); ``half`` keeps
            cells of at least one half.

    Returns:
        [N, *grid] bool.
    """
    values = F.interpolate(masks[:, None].float(), grid, mode="bilinear", align_corners=False)[:, 0]
    return values > 0 if rule == "any" else values >= 0.5


class Cells(NamedTuple):
    """The masked features of one support image.

    Attributes:
        image: n, its place in the support set.
        values: [cells, D] float32 on the CPU.
        mask: M̂_n, [grid height, grid width] bool on the CPU.
    """

    image: int
    values: Tensor
    mask: Tensor


def masked_cells(image: int, features: Tensor, mask: Tensor, rule: MaskResize = "any") -> Cells | None:
    """The features of support image n under its mask; None where the mask is empty or a feature is not finite.

    Args:
        image: n.
        features: Φ_v(S_n), [D, grid height, grid width].
        mask: M_n^g, [H, W] bool.
        rule: As in ``resize_mask``.
    """
    if not mask.any():
        return None
    small = resize_mask(mask[None], (features.shape[1], features.shape[2]), rule)[0]
    values = features[:, small].T.float().cpu().contiguous()
    return Cells(image, values, small.cpu()) if len(values) and bool(values.isfinite().all()) else None


def prototypes(found: Sequence[Cells], images: int, parts: int) -> dict[str, Tensor]:
    """P^g = {P̄} ∪ {P_n} ∪ {P_k} of one region kind g (Eq. 3).

    Args:
        found: The masked features of the support images that have some.
        images: N, the size of the support set.
        parts: K; fewer when there are fewer masked features.

    Returns:
        ``vectors`` [P, D] float32; ``level`` [P] uint8, index into LEVELS; ``image`` [P] int32, the support image of an
        instance prototype, else -1; ``parts`` [N, grid height, grid width] int16, the prototype of the part that each
        masked cell belongs to, -2 for masked cells without a part, -1 elsewhere. Without any cell, P = 0.
    """
    if not found:
        return _packed([], [], torch.full((images, 1, 1), -1, dtype=torch.int16))
    cells = torch.cat([each.values for each in found])
    vectors, provenance = [cells.mean(dim=0)], [("class", -1)]  # P̄: the size-weighted mean of the P_n
    for each in found:
        vectors.append(each.values.mean(dim=0))  # P_n, Eq. 2
        provenance.append(("instance", each.image))
    assignment = torch.full((images, *found[0].mask.shape), -1, dtype=torch.int16)
    clusters, first = min(parts, len(cells)), len(vectors)
    labels = torch.full((len(cells),), -2, dtype=torch.int16)
    if clusters:
        fitted = KMeans(clusters, random_state=0, n_init="auto").fit(cells.numpy())
        vectors += list(torch.from_numpy(fitted.cluster_centers_).float())  # P_k
        provenance += [("part", -1)] * clusters
        labels = torch.from_numpy(fitted.labels_).to(torch.int16) + first
    for each, part in zip(found, labels.split([len(each.values) for each in found]), strict=True):
        assignment[each.image][each.mask] = part
    return _packed(vectors, provenance, assignment)


def _packed(vectors: list[Tensor], provenance: Sequence[tuple[str, int]], assignment: Tensor) -> dict[str, Tensor]:
    names: list[str] = list(LEVELS)
    return {
        "vectors": torch.stack(vectors) if vectors else torch.zeros(0, 0),
        "level": torch.tensor([names.index(level) for level, _ in provenance], dtype=torch.uint8),
        "image": torch.tensor([image for _, image in provenance], dtype=torch.int32),
        "parts": assignment,
    }
