"""What was measured for the cells of a paper's tables, beside what was published."""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from harness.studies.papers import Published
from harness.studies.table_files import write_table
from harness.system.errors import ConfigurationError

SCHEMA = 1
TITLES = {"miou": "mIoU", "per_image_miou": "per-image mean IoU"}
HEADER = ("row", "benchmark", "score", "published", "measured", "Δ", "within", "mIoU", "per-image", "images")


@dataclass(frozen=True)
class CellResult:
    """What became of a row.

    Attributes:
        row: Its name.
        published: What the paper reports.
        run: The run directory's name; None when it did not run.
        miou: In percent; None when undefined, or when it did not run.
        per_image_miou: In percent; None when undefined, or when it did not run.
        pixel_accuracy: In percent; None when undefined, or when it did not run.
        images: How many images were scored.
        whole: Whether these are all images of the benchmark.
        why: Why it did not run, a sentence.
        method: The method's class.
        hardware: What it ran on; None when that is not known any more.
        seconds: Of prediction and scoring, summed over images, on that hardware.
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

    def of(self, row: str, published: Published) -> "CellResult":
        """The same run as the outcome of another row."""
        return replace(self, row=row, published=published)

    @property
    def score(self) -> float | None:
        """The score that is compared with the published one."""
        return self.miou if self.published.score == "miou" else self.per_image_miou

    @property
    def difference(self) -> float | None:
        """CellResult minus published, in points; None without both."""
        published = self.published.value
        return None if self.score is None or published is None else self.score - published

    @property
    def within(self) -> bool | None:
        """Whether they agree; None where there is nothing to compare, or only a part of the images was scored."""
        difference = self.difference
        return None if difference is None or not self.whole else abs(difference) <= self.published.tolerance

    def to_json(self) -> dict[str, Any]:
        """All of it, and what follows from it."""
        return {**asdict(self), "difference": self.difference, "within": self.within}

    @classmethod
    def from_json(cls, entry: dict[str, Any]) -> "CellResult":
        """What ``to_json`` wrote."""
        kept = {key: value for key, value in entry.items() if key not in ("difference", "within")}
        return cls(**kept | {"published": Published(**entry["published"]), "stages": tuple(entry["stages"])})


def read(folder: Path) -> dict[str, CellResult]:
    """What an earlier start left in ``table.json``, by row; nothing if there is none.

    Raises:
        ConfigurationError: The file is damaged.
    """
    file = folder / "table.json"
    if not file.is_file():
        return {}
    try:
        entries = json.loads(file.read_text(encoding="utf-8"))["found"]
        return {entry["row"]: CellResult.from_json(entry) for entry in entries}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ConfigurationError(f"{file} is no table of a reproduction ({error}); give another --run_dir") from error


def line(measured: CellResult) -> list[str]:
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


def write(folder: Path, paper: str, found: Sequence[CellResult]) -> None:
    """Write ``table.json``, ``table.csv`` and ``table.md``."""
    entries = [measured.to_json() for measured in found]
    summary = {"schema": SCHEMA, "paper": paper, "found": entries}
    write_table(folder, summary, HEADER, list(map(line, found)), num_text_columns=3)
