"""Reading table files and the files of papers.

A table file has a ``title``; the ``config`` of an experiment; ``rows``, each with a ``name``, its ``set`` of overrides
and, where a paper reports it, the ``published`` score; and may have ``columns`` of the same form, such as several
vocabularies, where every row is evaluated, and ``seeds``, over whose runs every score is the mean.

A paper's file has ``tables`` by name, each with ``columns`` and ``rows`` by name. Overrides (``set``) of the file, a
table, a column, a row and a cell follow each other, and later ones win; so do ``tolerance``, ``score`` and ``seeds``.
A row's
``published`` has an entry for every column in which there is a cell: the number as printed, null where our copy of the
paper lacks it, or settings by name where there is more to say. A ``quoted`` row is never run.

YAML files that either names are relative to it. A part that is set anew is the new one whole, see ``merged``.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from harness.studies.study import MIOU, Cell, Published, Study, Variant, merged
from harness.system.errors import ConfigurationError, did_you_mean

TABLE_KEYS = {"title", "config", "rows", "columns", "published_as", "seeds"}
ROW_KEYS = {"name", "set", "published"}
PAPERS = Path("configs") / "papers"
PAPER_KEYS = {"title", "set", "tolerance", "score", "seeds", "tables"}
PAPER_TABLE_KEYS = {"title", "set", "tolerance", "score", "seeds", "columns", "rows"}
PAPER_COLUMN_KEYS = {"title", "set"}
PAPER_ROW_KEYS = {"title", "set", "tolerance", "score", "seeds", "quoted", "published"}
PAPER_CELL_KEYS = {"value", "set", "tolerance", "score", "seeds", "deviation", "pixel_accuracy"}


def read_mapping(file: Path) -> dict[str, Any]:
    """A YAML file of settings by name.

    Raises:
        ConfigurationError: It cannot be read, or holds something else.
    """
    try:
        content = yaml.safe_load(file.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigurationError(f"cannot read '{file}': {error}") from error
    except yaml.YAMLError as error:
        raise ConfigurationError(f"{file} is no YAML: {' '.join(str(error).split())}") from error
    if not isinstance(content, dict):
        raise ConfigurationError(f"{file} must hold settings by name")
    return content


def read_table(file: Path) -> Study:
    """Read a table file.

    Raises:
        ConfigurationError: It cannot be read, or has unknown or missing settings, or two rows of one name.
    """
    content = read_mapping(file)
    if unknown := sorted(map(str, set(content) - TABLE_KEYS)):
        raise ConfigurationError(f"{file}: unknown setting '{unknown[0]}'; a table has {', '.join(sorted(TABLE_KEYS))}")
    if not isinstance(content.get("config"), str):
        raise ConfigurationError(f"{file}: a table needs 'config', the file of an experiment")
    return Study(
        title=str(content.get("title", file.stem)),
        arguments=("--config", str(file.parent / content["config"])),
        rows=_variants(file, "rows", content.get("rows")),
        columns=_variants(file, "columns", content["columns"]) if "columns" in content else (MIOU,),
        published_as=str(content.get("published_as", "published")),
        seeds=_seeds(file, content.get("seeds", [])),
    )


def _seeds(place: Path | str, seeds: Any) -> tuple[int, ...]:
    if (
        not isinstance(seeds, list)
        or not all(isinstance(seed, int) and not isinstance(seed, bool) for seed in seeds)
        or len(set(seeds)) < len(seeds)
    ):
        raise ConfigurationError(f"{place}: 'seeds' is a list of distinct whole numbers")
    return tuple(seeds)


def _variants(file: Path, kind: str, entries: Any) -> tuple[Variant, ...]:
    if not isinstance(entries, list) or not entries:
        raise ConfigurationError(f"{file}: a table needs '{kind}', a list")
    variants = tuple(_row(file, entry) for entry in entries)
    if len({variant.name for variant in variants}) < len(variants):
        raise ConfigurationError(f"{file}: two of its {kind} have one name")
    return variants


def _row(file: Path, row: Any) -> Variant:
    flags = row.get("set", {}) if isinstance(row, dict) else None
    if not isinstance(flags, dict) or not isinstance(row.get("name"), str) or set(row) - ROW_KEYS:
        raise ConfigurationError(
            f"{file}: each row and column has a 'name' and may have 'set' (flag: value) and 'published'"
        )
    return Variant(row["name"], located(flags, file.parent), row.get("published"))


def located(value: Any, folder: Path) -> Any:
    """Files of configuration that a table names relative to itself, relative to where the command runs."""
    if isinstance(value, dict):
        return {key: located(each, folder) for key, each in value.items()}
    named = isinstance(value, str) and value.endswith(".yaml") and (folder / value).is_file()
    return str(folder / value) if named else value


def default_papers() -> Path:
    """``configs/papers`` here, or else beside an installation from a checkout."""
    return PAPERS if PAPERS.is_dir() else Path(__file__).resolve().parents[2] / PAPERS


def papers(folder: Path) -> dict[str, Path]:
    """The files of papers by name, in the order of their names.

    Raises:
        ConfigurationError: There are none.
    """
    found = {file.stem: file for file in sorted(folder.glob("*.yaml")) if file.is_file()}
    if not found:
        raise ConfigurationError(f"there are no papers' tables in {folder}: give their folder with --configs")
    return found


def paper_file(name: str, folder: Path) -> Path:
    """The file of a paper; only names of files that are in the folder are known.

    Raises:
        ConfigurationError: There is no such paper.
    """
    known = papers(folder)
    if name not in known:
        raise ConfigurationError(f"there is no paper '{name}'{did_you_mean(name, known)}; known: {', '.join(known)}")
    return known[name]


def select(paper: str, selection: str | None, cells: list[Cell]) -> list[Cell]:
    """The cells of a paper that ``TABLE``, ``TABLE/ROW`` or ``TABLE/ROW/COLUMN`` names; all of them for None.

    Raises:
        ConfigurationError: There are none.
    """
    if selection is None:
        return cells
    wanted = selection.split("/")
    found = [cell for cell in cells if cell.name.split("/")[: len(wanted)] == wanted]
    if not found:
        depth = min(len(wanted), 3)
        names = list(dict.fromkeys("/".join(cell.name.split("/")[:depth]) for cell in cells))
        kind = ("table", "row", "cell")[depth - 1]
        raise ConfigurationError(
            f"{paper} has no {kind} '{selection}'{did_you_mean(selection, names)}; "
            f"'ovseg reproduce {paper} --dry_run' lists them"
        )
    return found


def read_paper(file: Path) -> list[Cell]:
    """The cells of a paper's tables, named ``TABLE/ROW/COLUMN``, in the order of the file.

    Raises:
        ConfigurationError: The file cannot be read, or something in it is missing or unknown.
    """
    paper = read_mapping(file)
    _check(file, paper, PAPER_KEYS, "a paper")
    cells: list[Cell] = []
    for name, table in _named(file, paper, "tables"):
        _check(f"{file}: {name}", table, PAPER_TABLE_KEYS, "a table")
        cells += _cells(file, paper, str(name), table)
    return cells


def _cells(file: Path, paper: Mapping[str, Any], name: str, table: Mapping[str, Any]) -> list[Cell]:
    columns = dict(_named(f"{file}: {name}", table, "columns"))
    for key, column in columns.items():
        _check(f"{file}: {name}/{key}", column, PAPER_COLUMN_KEYS, "a column")
    cells = []
    for key, row in _named(f"{file}: {name}", table, "rows"):
        place = f"{file}: {name}/{key}"
        _check(place, row, PAPER_ROW_KEYS, "a row")
        for column_key, value in _named(place, row, "published", entry=Any):
            if column_key not in columns:
                raise ConfigurationError(
                    f"{place}: there is no column '{column_key}'{did_you_mean(str(column_key), columns)}"
                )
            column, cell = columns[column_key], value if isinstance(value, dict) else {"value": value}
            _check(f"{place}/{column_key}", cell, PAPER_CELL_KEYS, "a cell")
            settings: dict[str, Any] = {}
            overrides: dict[str, Any] = {}
            quoted = bool(row.get("quoted", False))
            seeds: Any = []
            for level in (paper, table, column, row, cell):
                settings |= {setting: level[setting] for setting in ("tolerance", "score") if setting in level}
                overrides = merged(overrides, located(level.get("set", {}), file.parent))
                seeds = level.get("seeds", seeds)
            settings |= {setting: cell.get(setting) for setting in ("value", "deviation", "pixel_accuracy")}
            titles: dict[str, Any] = {
                kind: str(entry.get("title", entry_key))
                for kind, entry, entry_key in (
                    ("table", table, name),
                    ("row", row, key),
                    ("benchmark", column, column_key),
                )
            }
            try:
                published = Published(paper=file.stem, **titles, **settings)
            except (ConfigurationError, TypeError) as error:
                raise ConfigurationError(f"{place}/{column_key}: {error}") from error
            cells.append(
                Cell(
                    Variant(str(key), located(row.get("set", {}), file.parent)),
                    Variant(str(column_key), located(column.get("set", {}), file.parent)),
                    f"{name}/{key}/{column_key}",
                    overrides,
                    published,
                    quoted,
                    () if quoted else _seeds(f"{place}/{column_key}", seeds),
                )
            )
    return cells


def _named(place: Path | str, content: Mapping[str, Any], key: str, entry: Any = dict) -> list[tuple[Any, Any]]:
    """The entries of a section that has them by name."""
    found = content.get(key)
    if not isinstance(found, dict) or not found:
        raise ConfigurationError(f"{place} needs '{key}', entries by name")
    if entry is dict and not all(isinstance(each, dict) for each in found.values()):
        raise ConfigurationError(f"{place}: each entry of '{key}' holds settings by name")
    return list(found.items())


def _check(place: Path | str, content: Mapping[str, Any], allowed: set[str], kind: str) -> None:
    if unknown := sorted(map(str, set(content) - allowed)):
        raise ConfigurationError(
            f"{place}: unknown setting '{unknown[0]}'{did_you_mean(unknown[0], allowed)}; "
            f"{kind} has {', '.join(sorted(allowed))}"
        )
    if not isinstance(content.get("set", {}), dict):
        raise ConfigurationError(f"{place}: 'set' holds settings by name")
