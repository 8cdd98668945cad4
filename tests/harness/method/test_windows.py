"""The window grid and its stitching: what mmsegmentation does, and never all classes at full size."""

from types import SimpleNamespace

import cv2
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from harness.method import stitching, windows
from harness.method.stitching import RunningArgmax, resize_labels, separable, stitch, stitch_separable, upsample
from harness.method.windows import (
    Box,
    ScoreMap,
    class_chunks,
    window_grid,
)

CLASSES = 4


class Slider:
    """What ``EncoderDecoder.slide_inference`` asks of its model: a network whose output depends on the crop alone."""

    def __init__(self, window: int, stride: int) -> None:
        self.test_cfg = SimpleNamespace(stride=(stride, stride), crop_size=(window, window))
        self.out_channels = CLASSES
        self.weight = torch.randn(CLASSES, 3, 3, 3, generator=torch.Generator().manual_seed(0))
        self.crops: list[tuple[int, int]] = []

    def grid(self, crop: Tensor) -> Tensor:
        """Scores [B, C, ., .] at a quarter of the crop's size; a padded convolution, so windows differ at borders."""
        return F.avg_pool2d(F.conv2d(crop, self.weight, padding=1), 4, ceil_mode=True)

    def encode_decode(self, crop: Tensor, metas: list[dict]) -> Tensor:
        self.crops.append(tuple(crop.shape[2:]))
        return F.interpolate(self.grid(crop), crop.shape[2:], mode="bilinear", align_corners=False)


@pytest.mark.parametrize(
    ("height", "width", "window", "stride"),
    [
        (40, 64, 32, 16),
        (41, 67, 32, 16),
        (33, 33, 32, 16),
        (32, 32, 32, 16),
        (20, 70, 32, 16),
        (70, 20, 32, 16),
        (20, 20, 32, 16),
        (50, 90, 32, 32),
        (50, 90, 32, 23),
        (97, 31, 30, 7),
    ],
)
def test_grid_and_stitching_are_those_of_mmsegmentation(height: int, width: int, window: int, stride: int) -> None:
    from mmseg.models.segmentors import EncoderDecoder

    image = torch.rand(3, height, width, generator=torch.Generator().manual_seed(height * width))
    slider = Slider(window, stride)
    expected = EncoderDecoder.slide_inference(slider, image[None], [{}])[0]
    boxes = window_grid(height, width, window, stride)
    assert [box.size for box in boxes] == slider.crops
    maps = [[ScoreMap(slider.grid(image[None, :, b.top : b.bottom, b.left : b.right]))] for b in boxes]
    stitched = stitch(maps, boxes, slice(0, CLASSES), (height, width))
    torch.testing.assert_close(stitched, expected, atol=1e-5, rtol=0)
    assert separable(maps, boxes)
    at_once = stitch_separable(maps, boxes, slice(0, CLASSES), *[(height, width)] * 3)
    torch.testing.assert_close(at_once, expected, atol=1e-5, rtol=0)


def coarse(
    boxes: list[Box], *maps: tuple[tuple[int, int], tuple[float, float, float, float] | None]
) -> list[list[ScoreMap]]:
    generator = torch.Generator().manual_seed(5)
    return [[ScoreMap(torch.randn(1, 4, *grid, generator=generator), extent) for grid, extent in maps] for _ in boxes]


@pytest.mark.parametrize("target", [(40, 70), (53, 100), (31, 33), (1, 1), (80, 140)])
@pytest.mark.parametrize(("seen", "window", "stride"), [((40, 70), 24, 10), ((24, 70), 24, 24), ((37, 61), 40, 7)])
def test_stitching_and_resampling_at_once_is_one_after_the_other(
    target: tuple[int, int], seen: tuple[int, int], window: int, stride: int
) -> None:
    size = (max(seen[0], window), max(seen[1], window))
    boxes = window_grid(*size, window, stride)
    maps = coarse(boxes, ((5, 7), None), ((3, 2), (2, -3, 20, 30)), ((1, 1), None))
    some = slice(1, 4)
    planes = stitch(maps, boxes, some, size)[:, : seen[0], : seen[1]]
    expected = F.interpolate(planes[None], target, mode="bilinear", align_corners=False)[0]
    assert separable(maps, boxes)
    torch.testing.assert_close(stitch_separable(maps, boxes, some, size, seen, target), expected, atol=1e-5, rtol=1e-5)


def test_what_cannot_be_stitched_at_once() -> None:
    boxes = window_grid(40, 70, 24, 10)
    assert separable(coarse(boxes, ((12, 12), None)), boxes)
    assert not separable(coarse(boxes, ((13, 12), None)), boxes)
    assert not separable(coarse(boxes, ((2, 2), None), ((12, 13), None)), boxes)
    assert not separable([*coarse(boxes[:-1], ((2, 2), None)), *coarse(boxes[-1:], ((2, 2), (0, 0, 9, 9)))], boxes)
    assert not separable(coarse(boxes, ((2, 2), None)), [*boxes[1:], boxes[0]])
    assert not separable(coarse(boxes[1:], ((2, 2), None)), boxes[1:])
    assert not separable(coarse(boxes, ((2, 2), None)), [*boxes[:-1], Box(0, 0, 8, 8)])


@given(st.integers(1, 200), st.integers(1, 200), st.integers(1, 64), st.data())
@settings(max_examples=200, deadline=None)
def test_windows_cover_every_pixel_and_stay_inside(height: int, width: int, window: int, data: st.DataObject) -> None:
    stride = data.draw(st.integers(max(1, window // 4), window))
    covered = torch.zeros(height, width, dtype=torch.bool)
    boxes = window_grid(height, width, window, stride)
    for box in boxes:
        assert 0 <= box.top < box.bottom <= height
        assert 0 <= box.left < box.right <= width
        assert box.size == (min(window, height), min(window, width))
        covered[box.top : box.bottom, box.left : box.right] = True
    assert covered.all()
    assert len(set(boxes)) == len(boxes)


def test_without_a_window_the_image_is_seen_whole() -> None:
    assert window_grid(123, 45, None, 16) == [Box(0, 0, 123, 45)]


def test_overlaps_are_weighted_by_the_number_of_windows_not_by_order() -> None:
    boxes = [Box(0, 0, 2, 4), Box(0, 2, 2, 6), Box(0, 3, 2, 7)]
    maps = [[ScoreMap(torch.full((1, 1, 1, 1), float(value)))] for value in (1, 4, 10)]
    row = stitch(maps, boxes, slice(0, 1), (2, 7))[0, 0]
    torch.testing.assert_close(row, torch.tensor([1.0, 1.0, 2.5, 5.0, 7.0, 7.0, 10.0]))


def test_the_maps_of_a_window_are_averaged_at_its_own_resolution() -> None:
    maps = [[ScoreMap(torch.full((1, 1, 2, 2), 1.0)), ScoreMap(torch.full((1, 1, 5, 3), 2.0, dtype=torch.bfloat16))]]
    planes = stitch(maps, [Box(0, 0, 8, 8)], slice(0, 1), (8, 8))
    torch.testing.assert_close(planes, torch.full((1, 8, 8), 1.5))


@pytest.mark.parametrize(
    ("grid", "size"), [((7, 5), (31, 64)), ((1, 1), (9, 4)), ((1, 6), (5, 30)), ((12, 9), (12, 9))]
)
def test_an_extent_of_the_whole_window_is_plain_bilinear_upsampling(
    grid: tuple[int, int], size: tuple[int, int]
) -> None:
    scores = torch.randn(3, *grid, generator=torch.Generator().manual_seed(1))
    expected = F.interpolate(scores[None], size, mode="bilinear", align_corners=False)[0]
    torch.testing.assert_close(upsample(scores, size), expected)
    torch.testing.assert_close(upsample(scores, size, (0, 0, *size)), expected, atol=1e-5, rtol=1e-5)


def test_an_extent_smaller_than_the_window_is_resampled_there_and_held_at_its_border() -> None:
    scores = torch.randn(2, 4, 4, generator=torch.Generator().manual_seed(2))
    planes = upsample(scores, (24, 32), (4, 8, 20, 24))
    inside = F.interpolate(scores[None], (16, 16), mode="bilinear", align_corners=False)[0]
    torch.testing.assert_close(planes[:, 4:20, 8:24], inside, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(planes[:, 0, 8:24], inside[:, 0], atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(planes[:, 4:20, 31], inside[:, :, -1], atol=1e-5, rtol=1e-5)


def test_an_extent_larger_than_the_window_is_cropped() -> None:
    scores = torch.randn(2, 6, 6, generator=torch.Generator().manual_seed(3))
    whole = F.interpolate(scores[None], (24, 24), mode="bilinear", align_corners=False)[0]
    planes = upsample(scores, (16, 20), (-4, -2, 20, 22))
    torch.testing.assert_close(planes, whole[:, 4:20, 2:22], atol=1e-5, rtol=1e-5)


@given(st.integers(1, 255), st.integers(1, 50), st.integers(1, 50), st.integers(1, 20000))
@settings(max_examples=100, deadline=None)
def test_chunks_hold_every_class_once_within_the_budget(classes: int, height: int, width: int, budget: int) -> None:
    chunks = class_chunks(classes, height, width, budget)
    assert [index for chunk in chunks for index in range(classes)[chunk]] == list(range(classes))
    most = max(chunk.stop - chunk.start for chunk in chunks)
    assert most == 1 or most * height * width <= budget


def test_the_budget_can_be_changed_for_all(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(windows, "PLANE_BUDGET", 200)
    assert len(class_chunks(5, 10, 10)) == 3


@pytest.mark.parametrize("step", [1, 2, 3, 7])
def test_the_argmax_in_chunks_is_that_of_all_classes(step: int) -> None:
    generator = torch.Generator().manual_seed(4)
    # Whole numbers, so that many pixels have ties.
    planes = torch.randint(0, 4, (7, 40, 30), generator=generator).float()
    running = RunningArgmax()
    for start in range(0, 7, step):
        running.update(planes[start : start + step], start)
    first = torch.tensor([(column == column.max()).nonzero()[0].item() for column in planes.flatten(1).T])
    assert running.labels.dtype == torch.uint8
    assert torch.equal(running.labels.flatten().long(), first)


def test_the_argmax_of_nothing_is_an_error() -> None:
    with pytest.raises(RuntimeError, match="no planes"):
        RunningArgmax().labels  # noqa: B018


@pytest.mark.parametrize("cached", [1, 40, 2**18])
def test_the_first_of_equal_classes_is_highest(cached: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stitching, "CACHED", cached)
    # Few different scores, so that many are equal.
    planes = torch.randint(-3, 3, (17, 9, 14), generator=torch.Generator().manual_seed(0)).float()
    best, labels = stitching.first_highest(planes)
    assert torch.equal(best, planes.amax(dim=0))
    for row, column in torch.cartesian_prod(torch.arange(9), torch.arange(14)).tolist():
        scores = planes[:, row, column].tolist()
        assert labels[row, column] == scores.index(max(scores))
    infinite = torch.tensor([-torch.inf, 2.0, -torch.inf])[:, None, None]
    assert stitching.first_highest(infinite)[1].item() == 1


def test_labels_are_stretched_as_opencv_does() -> None:
    """As CLIP-DIY's release brings its predictions to the labels (``src/semseg/evaluate.py``)."""
    random = np.random.default_rng(0)
    # Sides at which torch's own nearest mode, in float32, takes other columns are among them.
    sides = [(256, 448), (256, 672), (626, 596), (7, 1), (1, 7), *random.integers(1, 700, (300, 2)).tolist()]
    for old, new in sides:
        labels = random.integers(0, 255, (3, old), dtype=np.uint8)
        expected = cv2.resize(labels, (new, 5), interpolation=cv2.INTER_NEAREST)
        assert np.array_equal(resize_labels(torch.from_numpy(labels), (5, new)).numpy(), expected), (old, new)
