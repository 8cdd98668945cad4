"""Refiners: parts that make score planes follow an image's edges."""

from abc import abstractmethod

from torch import Tensor

from harness.method.part import Part


class Refiner(Part):
    """Makes score planes follow the image's edges; each class alone, so that classes can be refined in chunks."""

    @abstractmethod
    def forward(self, image: Tensor, planes: Tensor) -> Tensor:
        """Refine planes.

        Args:
            image: [3, h, w] uint8 RGB.
            planes: [C, h, w] float32 scores.

        Returns:
            [C, h, w] float32.
        """
