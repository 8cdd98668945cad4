"""The metric: mmsegmentation's numbers, from exact integers, over any number of processes."""

import json

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from mmseg.evaluation import IoUMetric

from harness import SegmentationMetric
from harness.results.metric import Areas, Scores, confusion_matrix
from tests.running import TESTS, Ranks

RANK = TESTS / "harness" / "ranks" / "metric.py"


def maps(seed: int, classes: int, used: list[int], ignored: float) -> tuple[torch.Tensor, torch.Tensor]:
    """A prediction and labels that agree on about half of the pixels, over some of the classes."""
    random = np.random.default_rng(seed)
    shape = random.integers(1, 60, 2)
    labels = random.choice(used, shape)
    prediction = np.where(random.random(shape) < 0.5, labels, random.choice(used, shape))
    labels[random.random(shape) < ignored] = 255
    return torch.from_numpy(prediction.astype(np.uint8)), torch.from_numpy(labels.astype(np.uint8))


@pytest.mark.parametrize(
    ("classes", "used", "ignored"),
    [
        (5, [0, 1, 2, 3, 4], 0.0),
        (5, [0, 1, 2, 3, 4], 0.3),
        (9, [1, 2, 7], 0.2),
        (171, list(range(0, 171, 3)), 0.1),
        (2, [1], 0.5),
    ],
)
def test_scores_are_those_of_mmsegmentation(classes: int, used: list[int], ignored: float) -> None:
    metric, totals = SegmentationMetric(classes), [torch.zeros(classes) for _ in range(4)]
    for seed in range(8):
        prediction, labels = maps(seed, classes, used, ignored)
        metric.update(prediction, labels)
        counted = IoUMetric.intersect_and_union(prediction.long(), labels.long(), classes, 255)
        totals = [total + part for total, part in zip(totals, counted, strict=True)]
    expected = IoUMetric.total_area_to_metrics(*(total.double() for total in totals), ["mIoU"])
    scores = metric.compute()
    confusion = scores["confusion"]
    assert torch.equal(confusion.diagonal(), totals[0].long())
    assert torch.equal(confusion.sum(0), totals[2].long())
    assert torch.equal(confusion.sum(1), totals[3].long())
    np.testing.assert_allclose(scores["iou"], 100 * expected["IoU"], rtol=1e-12)
    np.testing.assert_allclose(scores["accuracy"], 100 * expected["Acc"], rtol=1e-12)
    assert scores["pixel_accuracy"] == pytest.approx(100 * float(expected["aAcc"]))
    assert scores["miou"] == pytest.approx(100 * np.nanmean(expected["IoU"]))
    assert scores["mean_accuracy"] == pytest.approx(100 * np.nanmean(expected["Acc"]))


@given(st.lists(st.integers(0, 3), min_size=12, max_size=12), st.integers(0, 2**32 - 1))
@settings(max_examples=30, deadline=None)
def test_counts_do_not_depend_on_how_images_are_split(parts: list[int], seed: int) -> None:
    single, split = SegmentationMetric(6), [SegmentationMetric(6) for _ in range(4)]
    for index, part in enumerate(parts):
        prediction, labels = maps(seed + index, 6, [0, 1, 2, 4], 0.1)
        single.update(prediction, labels)
        split[part].update(prediction, labels)
    merged = sum((Areas.of(metric.confusion) for metric in split), start=Areas.zero(6))
    assert merged == Areas.of(single.confusion)
    assert torch.equal(sum(metric.confusion for metric in split), single.confusion)
    assert Scores.of(merged) == Scores.of(Areas.of(single.confusion))


def test_counts_are_exact_where_float32_is_not() -> None:
    """2^24 + 1 is the first integer that float32 cannot represent; mmsegmentation's histogram would stay at 2^24."""
    metric, pixels = SegmentationMetric(2), 2**24
    metric.update(torch.ones(2**12, 2**12, dtype=torch.uint8), torch.ones(2**12, 2**12, dtype=torch.uint8))
    for _ in range(3):
        metric.update(torch.ones(1, 1, dtype=torch.uint8), torch.ones(1, 1, dtype=torch.uint8))
    assert metric.confusion.dtype == torch.int64
    assert metric.confusion[1, 1].item() == pixels + 3
    metric.add(torch.full((2, 2), 2**40))
    assert metric.confusion[1, 1].item() == 2**40 + pixels + 3


def test_absent_classes_are_dropped_or_counted_as_zero() -> None:
    # Class 0 labelled and predicted, class 1 absent from both, class 2 predicted but not labelled.
    areas = Areas((8, 0, 0), (8, 0, 2), (10, 0, 0))
    dropped, zero = Scores.of(areas), Scores.of(areas, "zero")
    assert dropped.iou == (80.0, None, 0.0)
    assert dropped.miou == 40.0
    assert zero.iou == (80.0, 0.0, 0.0)
    assert zero.miou == pytest.approx(80 / 3)
    assert dropped.accuracy == zero.accuracy == (80.0, None, None)
    assert dropped.mean_accuracy == 80.0


def test_scores_without_pixels_are_undefined() -> None:
    scores = Scores.of(Areas.zero(3))
    assert scores == Scores(None, None, None, (None,) * 3, (None,) * 3)
    scores = SegmentationMetric(3).compute()
    assert all(scores[key].isnan().all() for key in ("miou", "pixel_accuracy", "mean_accuracy", "iou", "accuracy"))


def test_ignored_pixels_are_not_counted() -> None:
    labels = torch.tensor([[255, 255, 1]], dtype=torch.uint8)
    prediction = torch.tensor([[0, 1, 1]], dtype=torch.uint8)
    assert confusion_matrix(prediction, labels, 2).tolist() == [[0, 0], [0, 1]]
    assert confusion_matrix(prediction, torch.tensor([[7, 7, 1]]), 2, ignore_label=7).tolist() == [[0, 0], [0, 1]]


def test_rows_are_labels_and_columns_predictions() -> None:
    assert confusion_matrix(torch.tensor([[1]]), torch.tensor([[0]]), 2).tolist() == [[0, 1], [0, 0]]


def test_a_score_is_recomputed_after_more_images() -> None:
    metric = SegmentationMetric(2)
    metric.add(torch.tensor([[1, 0], [0, 1]]))
    assert metric.compute()["miou"] == 100
    metric.add(torch.tensor([[0, 2], [0, 0]]))
    assert metric.compute()["miou"] == pytest.approx(100 * (1 / 3 + 1 / 3) / 2)


def test_the_metric_is_summed_over_processes(ranks: Ranks) -> None:
    outcomes = ranks.run(RANK, 2)
    assert [outcome.code for outcome in outcomes] == [0, 0], outcomes
    (first, alone), (second, _) = ([json.loads(line) for line in outcome.out.splitlines()] for outcome in outcomes)
    assert first["synced"] == second["synced"] == alone
    # After compute() each rank has its own counts again, or a second compute() would count twice.
    assert np.array_equal(np.add(first["kept"], second["kept"]), alone)
    assert first["again"] == second["again"] == alone


def test_a_label_that_is_no_class_is_an_error() -> None:
    labels = torch.tensor([[0, 3]], dtype=torch.uint8)
    with pytest.raises(RuntimeError):
        confusion_matrix(torch.zeros_like(labels), labels, 2)
