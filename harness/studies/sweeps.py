"""Reading W&B sweep files: a grid, random points, or points of a Bayesian optimisation."""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from itertools import islice
from pathlib import Path
from typing import Any

from harness.studies.readers import read_mapping
from harness.studies.study import METRICS, Sampling, Study, Variant
from harness.studies.suggestions import (
    Goal,
    Space,
    Suggestion,
    num_random,
    parameter,
    random_points,
    require_optuna,
)
from harness.studies.tables import short
from harness.system.errors import ConfigurationError

# What W&B's agent replaces by the cell's flags, and the other words that it replaces when it starts a command.
FLAGS = "${args}"
MACROS = re.compile(r"\$\{.*\}")


def with_points(study: Study, points: Sequence[Suggestion]) -> Study:
    """A sweep with these points as its rows."""
    return replace(study, rows=tuple(_row(study.space, point.flags) for point in points))


def identity(study: Study) -> dict[str, Any]:
    """Everything that determines the points of a sampled sweep, but the scores."""
    parameters = [{**asdict(each), "choices": _plain(each.choices)} for each in study.space.parameters]
    settings = {"metric": study.metric, "goal": study.goal, "seed": study.sampling and study.sampling.seed}
    # Through JSON, so that it equals what was written and read again.
    return json.loads(json.dumps({"parameters": parameters, **settings, "arguments": study.arguments}))


def _plain(choices: Sequence[Any] | None) -> Any:
    return {"from": choices[0], "to": choices[-1]} if isinstance(choices, range) else choices


def _row(space: Space, flags: Mapping[str, Any]) -> Variant:
    return Variant(", ".join(f"{short(name)} {flags[name]}" for name in space.swept()), flags)


def read_sweep(file: Path, count: int | None = None, seed: int = 0) -> Study:
    """Read a W&B sweep file; its command names the experiment.

    Args:
        file: What ``wandb sweep`` takes.
        count: At most so many points; null takes the file's ``run_cap``, and all of a grid without one.
        seed: Of random and Bayesian points.

    Returns:
        Its points; with ``bayes``, the first ones, which are random and so known before any has a score.

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
        study = Study(title, shared, (), metric=metric, goal=goal, space=space)
        if method == "grid":
            return replace(study, rows=tuple(_row(space, flags) for flags in islice(space.grid(), count)))
    except ConfigurationError as error:
        raise ConfigurationError(f"{file}: {error}") from error
    if count is None:
        raise ConfigurationError(f"{file}: '{method}' samples endlessly: give --count or 'run_cap'")
    require_optuna()
    study = replace(study, sampling=Sampling(method, count, seed))
    first = count if method == "random" else min(count, num_random(space))
    return with_points(study, list(islice(random_points(space, seed), first)))


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
