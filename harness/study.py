"""Studies: one experiment evaluated at several points, read from a table file or from a W&B sweep file.

A table file has a ``title``; the ``config`` of an experiment; ``rows``, each with a ``name``, its ``set`` of flags and,
where a paper reports it, the ``published`` score; and may have ``columns`` of the same form, such as several
vocabularies, where every row is evaluated. YAML files that it names are relative to it. A sweep file is what ``wandb
sweep`` takes.
"""

import csv
import io
import itertools
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path
from typing import Any

import yaml

from harness import atomic
from harness.errors import ConfigurationError

TABLE_KEYS = {"title", "config", "rows", "columns", "published_as"}
ROW_KEYS = {"name", "set", "published"}
# What an agent of W&B replaces when it starts a command.
MACROS = re.compile(r"^\$\{.*\}$")


@dataclass(frozen=True)
class Point:
    """A row or a column of a study.

    Attributes:
        name: What people call it.
        flags: Setting -> value, on top of the study's own flags.
        published: mIoU in percent that a paper reports for it.
    """

    name: str
    flags: Mapping[str, Any] = field(default_factory=dict)
    published: float | None = None

    def arguments(self) -> list[str]:
        """Its flags as command-line arguments."""
        return [
            f"--{key}={value if isinstance(value, str) else json.dumps(value)}" for key, value in self.flags.items()
        ]


# The only column of a study that names none.
MIOU = Point("mIoU")


def folder_of(row: Point, column: Point) -> str:
    """A name for a run directory that says what it is and that no other point of the study has."""
    title = row.name if column is MIOU else f"{row.name} {column.name}"
    readable = re.sub(r"[^a-z0-9]+", "-", title.lower()).strip("-")[:40].rstrip("-")
    identity = [[point.name, dict(point.flags)] for point in (row, column)]
    return f"{readable}-{sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()[:8]}"


@dataclass(frozen=True)
class Study:
    """Points that share an experiment.

    Attributes:
        title: Over the table.
        arguments: Command-line arguments that all points share.
        rows: In the order of the file.
        columns: Every row is evaluated in each of them.
        parameters: Of a sweep, name -> values; empty for a table.
        published_as: What the published numbers are, as a column's title.
    """

    title: str
    arguments: tuple[str, ...]
    rows: tuple[Point, ...]
    columns: tuple[Point, ...] = (MIOU,)
    parameters: Mapping[str, Sequence[Any]] = field(default_factory=dict)
    published_as: str = "published"

    def points(self) -> list[tuple[Point, Point]]:
        """All pairs of a row and a column, row by row."""
        return [(row, column) for row in self.rows for column in self.columns]


@dataclass(frozen=True)
class Outcome:
    """What one point came to.

    Attributes:
        row: Its row.
        column: Its column.
        miou: In percent; None when undefined.
        run: Its run directory.
    """

    row: Point
    column: Point
    miou: float | None
    run: Path


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
        rows=_points(file, "rows", content.get("rows")),
        columns=_points(file, "columns", content["columns"]) if "columns" in content else (MIOU,),
        published_as=str(content.get("published_as", "published")),
    )


def _points(file: Path, kind: str, entries: Any) -> tuple[Point, ...]:
    if not isinstance(entries, list) or not entries:
        raise ConfigurationError(f"{file}: a table needs '{kind}', a list")
    points = tuple(_row(file, entry) for entry in entries)
    if len({point.name for point in points}) < len(points):
        raise ConfigurationError(f"{file}: two of its {kind} have one name")
    return points


def _row(file: Path, row: Any) -> Point:
    flags = row.get("set", {}) if isinstance(row, dict) else None
    if not isinstance(flags, dict) or not isinstance(row.get("name"), str) or set(row) - ROW_KEYS:
        raise ConfigurationError(
            f"{file}: each row and column has a 'name' and may have 'set' (flag: value) and 'published'"
        )
    return Point(row["name"], located(flags, file.parent), row.get("published"))


def located(value: Any, folder: Path) -> Any:
    """Files of configuration that a table names relative to itself, relative to where the command runs."""
    if isinstance(value, dict):
        return {key: located(each, folder) for key, each in value.items()}
    named = isinstance(value, str) and value.endswith(".yaml") and (folder / value).is_file()
    return str(folder / value) if named else value


def read_sweep(file: Path) -> Study:
    """Read a W&B sweep file whose method is ``grid``; its command names the experiment.

    Raises:
        ConfigurationError: It cannot be read or is no grid over values, or its command evaluates nothing.
    """
    content = read_mapping(file)
    if content.get("method") != "grid":
        raise ConfigurationError(f"{file}: only 'method: grid' can run without a W&B server")
    parameters = content.get("parameters")
    if not isinstance(parameters, dict) or not parameters:
        raise ConfigurationError(f"{file}: a sweep needs 'parameters'")
    values = {str(name): _values(file, str(name), entry) for name, entry in parameters.items()}
    command = [str(word) for word in content.get("command") or []]
    if "evaluate" not in command:
        raise ConfigurationError(f"{file}: its 'command' must run 'evaluate'")
    shared = [word for word in command[command.index("evaluate") + 1 :] if not MACROS.match(word)]
    swept = {name: each for name, each in values.items() if len(each) > 1}
    points = []
    for combination in itertools.product(*values.values()):
        flags = dict(zip(values, combination, strict=True))
        title = ", ".join(f"{short(name)} {flags[name]}" for name in swept or flags)
        points.append(Point(title, flags))
    return Study(str(content.get("name", file.stem)), tuple(shared), tuple(points), parameters=swept)


def _values(file: Path, name: str, entry: Any) -> list[Any]:
    if isinstance(entry, dict) and isinstance(entry.get("values"), list) and entry["values"]:
        return list(entry["values"])
    if isinstance(entry, dict) and "value" in entry:
        return [entry["value"]]
    raise ConfigurationError(f"{file}: parameter '{name}' of a grid needs 'values' or 'value'")


def header(study: Study) -> list[str]:
    """The titles of a study's table."""
    titles = [short(name) for name in study.parameters] or [""]
    for column in study.columns:
        titles += [column.name] if study.parameters else [column.name, "Δ"]
    return [*titles, study.published_as] if _published(study) else titles


def body(study: Study, outcomes: Sequence[Outcome]) -> list[list[str]]:
    """A study's table as text, one line per row that has an outcome; Δ is the rounded scores' distance to row one."""
    found = {(outcome.row.name, outcome.column.name): outcome.miou for outcome in outcomes}
    lines = []
    for row in study.rows:
        if not any(name == row.name for name, _ in found):
            continue
        line = [str(row.flags[name]) for name in study.parameters] or [row.name]
        for column in study.columns:
            miou = found.get((row.name, column.name))
            line.append(_number(miou))
            if not study.parameters:
                base = found.get((study.rows[0].name, column.name))
                known = miou is not None and base is not None and row is not study.rows[0]
                line.append(f"{round(miou, 1) - round(base, 1):+.1f}" if known else "")  # type: ignore[arg-type]
        if _published(study):
            line.append("" if row.published is None else _number(row.published))
        lines.append(line)
    return lines


def _published(study: Study) -> bool:
    return any(row.published is not None for row in study.rows)


def short(name: str) -> str:
    """The last part of a setting's name."""
    return name.rsplit(".", 1)[-1]


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.1f}"


def write(folder: Path, study: Study, outcomes: Sequence[Outcome]) -> None:
    """Write ``table.json``, ``table.csv`` and ``table.md``, as far as the study has come."""
    found = [
        {
            "row": outcome.row.name,
            "column": outcome.column.name,
            "flags": {**outcome.column.flags, **outcome.row.flags},
            "miou": outcome.miou,
            "published": outcome.row.published,
            "run": outcome.run.name,
        }
        for outcome in outcomes
    ]
    summary = {"title": study.title, "points": len(study.points()), "arguments": list(study.arguments), "found": found}
    atomic.write_json(folder / "table.json", summary)
    titles, lines = header(study), body(study, outcomes)
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows([titles, *lines])
    atomic.write_text(folder / "table.csv", text.getvalue())
    lines = [titles, ["---", *["---:"] * (len(titles) - 1)], *lines]
    escaped = ["| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines]
    atomic.write_text(folder / "table.md", "\n".join([*escaped, ""]))
