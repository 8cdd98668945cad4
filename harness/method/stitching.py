"""From score maps of windows to a label map, without ever holding all classes at full size."""

from collections.abc import Callable, Sequence
from functools import lru_cache, reduce
from operator import add
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from harness.method.windows import Box, ScoreMap, class_chunks

# Scores compared at once on a CPU, in float32 elements (1 MiB).
CACHED = 2**18


class Stitcher:
    """Scores of the windows of one image, stitched and compared class by class.

    Each window's score maps are averaged, then the windows by their count. Where nothing comes between stitching and
    resampling, and all windows have the same coarse grids, both are done by two matrix products.

    Args:
        maps: Per window, its score maps, each with B = 1.
        boxes: Where each window lies.
        size: (height, width) of the image that the windows cover, in pixels.
        visible: (height, width) of the part of it that is no padding.
        target: (height, width) of the label map.
        in_window: Applied to each window's planes [C, h, w] of ``classes`` before they are added.
        on_image: Applied to the stitched, visible planes [C, height, width] of ``classes``.
        floor: Lower scores count as this at the label map's size; null leaves them.
    """

    def __init__(
        self,
        maps: Sequence[Sequence[ScoreMap]],
        boxes: Sequence[Box],
        size: tuple[int, int],
        visible: tuple[int, int],
        target: tuple[int, int],
        in_window: Callable[[Tensor, Box, slice], Tensor] | None = None,
        on_image: Callable[[Tensor, slice], Tensor] | None = None,
        floor: float | None = None,
    ) -> None:
        self._maps, self._boxes = maps, boxes
        self._size, self._visible, self._target = size, visible, target
        self._in_window, self._on_image = in_window, on_image
        self._floor = floor
        self._separable = in_window is None and on_image is None and separable(maps, boxes)

    def labels(self, first_class: int = 0, constant: float | Tensor | None = None) -> Tensor:
        """The class of the highest score at each pixel; of equal scores the first class wins.

        Args:
            first_class: The class index of the score maps' first plane.
            constant: The score of class 0 everywhere, or its plane [1, *target], where the score maps do not have it;
                null compares their classes alone.

        Returns:
            [*target] uint8.
        """
        scores = self._maps[0][0].scores
        argmax = RunningArgmax()
        if isinstance(constant, Tensor):
            argmax.update(constant, 0)
        elif constant is not None:
            plane = torch.full((1, *self._target), constant, device=scores.device, dtype=torch.float32)
            argmax.update(self._floored(plane), 0)
        height, width = (max(sides) for sides in zip(self._size, self._target, strict=True))
        for chunk in class_chunks(scores.shape[1], height, width):
            classes = slice(chunk.start + first_class, chunk.stop + first_class)
            argmax.update(self.planes(chunk, classes), classes.start)
        return argmax.labels

    def planes(self, chunk: slice, classes: slice) -> Tensor:
        """[C, *target] float32 of the planes ``chunk`` of the score maps, which are the classes ``classes``."""
        if self._separable:
            planes = stitch_separable(self._maps, self._boxes, chunk, self._size, self._visible, self._target)
            return self._floored(planes)
        refine = self._in_window
        in_window = None if refine is None else lambda planes, box: refine(planes, box, classes)
        planes = stitch(self._maps, self._boxes, chunk, self._size, in_window)
        planes = planes[:, : self._visible[0], : self._visible[1]]
        if self._on_image is not None:
            planes = self._on_image(planes, classes)
        if tuple(planes.shape[1:]) != self._target:
            planes = F.interpolate(planes[None], self._target, mode="bilinear", align_corners=False)[0]
        return self._floored(planes)

    def _floored(self, planes: Tensor) -> Tensor:
        return planes if self._floor is None else planes.clamp(min=self._floor)


def _bilinear(length: int, cells: int, start: float, end: float) -> Tensor:
    """[length, cells] float64 weights from ``cells`` cell centres, evenly covering [start, end], to pixel centres.

    Pixels beyond the outermost centres take the outermost value.
    """
    pixels = torch.arange(length, dtype=torch.float64) + 0.5
    position = ((pixels - start) / (end - start) * cells - 0.5).clamp(0, cells - 1)
    lower = position.floor().long().clamp(max=max(cells - 2, 0))
    weight = position - lower
    matrix = torch.zeros(length, cells, dtype=torch.float64)
    matrix.scatter_(1, lower[:, None], (1 - weight)[:, None])
    if cells > 1:
        matrix.scatter_(1, lower[:, None] + 1, weight[:, None])
    return matrix


@lru_cache(maxsize=256)
def _interpolation(length: int, cells: int, start: float, end: float, device: torch.device) -> Tensor:
    """``_bilinear`` as float32 on a device."""
    return _bilinear(length, cells, start, end).float().to(device)


def upsample(scores: Tensor, size: tuple[int, int], extent: tuple[float, float, float, float] | None = None) -> Tensor:
    """Bilinear resampling of grid scores to pixels (align_corners false).

    Args:
        scores: [C, grid height, grid width] float32.
        size: (height, width) of the window in pixels.
        extent: As in ``ScoreMap``.

    Returns:
        [C, height, width] float32; ``scores`` itself if there is nothing to do.
    """
    if extent is None and tuple(scores.shape[1:]) == size:
        return scores
    top, left, bottom, right = extent or (0.0, 0.0, *map(float, size))
    rows = _interpolation(size[0], scores.shape[1], top, bottom, scores.device)
    columns = _interpolation(size[1], scores.shape[2], left, right, scores.device)
    # Two small products take a fifth of the time of F.interpolate on a CPU.
    return rows @ scores @ columns.T


def stitch(
    maps: Sequence[Sequence[ScoreMap]],
    boxes: Sequence[Box],
    classes: slice,
    size: tuple[int, int],
    refine: Callable[[Tensor, Box], Tensor] | None = None,
) -> Tensor:
    """Scores of some classes over the whole image: each window's maps averaged, then windows averaged by their count.

    Args:
        maps: Per window, its score maps, each with B = 1.
        boxes: Where each window lies.
        classes: Which classes to stitch.
        size: (height, width) of the resized image.
        refine: Applied to each window's planes [C, h, w] before they are added.

    Returns:
        [C, height, width] float32.
    """
    first = maps[0][0].scores
    planes = torch.zeros(classes.stop - classes.start, *size, device=first.device, dtype=torch.float32)
    count = torch.zeros(size, device=first.device, dtype=torch.float32)
    for window_maps, box in zip(maps, boxes, strict=True):
        window = upsample(window_maps[0].scores[0, classes].float(), box.size, window_maps[0].extent)
        for each in window_maps[1:]:
            # Not in place: a map that has the window's size already is not copied.
            window = window + upsample(each.scores[0, classes].float(), box.size, each.extent)
        if len(window_maps) > 1:
            window = window / len(window_maps)
        if refine is not None:
            window = refine(window, box)
        planes[:, box.top : box.bottom, box.left : box.right] += window
        count[box.top : box.bottom, box.left : box.right] += 1
    return planes.div_(count)


class Axis(NamedTuple):
    """One direction of an image and its windows, in pixels of the resized image.

    Attributes:
        length: Of the image that the windows cover.
        seen: Of it, how much is no padding.
        target: Pixels that the seen part is resampled to.
        starts: Of the windows.
        window: Their length.
    """

    length: int
    seen: int
    target: int
    starts: tuple[int, ...]
    window: int


@lru_cache(maxsize=256)
def _stitching(axis: Axis, cells: int, start: float, end: float, device: torch.device) -> Tensor:
    """[target, windows * cells] float32: what each cell of the windows along an axis gives to a pixel of the result."""
    weights = torch.zeros(axis.length, len(axis.starts), cells, dtype=torch.float64)
    count = torch.zeros(axis.length, 1, 1, dtype=torch.float64)
    for number, first in enumerate(axis.starts):
        weights[first : first + axis.window, number] = _bilinear(axis.window, cells, start, end)
        count[first : first + axis.window] += 1
    stitched = (weights / count)[: axis.seen].flatten(1)
    if axis.target != axis.seen:
        stitched = _bilinear(axis.target, axis.seen, 0, axis.target) @ stitched
    return stitched.float().to(device)


def _rows_and_columns(boxes: Sequence[Box]) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Where rows and columns of windows begin."""
    return tuple(sorted({box.top for box in boxes})), tuple(sorted({box.left for box in boxes}))


def separable(maps: Sequence[Sequence[ScoreMap]], boxes: Sequence[Box]) -> bool:
    """Whether ``stitch_separable`` serves: windows in rows and columns, all with the same coarse grids.

    Scores of (nearly) every pixel are stitched sooner by adding them.
    """
    tops, lefts = _rows_and_columns(boxes)
    height, width = boxes[0].size
    if list(boxes) != [Box(top, left, top + height, left + width) for top in tops for left in lefts]:
        return False
    grids = {tuple((each.scores.shape[2:], each.extent) for each in window) for window in maps}
    return len(grids) == 1 and all(2 * h <= height and 2 * w <= width for (h, w), _ in next(iter(grids)))


def stitch_separable(
    maps: Sequence[Sequence[ScoreMap]],
    boxes: Sequence[Box],
    classes: slice,
    size: tuple[int, int],
    seen: tuple[int, int],
    target: tuple[int, int],
) -> Tensor:
    """``stitch``, cropped to ``seen`` and resampled bilinearly to ``target``, by two products per score map.

    All of it is linear in the scores, and rows are treated alike, as are columns. Equal up to rounding.

    Args:
        maps: As for ``stitch``; ``separable``.
        boxes: Where each window lies.
        classes: Which classes to stitch.
        size: (height, width) of the resized image.
        seen: (height, width) of the part of the resized image that is no padding.
        target: (height, width) of the result.

    Returns:
        [C, *target] float32.
    """
    tops, lefts = _rows_and_columns(boxes)
    height, width = boxes[0].size
    down = Axis(size[0], seen[0], target[0], tops, height)
    across = Axis(size[1], seen[1], target[1], lefts, width)

    def resampled(number: int) -> Tensor:
        scores, extent = maps[0][number]
        top, left, bottom, right = extent or (0.0, 0.0, float(height), float(width))
        rows = _stitching(down, scores.shape[2], top, bottom, scores.device)
        columns = _stitching(across, scores.shape[3], left, right, scores.device)
        grid = torch.stack([window[number].scores[0, classes].float() for window in maps])
        # [windows down, windows across, C, h, w] -> [C, windows down * h, windows across * w]
        grid = grid.unflatten(0, (len(tops), len(lefts))).permute(2, 0, 3, 1, 4).flatten(3, 4).flatten(1, 2)
        return rows @ (grid @ columns.T)

    count = len(maps[0])
    planes = reduce(add, map(resampled, range(count)))
    return planes / count if count > 1 else planes


def first_highest(planes: Tensor) -> tuple[Tensor, Tensor]:
    """What ``planes.max(dim=0)`` gives, sooner on a CPU, where that is what costs most after a method's own work.

    Args:
        planes: [C, H, W] float32 without NaN.

    Returns:
        The highest score and the first class that has it, [H, W] each; classes as float32 on a CPU.
    """
    if planes.device.type != "cpu":
        highest = planes.max(dim=0)
        return highest.values, highest.indices
    classes, pixels = len(planes), planes.flatten(1)
    numbers = torch.arange(classes, dtype=planes.dtype)[:, None]
    best, labels = [], []
    # Few enough pixels at once that everything stays in the processor's cache.
    for some in pixels.split(max(1, CACHED // classes), dim=1):
        best.append(some.amax(dim=0))
        lower = torch.lt(some, best[-1], out=torch.empty_like(some))
        labels.append(lower.mul_(classes).add_(numbers).amin(dim=0))
    return torch.cat(best).view(planes.shape[1:]), torch.cat(labels).view(planes.shape[1:])


def resize_labels(labels: Tensor, size: tuple[int, int]) -> Tensor:
    """A label map [h, w] at another size, as OpenCV's ``INTER_NEAREST``: pixel x takes floor(x / (new / old)).

    torch's own mode of that name reckons in float32 and takes the neighbour in some columns.
    """
    rows, columns = (
        (torch.arange(new, dtype=torch.float64) * (1 / (new / old))).floor().long().clamp(max=old - 1)
        for new, old in zip(size, labels.shape, strict=True)
    )
    return labels[rows.to(labels.device)[:, None], columns.to(labels.device)]


class RunningArgmax:
    """The argmax over classes, fed with chunks of planes in ascending class order; of equal scores the first wins."""

    def __init__(self) -> None:
        self._best: Tensor | None = None
        self._labels: Tensor | None = None

    def update(self, planes: Tensor, first_class: int) -> None:
        """Compare [C, H, W] planes of classes ``first_class``, ``first_class + 1``, ... with the best so far."""
        best, labels = first_highest(planes)
        labels = (labels + first_class).to(torch.uint8)
        if self._best is None or self._labels is None:
            self._best, self._labels = best, labels
            return
        better = best > self._best
        self._best = torch.where(better, best, self._best)
        self._labels = torch.where(better, labels, self._labels)

    @property
    def labels(self) -> Tensor:
        """[H, W] uint8 class indices.

        Raises:
            RuntimeError: Nothing was compared yet.
        """
        if self._labels is None:
            raise RuntimeError("the argmax of no planes was asked for")
        return self._labels
