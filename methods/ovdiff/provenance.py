"""From a prototype back to the region of the support image that it stands for (OVDiff, Section 4.4)."""

from collections.abc import Mapping

from torch import Tensor

from methods.ovdiff.prototypes import LEVELS


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
