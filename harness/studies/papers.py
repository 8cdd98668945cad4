"""A paper's tables: what was published, and the settings of ``ovseg evaluate`` that measure it.

A paper file ``configs/papers/PAPER.yaml`` has ``tables``; a table has ``columns`` (benchmarks) and ``rows``. All of
them may ``set`` flags, of which the more special ones win: paper, table, column, row, cell. A row's ``published`` holds
its cells by the ``id`` of their column, or its only cell in a table of one column. A cell is a number, null, or a
mapping of ``Published``'s fields, ``set`` and ``note``. A cell's name joins the ids of table, row and column by ``_``.
YAML files that a paper file names are relative to it.
"""

import json
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, Literal

from harness.studies.study import located, read_mapping, to_arguments
from harness.system.errors import ConfigurationError, did_you_mean

Score = Literal["miou", "per_image_miou"]

FOLDER = Path("configs") / "papers"
LEVEL_KEYS = {"id", "name", "note", "set", "tolerance", "score"}
PAPER_KEYS = {"title", "note", "set", "tolerance", "definitions", "tables"}
# Flags that others refine, so that they come before them.
FIRST = ("config", "protocol", "method", "data")


@dataclass(frozen=True)
class Published:
    """What a paper reports for an experiment; a record beside it, which changes nothing of a run.

    Attributes:
        paper: The name of the paper's file.
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


PUBLISHED_KEYS = {field.name for field in fields(Published)}


@dataclass(frozen=True)
class Cell:
    """A cell of a paper's tables.

    Attributes:
        paper: The name of the paper's file.
        name: Ids of table, row and column, joined by ``_``.
        settings: Flag -> value for ``ovseg evaluate``; None for a method that is quoted and not run.
        published: What the paper reports.
        note: What a reader should know of the settings or of the number.
    """

    paper: str
    name: str
    settings: Mapping[str, Any] | None
    published: Published
    note: str = ""

    def arguments(self) -> list[str]:
        """The arguments of ``ovseg evaluate``; none for a quoted cell."""
        if self.settings is None:
            return []
        published = {key: value for key, value in asdict(self.published).items() if value is not None}
        return [*to_arguments(self.settings), f"--published={json.dumps(published)}"]


def default_folder() -> Path:
    """``configs/papers`` here, or else beside an installation from a checkout."""
    return FOLDER if FOLDER.is_dir() else Path(__file__).resolve().parents[2] / FOLDER


def find_papers(folder: Path) -> dict[str, Path]:
    """The paper files of a folder by name.

    Raises:
        ConfigurationError: There are none.
    """
    papers = {file.stem: file for file in sorted(folder.glob("*.yaml")) if file.is_file()}
    if not papers:
        raise ConfigurationError(f"there are no papers in {folder}: give their folder with --configs")
    return papers


def resolve(wanted: str, folder: Path) -> list[Cell]:
    """The cells that ``PAPER`` or ``PAPER/CELL`` names.

    Raises:
        ConfigurationError: There is no such paper or cell, or the paper's file is wrong.
    """
    papers = find_papers(folder)
    paper, slash, name = wanted.partition("/")
    if paper not in papers:
        raise ConfigurationError(
            f"there is no paper '{paper}'{did_you_mean(paper, papers)}; known: {', '.join(papers)}"
        )
    cells = read_paper(papers[paper])
    if not slash:
        return cells
    selected = [cell for cell in cells if cell.name == name]
    if not selected:
        names = [cell.name for cell in cells]
        raise ConfigurationError(
            f"{paper} has no cell '{name}'{did_you_mean(name, names)}; 'ovseg reproduce {paper} --dry_run' lists them"
        )
    return selected


def read_paper(file: Path) -> list[Cell]:
    """The cells of a paper file, table by table and row by row.

    Raises:
        ConfigurationError: The file cannot be read, has unknown or missing settings, or two cells of one name.
    """
    content = read_mapping(file)
    try:
        _check("the paper", content, PAPER_KEYS, needed=("tables",))
        cells = [cell for table in _entries("tables", content["tables"]) for cell in _cells(file, content, table)]
    except ConfigurationError as error:
        raise ConfigurationError(f"{file}: {error}") from error
    names = [cell.name for cell in cells]
    if repeated := sorted({name for name in names if names.count(name) > 1}):
        raise ConfigurationError(f"{file}: two of its cells have the name '{repeated[0]}': give other ids")
    return cells


def _cells(file: Path, paper: Mapping[str, Any], table: Mapping[str, Any]) -> Iterator[Cell]:
    _check("a table", table, LEVEL_KEYS | {"columns", "rows"}, needed=("name", "columns", "rows"))
    columns = _entries("columns", table["columns"])
    for column in columns:
        _check("a column", column, LEVEL_KEYS, needed=("name", "id") if len(columns) > 1 else ("name",))
    for row in _entries("rows", table["rows"]):
        _check("a row", row, LEVEL_KEYS | {"quoted", "published"}, needed=("name", "published"))
        values = row["published"] if len(columns) > 1 else {columns[0].get("id", ""): row["published"]}
        if not isinstance(values, dict):
            raise ConfigurationError(f"row '{row['name']}': 'published' needs a value per column")
        by_id = {column.get("id", ""): column for column in columns}
        for key in values:
            if key not in by_id:
                raise ConfigurationError(f"row '{row['name']}': there is no column '{key}'{did_you_mean(key, by_id)}")
        for key, column in by_id.items():
            if key in values:
                yield _cell(file, (paper, table, column, row), values[key])


def _cell(file: Path, levels: tuple[Mapping[str, Any], ...], given: Any) -> Cell:
    """A cell of its paper, table, column and row."""
    _, table, column, row = levels
    name = "_".join(str(level["id"]) for level in (table, row, column) if level.get("id"))
    entry = given if isinstance(given, dict) else {"value": given}
    _check(f"cell '{name}'", entry, PUBLISHED_KEYS | {"set", "note"})
    settings: dict[str, Any] = {}
    published: dict[str, Any] = {}
    for level in (*levels, entry):
        settings.update(level.get("set") or {})
        published.update({key: level[key] for key in ("tolerance", "score") if key in level})
    published |= {"paper": file.stem, "table": table["name"], "row": row["name"], "benchmark": column["name"]}
    published |= {key: value for key, value in entry.items() if key in PUBLISHED_KEYS}
    try:
        checked = Published(**published)
    except (ConfigurationError, TypeError) as error:
        raise ConfigurationError(f"cell '{name}': {error}") from error
    ordered = sorted(settings, key=lambda key: FIRST.index(key) if key in FIRST else len(FIRST))
    notes = " ".join(level["note"] for level in (row, entry, column, table, levels[0]) if level.get("note"))
    quoted = bool(row.get("quoted"))
    return Cell(
        file.stem,
        name,
        None if quoted else {key: located(settings[key], file.parent) for key in ordered},
        checked,
        notes,
    )


def _entries(kind: str, entries: Any) -> list[dict[str, Any]]:
    if not isinstance(entries, list) or not entries or not all(isinstance(entry, dict) for entry in entries):
        raise ConfigurationError(f"'{kind}' must be a list of mappings with something in it")
    return entries


def _check(what: str, entry: Mapping[str, Any], known: set[str], needed: tuple[str, ...] = ()) -> None:
    for key in entry:
        if key not in known:
            raise ConfigurationError(f"{what} has no setting '{key}'{did_you_mean(str(key), known)}")
    for key in needed:
        if key not in entry:
            raise ConfigurationError(f"{what} needs '{key}'")
    if not isinstance(entry.get("set", {}), dict):
        raise ConfigurationError(f"{what}: 'set' must be a mapping of flags")
