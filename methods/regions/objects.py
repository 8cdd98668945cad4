"""Class-agnostic masks from objectness: every connected salient part is a mask."""

import torch
from torch import Tensor

from harness.system.errors import ConfigurationError
from methods.regions.base import Regions
from methods.regions.found import Saliency
from methods.regions.opencut import components


class SalientObjects(Regions):
    """The 4-connected components of what a saliency calls an object.

    A light Γ for OVDiff's Eq. 1 where CutLER's detector is not at hand; not in the paper.

    Args:
        saliency: Such as FOUND.
        threshold: Objectness above which a pixel is salient, in [0, 1).
        min_area: Components of fewer pixels are dropped.

    Raises:
        ConfigurationError: A setting is out of range.
    """

    def __init__(self, saliency: Saliency, threshold: float = 0.5, min_area: int = 16) -> None:
        super().__init__()
        if not 0 <= threshold < 1 or min_area < 1:
            raise ConfigurationError("SalientObjects: threshold must lie in [0, 1), min_area be at least 1")
        self.saliency = saliency
        self.threshold = threshold
        self.min_area = min_area

    @torch.no_grad()
    def masks(self, image: Tensor) -> Tensor:
        """See ``Regions.masks``; the masks are mutually exclusive."""
        return components(self.saliency(image) > self.threshold, self.min_area)
