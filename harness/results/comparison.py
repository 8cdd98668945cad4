"""Comparison of two runs: differences of scores with paired bootstrap intervals over images."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from harness.results.metric import Scores
from harness.results.records import Record, read_lines
from harness.results.results import total_areas
from harness.results.run_directory import IMAGES, RESULTS, RUN, differences
from harness.system.errors import RunError

# Parts of the identity that must be equal for scores to be comparable.
COMPARED_PARTS = ("data", "protocol")


@dataclass(frozen=True)
class Run:
    """A finished run, read from its directory.

    Attributes:
        path: The directory.
        results: ``results.json``.
        identity: Everything that determines its pixel counts, from ``run.json``.
        records: One per image, in order of the data set.
    """

    path: Path
    results: dict[str, Any]
    identity: dict[str, Any]
    records: tuple[Record, ...]

    @classmethod
    def read(cls, path: Path) -> "Run":
        """Read a run directory.

        Raises:
            RunError: It holds no complete run, or the run is corrupt.
        """
        try:
            results = json.loads((path / RESULTS).read_text(encoding="utf-8"))
            identity = json.loads((path / RUN).read_text(encoding="utf-8"))["identity"]
            records = tuple(read_lines(path / IMAGES))
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise RunError(f"'{path}' holds no finished run: {error}") from error
        if results.get("status") != "complete":
            raise RunError(f"the run in '{path}' is {results.get('status')}, not complete")
        if len(records) != results["num_images"] + results["skipped"]:
            raise RunError(f"the run in '{path}' is damaged: {IMAGES} does not hold every image")
        return cls(path, results, identity, records)

    @property
    def names(self) -> list[str]:
        """The class names, in order of their labels."""
        return [row["name"] for row in self.results["per_class"]]


def incompatibilities(first: Run, second: Run) -> list[str]:
    """Every field of data and protocol in which two runs differ, as ``field: first -> second``."""
    old, new = ({part: run.identity[part] for part in COMPARED_PARTS} for run in (first, second))
    return differences(old, new)


@dataclass(frozen=True)
class Difference:
    """The difference of one score between two runs.

    Attributes:
        name: ``mIoU`` or a class name.
        first: The first run's score in percent; None if undefined.
        second: The second run's score in percent; None if undefined.
        low: Lower end of the interval of second minus first, in percentage points; None if undefined.
        high: Upper end of the interval; None if undefined.
    """

    name: str
    first: float | None
    second: float | None
    low: float | None
    high: float | None

    @property
    def change(self) -> float | None:
        """Second minus first, in percentage points; None if either is undefined."""
        return None if self.first is None or self.second is None else self.second - self.first


def compare(first: Run, second: Run, num_resamples: int = 2000, level: float = 0.95, seed: int = 0) -> list[Difference]:
    """Compare mIoU and every class's IoU of two runs, with percentile intervals of the paired bootstrap over images.

    Each resample draws images with replacement, the same ones for both runs; an image's pixel counts enter as often as
    the image is drawn.

    Args:
        first: A run.
        second: A run on the same images and classes.
        num_resamples: Number of bootstrap resamples.
        level: Confidence level of the intervals, in (0, 1).
        seed: Seed of the resampling.

    Returns:
        mIoU first, then the classes in order of their labels.

    Raises:
        RunError: The runs differ in images or classes.
    """
    if first.names != second.names:
        raise RunError(f"'{first.path}' and '{second.path}' have different classes")
    if [record.id for record in first.records] != [record.id for record in second.records]:
        raise RunError(f"'{first.path}' and '{second.path}' have different images, so there are no pairs to compare")
    absent_as_zero = [run.identity["protocol"].get("absent_classes") == "zero" for run in (first, second)]
    tables = [_areas_per_image(run.records, len(run.names)) for run in (first, second)]
    num_images = len(first.records)
    random = np.random.default_rng(seed)
    resampled: list[NDArray[np.float64]] = []
    for _ in range(num_resamples):
        weights = np.bincount(random.integers(num_images, size=num_images), minlength=num_images)
        ious = [_ious(weights @ table, zero) for table, zero in zip(tables, absent_as_zero, strict=True)]
        resampled.append(ious[1] - ious[0])
    percentiles = (50 * (1 - level), 100 - 50 * (1 - level))
    changes = np.stack(resampled)
    scores = [
        Scores.of(total_areas(run.records, len(run.names)), run.identity["protocol"].get("absent_classes", "drop"))
        for run in (first, second)
    ]
    columns = [("mIoU", scores[0].miou, scores[1].miou)]
    columns += list(zip(first.names, scores[0].iou, scores[1].iou, strict=True))
    result = []
    for (name, old, new), values in zip(columns, changes.T, strict=True):
        finite = values[np.isfinite(values)]
        defined = len(finite) > 0 and old is not None and new is not None
        low, high = (float(np.percentile(finite, p)) for p in percentiles) if defined else (None, None)
        result.append(Difference(name, old, new, low, high))
    return result


def _areas_per_image(records: Sequence[Record], num_classes: int) -> NDArray[np.int64]:
    """[N, 2 * num_classes] int64: per image the classes' intersections, then their unions, in pixels."""
    rows = []
    for record in records:
        areas = record.areas(num_classes)
        union = [p + g - i for i, p, g in zip(areas.intersection, areas.prediction, areas.label, strict=True)]
        rows.append([*areas.intersection, *union])
    return np.array(rows, dtype=np.int64)


def _ious(sums: NDArray[np.int64], absent_as_zero: bool) -> NDArray[np.float64]:
    """[1 + C] mIoU, then the IoU of each class, in percent; NaN where undefined."""
    intersection, union = np.split(sums.astype(np.float64), 2)
    with np.errstate(invalid="ignore"):
        ious = 100 * intersection / union
    if absent_as_zero:
        ious = np.nan_to_num(ious)
    defined = ious[np.isfinite(ious)]
    return np.concatenate([[defined.mean() if len(defined) else np.nan], ious])
