"""A paper's tables as experiment files: which rows there are, what was published, and what was measured beside it.

A row is a file ``configs/experiments/PAPER/ROW.yaml``: a complete experiment for ``ovseg evaluate --config`` with a
section ``published``; or that section alone, for a method that is quoted and not run.
"""

import csv
import io
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal, NamedTuple

from harness.studies.study import read_mapping
from harness.system import atomic
from harness.system.errors import ConfigurationError, did_you_mean

Score = Literal["miou", "per_image_miou"]

SCHEMA = 1
FOLDER = Path("configs") / "experiments"
TITLES = {"miou": "mIoU", "per_image_miou": "per-image mean IoU"}
HEADER = ("row", "benchmark", "score", "published", "measured", "Δ", "within", "mIoU", "per-image", "images")


@dataclass(frozen=True)
class Published:
    """What a paper reports for an experiment; a record beside it, which changes nothing of a run.

    Attributes:
        paper: The folder of the paper's rows.
        table: Where the number stands, such as ``Table 1``.
        row: The row's name there.
        benchmark: The column's name there.
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
        if any(number is not None and not 0 <= number <= 100 for number in (self.value, self.pixel_accuracy)):
            raise ConfigurationError("published: value and pixel_accuracy are percentages")
        if self.tolerance <= 0 or (self.deviation is not None and self.deviation < 0):
            raise ConfigurationError("published: tolerance must be positive and deviation not negative")


def read_quoted(file: Path) -> Published | None:
    """What is published, of a row's file that holds nothing else; None for an experiment.

    Raises:
        ConfigurationError: The file cannot be read, or a number is none.
    """
    content = read_mapping(file)
    if set(content) != {"published"}:
        return None
    try:
        return Published(**content["published"])
    except TypeError as error:
        raise ConfigurationError(f"{file}: {error}") from error


class Row(NamedTuple):
    """A row's file.

    Attributes:
        paper: Its folder's name.
        name: The file's, without ``.yaml``.
        file: The file.
    """

    paper: str
    name: str
    file: Path


def default_folder() -> Path:
    """``configs/experiments`` here, or else beside an installation from a checkout."""
    return FOLDER if FOLDER.is_dir() else Path(__file__).resolve().parents[2] / FOLDER


def papers(folder: Path) -> dict[str, list[Row]]:
    """All rows by paper, both in the order of their names.

    Raises:
        ConfigurationError: There are none.
    """
    found = {}
    for place in sorted(path for path in folder.glob("*") if path.is_dir()):
        rows = [Row(place.name, file.stem, file) for file in sorted(place.glob("*.yaml")) if file.is_file()]
        if rows:
            found[place.name] = rows
    if not found:
        raise ConfigurationError(f"there are no papers' rows in {folder}: give their folder with --configs")
    return found


def resolve(wanted: str, folder: Path) -> list[Row]:
    """The rows that ``PAPER`` or ``PAPER/ROW`` names; only names of files that are in the folder are known.

    Raises:
        ConfigurationError: There is no such paper or row.
    """
    known = papers(folder)
    paper, slash, name = wanted.partition("/")
    if paper not in known:
        raise ConfigurationError(f"there is no paper '{paper}'{did_you_mean(paper, known)}; known: {', '.join(known)}")
    if not slash:
        return known[paper]
    rows = [row for row in known[paper] if row.name == name]
    if not rows:
        names = [row.name for row in known[paper]]
        raise ConfigurationError(
            f"{paper} has no row '{name}'{did_you_mean(name, names)}; 'ovseg reproduce {paper} --dry_run' lists them"
        )
    return rows


@dataclass(frozen=True)
class Measured:
    """What became of a row.

    Attributes:
        row: Its name.
        published: What the paper reports.
        run: The run directory's name; None when it did not run.
        miou: In percent; None when undefined, or when it did not run.
        per_image_miou: Likewise.
        pixel_accuracy: Likewise.
        images: How many pictures were scored.
        whole: Whether these are all pictures of the benchmark.
        why: Why it did not run, a sentence.
        method: The method's class.
        hardware: What it ran on; None when that is not known any more.
        seconds: Of prediction and scoring, summed over pictures, on that hardware.
        stages: What its precompute made on that hardware, as in a file of rates.
    """

    row: str
    published: Published
    run: str | None = None
    miou: float | None = None
    per_image_miou: float | None = None
    pixel_accuracy: float | None = None
    images: int = 0
    whole: bool = True
    why: str | None = None
    method: str | None = None
    hardware: str | None = None
    seconds: float = 0.0
    stages: tuple[dict[str, Any], ...] = ()

    def of(self, row: str, published: Published) -> "Measured":
        """The same run as the outcome of another row."""
        return replace(self, row=row, published=published)

    @property
    def score(self) -> float | None:
        """The score that is compared with the published one."""
        return self.miou if self.published.score == "miou" else self.per_image_miou

    @property
    def difference(self) -> float | None:
        """Measured minus published, in points; None without both."""
        published = self.published.value
        return None if self.score is None or published is None else self.score - published

    @property
    def within(self) -> bool | None:
        """Whether they agree; None where there is nothing to compare, or only a part of the pictures was scored."""
        difference = self.difference
        return None if difference is None or not self.whole else abs(difference) <= self.published.tolerance

    def to_json(self) -> dict[str, Any]:
        """All of it, and what follows from it."""
        return {**asdict(self), "difference": self.difference, "within": self.within}

    @classmethod
    def from_json(cls, entry: dict[str, Any]) -> "Measured":
        """What ``to_json`` wrote."""
        kept = {key: value for key, value in entry.items() if key not in ("difference", "within")}
        return cls(**kept | {"published": Published(**entry["published"]), "stages": tuple(entry["stages"])})


def read(folder: Path) -> dict[str, Measured]:
    """What an earlier start left in ``table.json``, by row; nothing if there is none.

    Raises:
        ConfigurationError: The file is damaged.
    """
    file = folder / "table.json"
    if not file.is_file():
        return {}
    try:
        entries = json.loads(file.read_text(encoding="utf-8"))["found"]
        return {entry["row"]: Measured.from_json(entry) for entry in entries}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ConfigurationError(f"{file} is no table of a reproduction ({error}); give another --run_dir") from error


def line(measured: Measured) -> list[str]:
    """A row of the table as text, in the columns of ``HEADER``."""
    published, difference = measured.published, measured.difference
    value = _number(published.value) + (f" ± {published.deviation:g}" if published.deviation is not None else "")
    verdict = {True: "yes", False: "no", None: "" if measured.whole else "part"}[measured.within]
    return [
        measured.row,
        published.benchmark,
        TITLES[published.score],
        value,
        _number(measured.score),
        "" if difference is None else f"{difference:+.2f}",
        f"{verdict} (±{published.tolerance:g})" if verdict in ("yes", "no") else verdict,
        _number(measured.miou),
        _number(measured.per_image_miou),
        str(measured.images or ""),
    ]


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}"


def write(folder: Path, paper: str, found: Sequence[Measured]) -> None:
    """Write ``table.json``, ``table.csv`` and ``table.md``."""
    entries = [measured.to_json() for measured in found]
    atomic.write_json(folder / "table.json", {"schema": SCHEMA, "paper": paper, "found": entries})
    lines = [list(HEADER), *map(line, found)]
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(lines)
    atomic.write_text(folder / "table.csv", text.getvalue())
    lines.insert(1, ["---", "---", "---", *["---:"] * (len(HEADER) - 3)])
    rows = ["| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |" for cells in lines]
    atomic.write_text(folder / "table.md", "\n".join([*rows, ""]))
