"""Two runs side by side: differences of scores with paired bootstrap intervals over images."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from harness.results.metric import Scores
from harness.results.records import Record, read_lines
from harness.results.results import total
from harness.results.run_directory import IMAGES, RESULTS, RUN, differences
from harness.system.errors import RunError

# What two runs must have in common before their scores can be compared.
COMMON = ("data", "protocol")


@dataclass(frozen=True)
class Run:
    """A finished run, read from its directory.

    Attributes:
        path: The directory.
        results: ``results.json``.
        identity: Everything that determines its integers.
        records: One per image, in order.
    """

    path: Path
    results: dict[str, Any]
    identity: dict[str, Any]
    records: tuple[Record, ...]

    @classmethod
    def read(cls, path: Path) -> "Run":
        """Read a run directory.

        Raises:
            RunError: It holds no finished run.
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
        """The classes."""
        return [row["name"] for row in self.results["per_class"]]


def obstacles(first: Run, second: Run) -> list[str]:
    """Every field of data and protocol in which two runs differ, as ``field: first -> second``."""
    one, two = ({part: run.identity[part] for part in COMMON} for run in (first, second))
    return differences(one, two)


@dataclass(frozen=True)
class Difference:
    """One score in both runs.

    Attributes:
        name: ``mIoU`` or a class.
        first: In percent; None when undefined.
        second: Likewise.
        low: Lower end of the interval of second minus first, in points; None when undefined.
        high: Its upper end.
    """

    name: str
    first: float | None
    second: float | None
    low: float | None
    high: float | None

    @property
    def change(self) -> float | None:
        """Second minus first, in points."""
        return None if self.first is None or self.second is None else self.second - self.first


def compare(first: Run, second: Run, samples: int = 2000, level: float = 0.95, seed: int = 0) -> list[Difference]:
    """Scores of two runs, mIoU and every class's IoU, with percentile intervals of the paired bootstrap over images.

    Images are drawn with replacement, the same ones for both runs; an image's integers enter as often as it is drawn.

    Args:
        first: A run.
        second: Another of the same images and classes.
        samples: How many times images are drawn.
        level: Of the intervals, in (0, 1).
        seed: Of the drawing.

    Raises:
        RunError: The runs are not of the same images or classes.
    """
    if first.names != second.names:
        raise RunError(f"'{first.path}' and '{second.path}' have different classes")
    if [record.id for record in first.records] != [record.id for record in second.records]:
        raise RunError(f"'{first.path}' and '{second.path}' have different images, so there are no pairs to compare")
    zeros = [run.identity["protocol"].get("absent_classes") == "zero" for run in (first, second)]
    tables = [_table(run.records, len(run.names)) for run in (first, second)]
    count = len(first.records)
    random = np.random.default_rng(seed)
    drawn: list[NDArray[np.float64]] = []
    for _ in range(samples):
        weights = np.bincount(random.integers(count, size=count), minlength=count)
        ious = [_ious(weights @ table, zero) for table, zero in zip(tables, zeros, strict=True)]
        drawn.append(ious[1] - ious[0])
    ends = (50 * (1 - level), 100 - 50 * (1 - level))
    differences_of = np.stack(drawn)
    scores = [
        Scores.of(total(run.records, len(run.names)), run.identity["protocol"].get("absent_classes", "drop"))
        for run in (first, second)
    ]
    columns = [("mIoU", scores[0].miou, scores[1].miou)]
    columns += list(zip(first.names, scores[0].iou, scores[1].iou, strict=True))
    found = []
    for (name, one, two), values in zip(columns, differences_of.T, strict=True):
        defined = values[np.isfinite(values)]
        known = len(defined) > 0 and one is not None and two is not None
        low, high = (float(np.percentile(defined, end)) for end in ends) if known else (None, None)
        found.append(Difference(name, one, two, low, high))
    return found


def _table(records: Sequence[Record], classes: int) -> NDArray[np.int64]:
    """Per image the intersections, then the unions, [N, 2 * classes]."""
    rows = []
    for record in records:
        areas = record.areas(classes)
        union = [p + g - i for i, p, g in zip(areas.intersection, areas.prediction, areas.label, strict=True)]
        rows.append([*areas.intersection, *union])
    return np.array(rows, dtype=np.int64)


def _ious(sums: NDArray[np.int64], zero: bool) -> NDArray[np.float64]:
    """mIoU, then the IoU of each class, in percent, NaN where undefined."""
    intersection, union = np.split(sums.astype(np.float64), 2)
    with np.errstate(invalid="ignore"):
        ious = 100 * intersection / union
    if zero:
        ious = np.nan_to_num(ious)
    defined = ious[np.isfinite(ious)]
    return np.concatenate([[defined.mean() if len(defined) else np.nan], ious])
