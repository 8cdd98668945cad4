"""Studies: an experiment evaluated in cells, each a row and a column of overrides; and what a cell came to."""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from hashlib import sha256
from statistics import mean, stdev
from typing import Any, Literal

from harness.studies.suggestions import Goal, Space, is_number
from harness.system.errors import ConfigurationError

Score = Literal["miou", "per_image_miou"]
# The scores of a run.
METRICS = ("miou", "pixel_accuracy", "mean_accuracy", "per_image_miou")


@dataclass(frozen=True)
class Variant:
    """A row or a column of a study: named overrides.

    Attributes:
        name: Its name in the study's file.
        overrides: Setting -> value, on top of the study's own arguments.
        published: mIoU in percent that a paper reports for it, in a study with one number per row.
    """

    name: str
    overrides: Mapping[str, Any] = field(default_factory=dict)
    published: float | None = None


# The only column of a study that names none.
MIOU = Variant("mIoU")


def merged(*levels: Mapping[str, Any]) -> dict[str, Any]:
    """Overrides of several levels, such as a column and a row; later ones win.

    A part that a level replaces is that level's whole: what earlier ones set inside it is gone with the old part. A
    ``method`` is no part of another: N, K and γ of a benchmark are set for whatever method a row has.
    """
    found: dict[str, Any] = {}
    for level in levels:
        parts = tuple(f"{key}." for key in level if "." in key)
        found = {key: value for key, value in found.items() if not key.startswith(parts)} | dict(level)
    return found


def arguments_of(overrides: Mapping[str, Any]) -> list[str]:
    """Overrides as arguments of ``ovseg evaluate``; the files of ``config`` come first, a part before its settings."""
    files = [word for key, value in overrides.items() if key == "config" for word in ("--config", str(value))]
    outer = {key: sum(key.startswith(f"{other}.") for other in overrides) for key in overrides if key != "config"}
    flags = {key: overrides[key] for key in sorted(outer, key=lambda key: outer[key])}
    return files + [f"--{key}={value if isinstance(value, str) else json.dumps(value)}" for key, value in flags.items()]


@dataclass(frozen=True)
class Published:
    """What a paper reports for a cell; a record beside it, which changes nothing of a run.

    Attributes:
        paper: The name of the paper's file.
        table: Where the number stands, such as ``Table 1``.
        row: The row's title there.
        benchmark: The column's title there.
        value: The score in percent as printed; null where our copy of the paper lacks the number.
        tolerance: Distance in points within which a measurement agrees: our choice, not the paper's.
        score: Which of a run's scores the value is compared with.
        deviation: The standard deviation that the paper gives with it, in points.
        pixel_accuracy: In percent, where the table gives it as well.

    Raises:
        ConfigurationError: A number is no percentage, or the tolerance is not positive.
    """

    paper: str
    table: str
    row: str
    benchmark: str
    value: float | None = None
    tolerance: float = 1.0
    score: Score = "miou"
    deviation: float | None = None
    pixel_accuracy: float | None = None

    def __post_init__(self) -> None:
        numbers = (self.value, self.pixel_accuracy, self.deviation, self.tolerance)
        if any(number is not None and not is_number(number) for number in numbers):
            raise ConfigurationError("published: value, pixel_accuracy, deviation and tolerance are numbers")
        if any(number is not None and not 0 <= number <= 100 for number in (self.value, self.pixel_accuracy)):
            raise ConfigurationError("published: value and pixel_accuracy are percentages")
        if self.tolerance <= 0 or (self.deviation is not None and self.deviation < 0):
            raise ConfigurationError("published: tolerance must be positive and deviation not negative")
        if self.score not in ("miou", "per_image_miou"):
            raise ConfigurationError(f"published: score is miou or per_image_miou, not '{self.score}'")


@dataclass(frozen=True)
class Cell:
    """A row in a column.

    Attributes:
        row: The row.
        column: The column.
        name: What people call it.
        overrides: Setting -> value; those of the row win over those of the column.
        published: What a paper reports for it; None where no paper does.
        quoted: It is given as published and never run.
        seeds: Seeds of the method; its score is the mean over a run with each. Empty for one run with the method's own.
        seed: The seed of this run, in a cell of ``per_seed``.
    """

    row: Variant
    column: Variant
    name: str
    overrides: Mapping[str, Any]
    published: Published | None = None
    quoted: bool = False
    seeds: tuple[int, ...] = ()
    seed: int | None = None

    @property
    def arguments(self) -> list[str]:
        """Its overrides as arguments of ``ovseg evaluate``."""
        return arguments_of(self.overrides)

    @property
    def folder(self) -> str:
        """A name for its run directory, which no other cell of the study has."""
        title = self.row.name if self.column is MIOU else f"{self.row.name} {self.column.name}"
        readable = re.sub(r"[^a-z0-9]+", "-", title.lower()).strip("-")[:40].rstrip("-")
        identity = [[variant.name, dict(variant.overrides)] for variant in (self.row, self.column)]
        seed = "" if self.seed is None else f"-seed-{self.seed}"
        return f"{readable}-{sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()[:8]}{seed}"

    def per_seed(self) -> list["Cell"]:
        """Its runs: a cell for each of its seeds; itself when it has none."""
        return [replace(self, name=f"{self.name} (seed {seed})", seeds=(), seed=seed) for seed in self.seeds] or [self]


@dataclass(frozen=True)
class Sampling:
    """How the points of a sweep are chosen that is no grid.

    Attributes:
        method: ``random``, where all points are known in advance, or ``bayes``, where each depends on earlier scores.
        count: How many points to try.
        seed: Of the points.
    """

    method: Literal["random", "bayes"]
    count: int
    seed: int


@dataclass(frozen=True)
class Study:
    """Cells that share an experiment.

    Attributes:
        title: Over the table.
        arguments: Command-line arguments that all cells share.
        rows: In the order of the file.
        columns: Every row is evaluated in each of them.
        published_as: What the published numbers are, as a column's title.
        metric: Of a sweep, the score that it looks for the best of.
        goal: Of a sweep, whether larger scores are better.
        space: Of a sweep, its parameters as the file describes them; without parameters for a table.
        sampling: Of a sweep that is no grid. With ``bayes``, ``rows`` are the points so far.
        seeds: Of every cell, see ``Cell``.
    """

    title: str
    arguments: tuple[str, ...]
    rows: tuple[Variant, ...]
    columns: tuple[Variant, ...] = (MIOU,)
    published_as: str = "published"
    metric: str = "miou"
    goal: Goal = "maximize"
    space: Space = field(default_factory=Space)
    sampling: Sampling | None = None
    seeds: tuple[int, ...] = ()

    @property
    def parameters(self) -> list[str]:
        """The names of a sweep's parameters that vary; empty for a table."""
        return self.space.swept()

    @property
    def num_cells(self) -> int:
        """How many cells it has, or will have."""
        if self.sampling is None:
            return len(self.rows) * len(self.columns)
        return min(self.sampling.count, self.space.size() or self.sampling.count)

    @property
    def metric_title(self) -> str:
        """What people call its metric."""
        return "mIoU" if self.metric == "miou" else self.metric.replace("_", " ")

    def cells(self) -> list[Cell]:
        """All of them, row by row."""
        return [self.cell(row, column) for row in self.rows for column in self.columns]

    def cell(self, row: Variant, column: Variant = MIOU) -> Cell:
        """The cell of a row and a column."""
        name = row.name if len(self.columns) == 1 else f"{row.name} / {column.name}"
        return Cell(row, column, name, merged(column.overrides, row.overrides), seeds=self.seeds)


@dataclass(frozen=True)
class CellResult:
    """What one cell came to.

    Of a cell with seeds, scores and seconds are means over its runs, and what else belongs to one run is the first's.

    Attributes:
        cell: The cell.
        run: Its run directory's name; None when it did not run.
        miou: In percent; None when undefined, or when it did not run.
        per_image_miou: The mean over images of their own mean IoU, in percent, or None.
        pixel_accuracy: In percent, or None.
        mean_accuracy: In percent, or None.
        images: How many images were scored.
        whole: Whether these are all images of the benchmark.
        why: Why it did not run, a sentence.
        method: The method's class.
        hardware: What it ran on; None when that is not known any more.
        seconds: Of prediction and scoring, summed over images, on that hardware.
        stages: What its precompute made on that hardware, as in a file of rates.
        joint: It shared a pass over the data, so that its seconds are a share of the pass's and no rate.
        per_seed: Of a cell with seeds, the results of its runs.
    """

    cell: Cell
    run: str | None = None
    miou: float | None = None
    per_image_miou: float | None = None
    pixel_accuracy: float | None = None
    mean_accuracy: float | None = None
    images: int = 0
    whole: bool = True
    why: str | None = None
    method: str | None = None
    hardware: str | None = None
    seconds: float = 0.0
    stages: tuple[dict[str, Any], ...] = ()
    joint: bool = False
    per_seed: tuple["CellResult", ...] = ()

    def score(self, metric: str) -> float | None:
        """One of ``METRICS``, in percent; None when undefined."""
        value: float | None = getattr(self, metric)
        return value

    def deviation(self, metric: str) -> float | None:
        """The sample standard deviation of a score over seeds, in points; None with fewer than two seeds."""
        scores = [score for each in self.per_seed if (score := each.score(metric)) is not None]
        return stdev(scores) if len(scores) == len(self.per_seed) > 1 else None

    @property
    def difference(self) -> float | None:
        """Measured minus published, in points; None without both."""
        published = self.cell.published
        if published is None or published.value is None:
            return None
        score = self.score(published.score)
        return None if score is None else score - published.value

    @property
    def within(self) -> bool | None:
        """Whether they agree; None where there is nothing to compare, or only a part of the images was scored."""
        difference, published = self.difference, self.cell.published
        if difference is None or published is None or not self.whole:
            return None
        return abs(difference) <= published.tolerance

    def to_json(self) -> dict[str, Any]:
        """Its cell's name, what is published for it, what was measured, and what follows from these."""
        published = None if self.cell.published is None else asdict(self.cell.published)
        score = "miou" if self.cell.published is None else self.cell.published.score
        return {
            "row": self.cell.name,
            "published": published,
            **self._measured(),
            "deviation": self.deviation(score),
            "per_seed": [{"seed": each.cell.seed, **each._measured()} for each in self.per_seed],
            "difference": self.difference,
            "within": self.within,
        }

    def _measured(self) -> dict[str, Any]:
        return {key: value for key, value in vars(self).items() if key not in ("cell", "per_seed")}

    @classmethod
    def from_json(cls, cell: Cell, entry: Mapping[str, Any]) -> "CellResult":
        """What ``to_json`` wrote, as a result of the cell."""
        derived = {"row", "published", "deviation", "per_seed", "difference", "within", "seed"}
        measured = {key: value for key, value in entry.items() if key not in derived}
        runs = [(each["seed"], each) for each in entry.get("per_seed", [])]
        by_seed = {each.seed: each for each in replace(cell, seeds=tuple(seed for seed, _ in runs)).per_seed()}
        return cls(
            cell,
            **{**measured, "stages": tuple(measured["stages"])},
            per_seed=tuple(cls.from_json(by_seed[seed], each) for seed, each in runs),
        )


def mean_over_seeds(cell: Cell, runs: Sequence[CellResult]) -> CellResult:
    """The result of a cell from those of its runs; one of which did not run leaves the cell without a score.

    Args:
        cell: The cell.
        runs: The results of ``cell.per_seed()``, in that order.
    """
    if not cell.seeds:
        (run,) = runs
        return replace(run, cell=cell)
    failed = [run for run in runs if run.why is not None]
    if failed:
        common = len(failed) == len(runs) and len({run.why for run in failed}) == 1
        why = failed[0].why if common else f"seed {failed[0].cell.seed}: {failed[0].why}"
        return CellResult(cell, why=why, method=failed[0].method)
    scores: dict[str, Any] = {metric: _mean([run.score(metric) for run in runs]) for metric in METRICS}
    return replace(
        runs[0],
        cell=cell,
        **scores,
        images=min(run.images for run in runs),
        whole=all(run.whole for run in runs),
        hardware=runs[0].hardware if len({run.hardware for run in runs}) == 1 else None,
        seconds=mean(run.seconds for run in runs),
        stages=next((run.stages for run in runs if run.stages), ()),
        joint=any(run.joint for run in runs),
        per_seed=tuple(runs),
    )


def _mean(scores: Sequence[float | None]) -> float | None:
    """The mean; None when one is undefined."""
    defined = [score for score in scores if score is not None]
    return mean(defined) if len(defined) == len(scores) else None
