"""Reading W&B sweep files: a study where all cells are known in advance, else a search."""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from harness.studies.readers import read_mapping
from harness.studies.study import METRICS, Cell, Study, Variant
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
from harness.studies.tables import short
from harness.system.errors import ConfigurationError

# What W&B's agent replaces by the cell's flags, and the other words that it replaces when it starts a command.
FLAGS = "${args}"
MACROS = re.compile(r"\$\{.*\}")


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
    def num_cells(self) -> int:
        """How many points it tries, or fewer when there are no more."""
        return min(self.count, self.space.size() or self.count)

    def cells(self) -> list[Cell]:
        """Its first cells, which are random and so known before any has a score."""
        first = _random(self.space, min(self.count, first_draws(self.space)), self.seed)
        return self.study(first).cells()

    def study(self, suggestions: Sequence[Suggestion]) -> Study:
        """The points so far, as a study."""
        rows = tuple(_swept(self.space, dict(each.flags)) for each in suggestions)
        swept = {name: [row.overrides[name] for row in rows] for name in self.space.swept()}
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


def _swept(space: Space, flags: dict[str, Any]) -> Variant:
    return Variant(", ".join(f"{short(name)} {flags[name]}" for name in space.swept()), flags)


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
            values = {name: [_hashable(row.overrides[name]) for row in rows] for name in space.swept()}
            swept = {name: list(dict.fromkeys(each)) for name, each in values.items()}
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
