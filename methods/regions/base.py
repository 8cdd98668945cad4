"""Region proposals: what in a picture belongs together, whatever it is."""

from abc import abstractmethod
from typing import Any

from torch import Tensor, nn

from harness.system.sharing import frozen_part


@frozen_part
class Regions(nn.Module):
    """A class-agnostic segmenter, Γ in OVDiff's Eq. 1. The constructor loads nothing; ``load`` does."""

    @abstractmethod
    def load(self) -> None:
        """Build the models.

        Raises:
            ModelError: Weights are not on this machine.
        """

    @abstractmethod
    def settings(self) -> dict[str, Any]:
        """Everything but the weights that determines the masks, as JSON."""

    @abstractmethod
    def masks(self, image: Tensor) -> Tensor:
        """[3, H, W] uint8 RGB -> [M, H, W] bool, on the image's device; none is empty, and M may be 0."""
