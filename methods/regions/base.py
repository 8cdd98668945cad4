"""Region proposals: what in an image belongs together, whatever it is."""

from abc import abstractmethod
from collections.abc import Sequence

from torch import Tensor

from harness.method.part import Part


class Regions(Part):
    """A class-agnostic segmenter, Γ in OVDiff's Eq. 1."""

    @abstractmethod
    def masks(self, image: Tensor) -> Tensor:
        """[3, H, W] uint8 RGB -> [M, H, W] bool, on the image's device; none is empty, and M may be 0."""

    def class_masks(self, image: Tensor, names: Sequence[str]) -> Tensor:
        """As ``masks``, for regions that also look at the classes' names; most do not.

        Args:
            image: [3, H, W] uint8 RGB.
            names: The classes; possibly none.
        """
        return self.masks(image)
