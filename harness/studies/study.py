"""Studies: one experiment evaluated at several points, read from a table file or from a W&B sweep file.

A table file has a ``title``; the ``config`` of an experiment; ``rows``, each with a ``name``, its ``set`` of flags and,
where a paper reports it, the ``published`` score; and may have ``columns`` of the same form, such as several
vocabularies, where every row is evaluated. YAML files that it names are relative to it. A sweep file is what ``wandb
sweep`` takes.
"""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from hashlib import sha256
from pathlib import Path
from typing import Any

import yaml

from harness.studies.suggestions import (
    Goal,
    Space,
    Suggestion,
    drawn,
    first_draws,
    parameter,
    require_optimiser,
    suggested,
)
from harness.studies.table_files import write_table
from harness.system.errors import ConfigurationError

TABLE_KEYS = {"title", "config", "rows", "columns", "published_as"}
ROW_KEYS = {"name", "set", "published"}
# What W&B's agent replaces by the point's flags, and the other words that it replaces when it starts a command.
FLAGS = "${args}"
MACROS = re.compile(r"\$\{.*\}")
# The scores of a run that a sweep can look for the best of.
METRICS = ("miou", "pixel_accuracy", "mean_accuracy", "per_image_miou")


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
        return to_arguments(self.flags)


def to_arguments(settings: Mapping[str, Any]) -> list[str]:
    """Settings (flag -> value) as command-line arguments."""
    return [f"--{key}={value if isinstance(value, str) else json.dumps(value)}" for key, value in settings.items()]


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
        metric: Of a sweep, the score that it looks for the best of.
        goal: Of a sweep, whether larger scores are better.
        sampled: Its points were suggested one after another, and are no grid.
        space: Of a sweep, its parameters as the file describes them.
    """

    title: str
    arguments: tuple[str, ...]
    rows: tuple[Point, ...]
    columns: tuple[Point, ...] = (MIOU,)
    parameters: Mapping[str, Sequence[Any]] = field(default_factory=dict)
    published_as: str = "published"
    metric: str = "miou"
    goal: Goal = "maximize"
    sampled: bool = False
    space: Space = field(default_factory=lambda: Space(()))

    @property
    def metric_title(self) -> str:
        """What people call its metric."""
        return "mIoU" if self.metric == "miou" else self.metric.replace("_", " ")

    def points(self) -> list[tuple[Point, Point]]:
        """All pairs of a row and a column, row by row."""
        return [(row, column) for row in self.rows for column in self.columns]


@dataclass(frozen=True)
class PointResult:
    """What one point came to.

    Attributes:
        row: Its row.
        column: Its column.
        miou: In percent; None when undefined.
        run: Its run directory.
        score: The study's metric, in percent; None when undefined.
    """

    row: Point
    column: Point
    miou: float | None
    run: Path
    score: float | None = None


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


@dataclass(frozen=True)
class Search:
    """A sweep whose points are not known in advance: each depends on what the earlier ones came to.

    Attributes:
        title: Of the sweep.
        arguments: Command-line arguments that all points share.
        space: Its parameters.
        metric: The score that it looks for the best of.
        goal: Whether larger scores are better.
        count: How many points to try.
        seed: Of the suggestions.
    """

    title: str
    arguments: tuple[str, ...]
    space: Space
    metric: str
    goal: Goal
    count: int
    seed: int

    def suggest(self, found: Sequence[tuple[Suggestion, float | None]]) -> Suggestion | None:
        """The point after these, which have scores; None when there is no other one left."""
        return suggested(self.space, self.seed, self.goal, found)

    @property
    def most(self) -> int:
        """How many points it tries, or fewer when there are no more."""
        return min(self.count, self.space.size() or self.count)

    def points(self) -> list[tuple[Point, Point]]:
        """Its first points, which are random and so known before any has a score."""
        first = _random(self.space, min(self.count, first_draws(self.space)), self.seed)
        return self.study(first).points()

    def study(self, suggestions: Sequence[Suggestion]) -> Study:
        """The points so far, as a study."""
        rows = tuple(_swept(self.space, dict(each.flags)) for each in suggestions)
        swept = {name: [row.flags[name] for row in rows] for name in self.space.swept()}
        return Study(
            self.title,
            self.arguments,
            rows,
            parameters=swept,
            metric=self.metric,
            goal=self.goal,
            sampled=True,
            space=self.space,
        )

    @property
    def identity(self) -> dict[str, Any]:
        """Everything that determines its suggestions, but the scores."""
        # Through JSON, so that it equals what was written and read again.
        entries = [{**asdict(each), "choices": _plain(each.choices)} for each in self.space.parameters]
        found = {"parameters": entries, "metric": self.metric, "goal": self.goal, "seed": self.seed}
        return json.loads(json.dumps({**found, "arguments": self.arguments}))


def _plain(choices: Sequence[Any] | None) -> Any:
    return {"from": choices[0], "to": choices[-1]} if isinstance(choices, range) else choices


def _swept(space: Space, flags: dict[str, Any]) -> Point:
    return Point(", ".join(f"{short(name)} {flags[name]}" for name in space.swept()), flags)


def read_sweep(file: Path, count: int | None = None, seed: int = 0) -> Study | Search:
    """Read a W&B sweep file; its command names the experiment.

    Args:
        file: What ``wandb sweep`` takes.
        count: At most so many points; null takes the file's ``run_cap``, and all of a grid without one.
        seed: Of random and Bayesian suggestions.

    Returns:
        A study where all points are known in advance (``grid`` and ``random``), else a search (``bayes``).

    Raises:
        ConfigurationError: It cannot be read, or says something that W&B would not understand, or without an end.
    """
    content = read_mapping(file)
    method = content.get("method")
    if method not in ("grid", "random", "bayes"):
        given = f"not '{method}'" if method is not None else "and this file has none"
        raise ConfigurationError(f"{file}: a sweep's 'method' must be grid, random or bayes, {given}")
    entries = content.get("parameters")
    if not isinstance(entries, dict) or not entries:
        raise ConfigurationError(f"{file}: a sweep needs 'parameters'")
    count = _count(file, content, count)
    metric, goal = _metric(file, content, needed=method == "bayes")
    title, shared = str(content.get("name", file.stem)), _command(file, content)
    try:
        space = Space(tuple(parameter(str(name), entry) for name, entry in entries.items()))
        if method == "grid":
            rows = tuple(_swept(space, flags) for flags in space.grid())[:count]
            swept = {name: list(dict.fromkeys(_hashable(row.flags[name]) for row in rows)) for name in space.swept()}
            return Study(title, shared, rows, parameters=swept, metric=metric, goal=goal, space=space)
    except ConfigurationError as error:
        raise ConfigurationError(f"{file}: {error}") from error
    if count is None:
        raise ConfigurationError(f"{file}: '{method}' has no end of its own: give --count or 'run_cap'")
    if method == "bayes":
        require_optimiser()
    search = Search(title, shared, space, metric, goal, count, seed)
    return search if method == "bayes" else search.study(_random(space, count, seed))


def _random(space: Space, count: int, seed: int) -> list[Suggestion]:
    found: list[Suggestion] = []
    while len(found) < count and (suggestion := drawn(space, seed, found)) is not None:
        found.append(suggestion)
    return found


def _hashable(value: Any) -> Any:
    return str(value) if isinstance(value, (list, dict)) else value


def _count(file: Path, content: Mapping[str, Any], count: int | None) -> int | None:
    found = content.get("run_cap") if count is None else count
    if found is not None and (isinstance(found, bool) or not isinstance(found, int) or found < 1):
        raise ConfigurationError(f"{file}: --count and 'run_cap' must be whole numbers of at least 1, not '{found}'")
    return found


def _metric(file: Path, content: Mapping[str, Any], needed: bool) -> tuple[str, Goal]:
    """The score and the goal; where they decide what is tried, nothing is assumed: W&B's own default is to minimise."""
    entry = content.get("metric", {})
    name = entry.get("name") if isinstance(entry, dict) else None
    goal = entry.get("goal") if isinstance(entry, dict) else None
    if needed and (name is None or goal is None):
        raise ConfigurationError(f"{file}: 'method: bayes' needs 'metric' with 'name: miou' and 'goal: maximize'")
    if name not in (None, *METRICS):
        raise ConfigurationError(f"{file}: a run's scores are {', '.join(METRICS)}, not '{name}'")
    if goal not in (None, "maximize", "minimize"):
        raise ConfigurationError(f"{file}: the 'goal' is maximize or minimize, not '{goal}'")
    return name or "miou", goal or "maximize"


def _command(file: Path, content: Mapping[str, Any]) -> tuple[str, ...]:
    """What ``evaluate`` gets besides the point's flags."""
    command = [str(word) for word in content.get("command") or []]
    if "evaluate" not in command:
        raise ConfigurationError(f"{file}: its 'command' must run 'evaluate'")
    given = command[command.index("evaluate") + 1 :]
    others = [word for word in given if MACROS.search(word) and word != FLAGS]
    if given.count(FLAGS) != 1 or others:
        raise ConfigurationError(f"{file}: its 'command' needs {FLAGS} once after 'evaluate', and no other ${{...}}")
    return tuple(word for word in given if word != FLAGS)


def header(study: Study) -> list[str]:
    """The titles of a study's table."""
    titles = [short(name) for name in study.parameters] or [""]
    for column in study.columns:
        titles += [column.name] if study.parameters else [column.name, "Δ"]
    if study.metric != "miou":
        titles.append(study.metric_title)
    return [*titles, study.published_as] if _published(study) else titles


def body(study: Study, results: Sequence[PointResult]) -> list[list[str]]:
    """A study's table as text, one line per row that has an result; Δ is the rounded scores' distance to row one."""
    found = {(result.row.name, result.column.name): result.miou for result in results}
    scores = {result.row.name: result.score for result in results}
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
        if study.metric != "miou":
            line.append(_number(scores.get(row.name)))
        if _published(study):
            line.append("" if row.published is None else _number(row.published))
        lines.append(line)
    return lines


def best(study: Study, results: Sequence[PointResult]) -> PointResult | None:
    """The result with the best score, the earliest of equal ones; None when none has a score."""
    scored = [result for result in results if result.score is not None]
    sign = 1 if study.goal == "maximize" else -1
    return max(scored, key=lambda result: sign * (result.score or 0.0), default=None)


def _published(study: Study) -> bool:
    return any(row.published is not None for row in study.rows)


def short(name: str) -> str:
    """The last part of a setting's name."""
    return name.rsplit(".", 1)[-1]


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.1f}"


def write(folder: Path, study: Study, results: Sequence[PointResult]) -> None:
    """Write ``table.json``, ``table.csv`` and ``table.md``, as far as the study has come."""
    found = [
        {
            "row": result.row.name,
            "column": result.column.name,
            "flags": {**result.column.flags, **result.row.flags},
            "miou": result.miou,
            **({"score": result.score} if study.metric != "miou" else {}),
            "published": result.row.published,
            "run": result.run.name,
        }
        for result in results
    ]
    summary = {"title": study.title, "points": len(study.points()), "arguments": list(study.arguments), "found": found}
    write_table(folder, summary, header(study), body(study, results))
