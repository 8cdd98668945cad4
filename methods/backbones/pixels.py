"""From uint8 images to a model's input."""

import math
from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Literal

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

Filter = Literal["bilinear", "bicubic", "lanczos"]

LONGEST = 4
PRECISION = 22  # bits behind the point of Pillow's weights for 8-bit images
PILLOW = "pillow"  # how images are resized, in the identity of the parts that resize them
IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def resize(images: Tensor, size: tuple[int, int], mode: Filter = "bicubic") -> Tensor:
    """Antialiased resize, equal to Pillow's in every value, on any device.

    A CPU runs Pillow itself. Elsewhere the same two passes of integers run on the device (``two_passes``).

    Args:
        images: [B, C, h, w] uint8.
        size: (height, width) in pixels.
        mode: The filter.

    Returns:
        [B, C, height, width] float32 with whole values in [0, 255].
    """
    if tuple(images.shape[2:]) == size:
        return images.float()
    if images.device.type != "cpu":
        return two_passes(images, size, mode).float()
    width_and_height, resampling = (size[1], size[0]), Image.Resampling[mode.upper()]
    # Pillow's images have one or three channels here; each channel is resized by itself either way.
    layers = images.permute(0, 2, 3, 1) if images.shape[1] == 3 else images.flatten(0, 1)
    resized = [
        np.asarray(Image.fromarray(layer).resize(width_and_height, resampling)) for layer in layers.contiguous().numpy()
    ]
    stacked = torch.from_numpy(np.stack(resized)) if resized else layers.new_empty(0, *size, *layers.shape[3:])
    planes = stacked.permute(0, 3, 1, 2) if images.shape[1] == 3 else stacked.view(*images.shape[:2], *size)
    return planes.to(torch.float32, memory_format=torch.contiguous_format)


def two_passes(images: Tensor, size: tuple[int, int], mode: Filter = "bicubic") -> Tensor:
    """Pillow's resize of 8-bit images (``src/libImaging/Resample.c``): along rows, rounded, then along columns.

    Args:
        images: [B, C, h, w] uint8.
        size: (height, width) in pixels.
        mode: The filter.

    Returns:
        [B, C, height, width] uint8, the same on every device, as all sums are of integers.
    """
    for dim in (3, 2):
        if images.shape[dim] != size[dim - 2]:
            images = _one_pass(images, size[dim - 2], dim, mode)
    return images


def _one_pass(images: Tensor, length: int, dim: int, mode: Filter) -> Tensor:
    """One side of uint8 images to ``length`` pixels."""
    first, weights = _weights(images.shape[dim], length, mode)
    starts = torch.tensor(first, device=images.device)
    taps = torch.tensor(weights, dtype=torch.int32, device=images.device)
    shape = [-1 if axis == dim else 1 for axis in range(4)]
    total = torch.tensor(1 << (PRECISION - 1), dtype=torch.int32, device=images.device)
    for number in range(taps.shape[1]):
        # Weights beyond the last pixel are 0.
        pixels = images.index_select(dim, (starts + number).clamp(max=images.shape[dim] - 1))
        total = total + pixels.int() * taps[:, number].view(shape)
    return (total >> PRECISION).clamp(0, 255).to(torch.uint8)


@lru_cache
def _weights(old: int, new: int, mode: Filter) -> tuple[list[int], list[list[int]]]:
    """For each of the ``new`` pixels of a side: the first of the ``old`` ones that it is made of, and their weights.

    Weights add to 2^22, but for rounding; all rows are filled up with zeros to the same length.
    """
    value, reach = FILTERS[mode]
    scale = old / new
    stretch = max(scale, 1.0)
    support = reach * stretch
    first, weights = [], []
    for number in range(new):
        centre = (number + 0.5) * scale
        begin, end = max(0, int(centre - support + 0.5)), min(old, int(centre + support + 0.5))
        row = [value((place - centre + 0.5) * (1.0 / stretch)) for place in range(begin, end)]
        whole = 0.0
        for weight in row:  # as Pillow adds, where sum() would compensate
            whole += weight
        shares = [weight / whole * (1 << PRECISION) for weight in row]
        first.append(begin)
        weights.append([int(share - 0.5 if share < 0 else share + 0.5) for share in shares])
    longest = max(map(len, weights))
    return first, [row + [0] * (longest - len(row)) for row in weights]


def _bilinear(x: float) -> float:
    return max(0.0, 1.0 - abs(x))


def _bicubic(x: float) -> float:
    """Keys' cubic with a = -0.5."""
    x = abs(x)
    if x < 1:
        return (1.5 * x - 2.5) * x * x + 1
    return (((x - 5) * x + 8) * x - 4) * -0.5 if x < 2 else 0.0


def _lanczos(x: float) -> float:
    """Three lobes."""
    return _sinc(x) * _sinc(x / 3) if -3 <= x < 3 else 0.0


def _sinc(x: float) -> float:
    return math.sin(x * math.pi) / (x * math.pi) if x else 1.0


# Each filter and the distance beyond which it is 0.
FILTERS: dict[Filter, tuple[Callable[[float], float], float]] = {
    "bilinear": (_bilinear, 1.0),
    "bicubic": (_bicubic, 2.0),
    "lanczos": (_lanczos, 3.0),
}


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
