"""Φ_v: dense features of an image, from whatever frozen model, with all choices made."""

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import torch.nn.functional as F
from torch import Tensor

from harness.method.part import Part
from harness.system.errors import ConfigurationError
from methods.backbones.dense import Dense, Kind
from methods.backbones.pixels import PILLOW, fitted_scale, resize

Interpolation = Literal["bicubic", "bilinear"]


def resized(images: Tensor, size: tuple[int, int], interpolation: Interpolation = "bicubic") -> Tensor:
    """Images at the size at which a model sees them.

    Args:
        images: [B, 3, h, w] uint8.
        size: (height, width) in pixels.
        interpolation: ``bicubic`` is Pillow's, antialiased and rounded to whole values; ``bilinear`` is neither
            antialiased nor rounded, as torchvision resized tensors before its version 0.17 (OVDiff's release).

    Returns:
        [B, 3, height, width] in [0, 255]: uint8 if ``bicubic``, else float32.
    """
    if interpolation == "bicubic":
        return resize(images, size).to(images.dtype)
    return F.interpolate(images.float(), size, mode="bilinear", align_corners=False)


def resizing(interpolation: Interpolation) -> dict[str, Any]:
    """How ``resized`` does it, for the identity of a part: Pillow's way by name, the other by its setting alone."""
    return {"resize": [PILLOW, "bicubic"]} if interpolation == "bicubic" else {}


class FeatureExtractor(Part):
    """Dense features of images."""

    @abstractmethod
    def features(self, images: Tensor) -> Tensor:
        """[B, 3, h, w] uint8 RGB -> [B, D, grid height, grid width] float32; the grid covers exactly the image."""

    def class_features(self, images: Tensor, names: Sequence[str]) -> Tensor:
        """As ``features``, for an extractor that also looks at the classes' names; most do not.

        Args:
            images: [B, 3, h, w] uint8 RGB.
            names: The classes; possibly none.
        """
        return self.features(images)


class DenseFeatures(FeatureExtractor):
    """One kind of features of one layer of a vision transformer.

    Images are resized to whole patches, each side to the nearest: with padding instead, the grid would reach beyond
    the image, and whoever stretches it over the image would shift its cells by up to a patch.

    Args:
        backbone: The frozen model.
        kind: ``key``, ``query``, ``value`` or ``token``.
        layer: Which layer, negative from the end.
        size: Side in pixels to which images and windows are resized first (Pillow's bicubic); null shows them as they
            are. Both are then rounded to whole patches.
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

    def resolved(self) -> Mapping[str, Any]:
        """How images are resized."""
        return resizing(self.interpolation)

    def features(self, images: Tensor) -> Tensor:
        """See ``FeatureExtractor.features``."""
        return self.backbone.features(self._resized(images), self.kind, self.layer).patches

    def _resized(self, images: Tensor) -> Tensor:
        height, width = images.shape[2:]
        target = (self._whole_patches(height), self._whole_patches(width))
        if self.size is not None and self.fit == "squash":
            target = (self._whole_patches(self.size),) * 2
        elif self.size is not None:
            scale = fitted_scale(height, width, self.size)
            target = (self._whole_patches(height * scale), self._whole_patches(width * scale))
        return images if (height, width) == target else resized(images, target, self.interpolation)

    def _whole_patches(self, side: float) -> int:
        """The multiple of the patch size nearest to a side in pixels, at least one patch."""
        patch = self.backbone.patch_size
        return max(1, int(side / patch + 0.5)) * patch
