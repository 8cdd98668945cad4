"""The mean of per-image mean IoU, which is not mIoU."""

import pytest
import torch

from harness.results.metric import Areas, Scores, confusion_matrix
from harness.results.per_image import per_image_miou
from harness.results.records import Record
from harness.results.results import total_areas


def record(index: int, prediction: list[int], labels: list[int]) -> Record:
    counted = confusion_matrix(torch.tensor([prediction]), torch.tensor([labels]), 3)
    return Record.of(index, str(index), Areas.of(counted), 0.0)


def test_labelled_classes_are_averaged_per_image_then_over_images() -> None:
    # Class 0: 2 of 3 pixels; class 1: 1 of 2. Class 2, predicted and not labelled, has no share of the mean.
    first = record(0, [0, 0, 1, 2], [0, 0, 1, 1])
    second = record(1, [1] * 8, [1] * 8)
    assert per_image_miou([first]) == pytest.approx(100 * (1 + 1 / 2) / 2)
    both = per_image_miou([first, second])
    assert both == pytest.approx((75 + 100) / 2)
    assert Scores.of(total_areas([first, second], 3)).miou != pytest.approx(both)


def test_images_of_all_sizes_count_equally() -> None:
    small, large = record(0, [0], [1]), record(1, [1] * 999, [1] * 999)
    assert per_image_miou([small, large]) == pytest.approx(50)
    assert Scores.of(total_areas([small, large], 3)).iou[1] == pytest.approx(100 * 999 / 1000)


def test_skipped_and_unlabelled_images_are_left_out() -> None:
    assert per_image_miou([]) is None
    void = record(1, [0, 1], [255, 255])
    assert per_image_miou([Record(0, "x", skipped="damaged"), void]) is None
    assert per_image_miou([void, record(2, [1], [1])]) == pytest.approx(100)
