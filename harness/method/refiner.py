"""Refiners: parts that make score planes follow an image's edges."""

from abc import abstractmethod
from typing import ClassVar

from torch import Tensor

from harness.method.part import Part


class Refiner(Part):
    """Makes score planes follow the image's edges; each class alone, so that classes can be refined in chunks.

    Attributes:
        takes_floats: Whether an image may be float32 in [0, 255], as a shrunk one is; otherwise it is rounded to uint8.
    """

    takes_floats: ClassVar[bool] = False

    @abstractmethod
    def forward(self, image: Tensor, planes: Tensor) -> Tensor:
        """Refine planes.

        Args:
            image: [3, h, w] uint8 RGB, or float32 in [0, 255] if ``takes_floats``.
            planes: [C, h, w] float32 scores.

        Returns:
            [C, h, w] float32.
        """
