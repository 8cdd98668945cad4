"""From uint8 images to a model's input."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

LONGEST = 4
IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def resize(images: Tensor, size: tuple[int, int], mode: str = "bicubic") -> Tensor:
    """Antialiased resize as Pillow's, without leaving the device.

    Args:
        images: [B, 3, h, w] uint8.
        size: (height, width) in pixels.
        mode: ``bicubic`` or ``bilinear``.

    Returns:
        [B, 3, height, width] float32 in [0, 255], rounded to whole values as an 8-bit image would be.
    """
    pixels = images.float()
    if tuple(images.shape[2:]) == size:
        return pixels
    return F.interpolate(pixels, size, mode=mode, align_corners=False, antialias=True).round_().clamp_(0, 255)


def fitted_scale(height: int, width: int, side: int) -> float:
    """What brings an image's short side to ``side`` pixels, or its long side to 4 x ``side`` if that is less.

    Without the bound a line of pixels would be seen thousands of pixels long.
    """
    return min(side / min(height, width), LONGEST * side / max(height, width))


def normalise(pixels: Tensor, mean: Sequence[float], std: Sequence[float]) -> Tensor:
    """[B, 3, h, w] in [0, 255] -> float32, (x / 255 - mean) / std per channel."""
    shift = torch.tensor(mean, device=pixels.device, dtype=torch.float32)[:, None, None]
    scale = torch.tensor(std, device=pixels.device, dtype=torch.float32)[:, None, None]
    return (pixels.float() / 255 - shift) / scale


def pad_to_multiple(pixels: Tensor, multiple: int) -> Tensor:
    """Zero-pad [B, C, h, w] at the bottom and right until both sides are multiples of ``multiple`` pixels."""
    return F.pad(pixels, (0, -pixels.shape[3] % multiple, 0, -pixels.shape[2] % multiple))
