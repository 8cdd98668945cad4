"""Φ_v: dense features of an image, from whatever frozen model, with all choices made."""

from abc import abstractmethod
from collections.abc import Mapping
from typing import Any, Literal

from torch import Tensor

from harness.method.part import Part
from harness.system.errors import ConfigurationError
from methods.backbones.dense import Dense, Kind
from methods.backbones.pixels import PILLOW, fitted_scale, resize


class FeatureExtractor(Part):
    """Dense features of images."""

    @abstractmethod
    def features(self, images: Tensor) -> Tensor:
        """[B, 3, h, w] uint8 RGB -> [B, D, grid height, grid width] float32; the grid covers the whole image."""


class DenseFeatures(FeatureExtractor):
    """One kind of features of one layer of a vision transformer.

    Args:
        backbone: The frozen model.
        kind: ``key``, ``query``, ``value`` or ``token``.
        layer: Which layer, negative from the end.
        size: Side in pixels to which images and windows are resized first (Pillow's bicubic); null shows them as they
            are.
        fit: ``squash`` makes them ``size`` x ``size``; ``short`` brings the short side to ``size``, or the long side to
            4 x ``size`` if that is less.

    Raises:
        ConfigurationError: The size is not positive.
    """

    def __init__(
        self,
        backbone: Dense,
        kind: Kind = "token",
        layer: int = -1,
        size: int | None = None,
        fit: Literal["squash", "short"] = "squash",
    ) -> None:
        super().__init__()
        if size is not None and size < 1:
            raise ConfigurationError(f"an extractor's size must be positive, not {size}")
        self.backbone = backbone
        self.kind: Kind = kind
        self.layer = layer
        self.size = size
        self.fit = fit

    def resolved(self) -> Mapping[str, Any]:
        """How images are resized, if they are."""
        return {} if self.size is None else {"resize": [PILLOW, "bicubic"]}

    def features(self, images: Tensor) -> Tensor:
        """See ``FeatureExtractor.features``."""
        return self.backbone.features(self._resized(images), self.kind, self.layer).patches

    def _resized(self, images: Tensor) -> Tensor:
        if self.size is None:
            return images
        height, width = images.shape[2:]
        target = (self.size, self.size)
        if self.fit == "short":
            scale = fitted_scale(height, width, self.size)
            target = (max(1, round(height * scale)), max(1, round(width * scale)))
        return images if (height, width) == target else resize(images, target).to(images.dtype)
