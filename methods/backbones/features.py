"""Φ_v: dense features of an image, from whatever frozen model, with all choices made."""

from abc import abstractmethod
from typing import Literal

import torch.nn.functional as F
from torch import Tensor

from harness.method.part import Part
from harness.system.errors import ConfigurationError
from methods.backbones.dense import Dense, Kind
from methods.backbones.pixels import fitted_scale, resize

Interpolation = Literal["bicubic", "bilinear"]


def resized(images: Tensor, size: tuple[int, int], interpolation: Interpolation = "bicubic") -> Tensor:
    """Images at the size at which a model sees them.

    Args:
        images: [B, 3, h, w] uint8.
        size: (height, width) in pixels.
        interpolation: ``bicubic`` is Pillow's, antialiased and rounded to whole values; ``bilinear`` is neither
            antialiased nor rounded, as torchvision resized tensors before its version 0.17 (OVDiff's release).

    Returns:
        [B, 3, height, width] float32 in [0, 255].
    """
    if interpolation == "bicubic" or tuple(images.shape[2:]) == size:
        return resize(images, size)
    return F.interpolate(images.float(), size, mode="bilinear", align_corners=False)


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
        size: Side in pixels to which images and windows are resized first; null shows them as they are.
        fit: ``squash`` makes them ``size`` x ``size``; ``short`` brings the short side to ``size``, or the long side to
            4 x ``size`` if that is less.
        interpolation: How they are resized, see ``resized``.

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
        interpolation: Interpolation = "bicubic",
    ) -> None:
        super().__init__()
        if size is not None and size < 1:
            raise ConfigurationError(f"an extractor's size must be positive, not {size}")
        self.backbone = backbone
        self.kind: Kind = kind
        self.layer = layer
        self.size = size
        self.fit = fit
        self.interpolation: Interpolation = interpolation

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
        return images if (height, width) == target else resized(images, target, self.interpolation)
