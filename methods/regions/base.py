"""Region proposals: what in an image belongs together, whatever it is."""

from abc import abstractmethod

from torch import Tensor

from harness.method.part import Part


class Regions(Part):
    """A class-agnostic segmenter, Γ in OVDiff's Eq. 1."""

    @abstractmethod
    def masks(self, image: Tensor) -> Tensor:
        """[3, H, W] uint8 RGB -> [M, H, W] bool, on the image's device; none is empty, and M may be 0."""
