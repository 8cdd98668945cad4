"""The window grid, windows cut from an image, and the score maps that a method gives for them."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

# Score planes held at once, in float32 elements (64 MiB); more classes are stitched chunk by chunk.
PLANE_BUDGET = 2**24


class Box(NamedTuple):
    """A window in pixels of the resized image; bottom and right are exclusive."""

    top: int
    left: int
    bottom: int
    right: int

    @property
    def size(self) -> tuple[int, int]:
        """(height, width) in pixels."""
        return self.bottom - self.top, self.right - self.left


class ScoreMap(NamedTuple):
    """Scores of a batch of windows on a regular grid, at whatever resolution the method has them.

    Attributes:
        scores: [B, C, grid height, grid width], any float dtype.
        extent: What the grid covers, (top, left, bottom, right) in pixels of the window, fractions allowed; it may
            be smaller or larger than the window. None covers exactly the window.
    """

    scores: Tensor
    extent: tuple[float, float, float, float] | None = None


def window_grid(height: int, width: int, window: int | None, stride: int) -> list[Box]:
    """Windows that cover an image, row by row, the last of each row and column shifted back inside.

    The grid of mmsegmentation's ``EncoderDecoder.slide_inference``: a side smaller than the window is seen whole, in
    one smaller window.
    """
    if window is None:
        return [Box(0, 0, height, width)]
    rows = max(height - window + stride - 1, 0) // stride + 1
    columns = max(width - window + stride - 1, 0) // stride + 1
    boxes = []
    for row in range(rows):
        for column in range(columns):
            bottom = min(row * stride + window, height)
            right = min(column * stride + window, width)
            boxes.append(Box(max(bottom - window, 0), max(right - window, 0), bottom, right))
    return boxes


def batches(boxes: Sequence[Box], size: int) -> list[list[Box]]:
    """Consecutive boxes of one height and width, at most ``size`` together."""
    found: list[list[Box]] = []
    for box in boxes:
        if found and found[-1][0].size == box.size and len(found[-1]) < size:
            found[-1].append(box)
        else:
            found.append([box])
    return found


def cut(image: Tensor, boxes: Sequence[Box]) -> Tensor:
    """The windows of an image [3, H, W], all of one size: [B, 3, h, w]."""
    return torch.stack([image[:, box.top : box.bottom, box.left : box.right] for box in boxes])


def class_chunks(classes: int, height: int, width: int, budget: int | None = None) -> list[slice]:
    """Slices of classes whose planes of ``height`` x ``width`` fit ``budget`` elements together, at least one each.

    The budget is ``PLANE_BUDGET`` unless given.
    """
    step = max(1, (PLANE_BUDGET if budget is None else budget) // (height * width))
    return [slice(start, min(start + step, classes)) for start in range(0, classes, step)]
