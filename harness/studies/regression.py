"""The regression gate: small fixed evaluations against a committed baseline, per class and per image."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness.results.comparison import Run
from harness.studies.readers import located, read_mapping
from harness.studies.study import Study, Variant
from harness.system import atomic
from harness.system.errors import ConfigurationError, RunError

SCHEMA = 1
KEYS = {"runs", "tolerances", "baseline"}
LEVELS = ("miou", "class", "image")


@dataclass(frozen=True)
class Gate:
    """What a regression file says.

    Attributes:
        study: A row per run.
        tolerances: For ``miou``, a ``class``'s IoU and an ``image``'s pixel accuracy: how far each may fall, in points.
        baseline: The committed file.
    """

    study: Study
    tolerances: Mapping[str, float]
    baseline: Path


def read_gate(file: Path) -> Gate:
    """Read a regression file: ``runs`` (name -> ``config`` and ``set``), ``tolerances``, ``baseline``.

    Raises:
        ConfigurationError: It cannot be read, or something is missing or unknown.
    """
    content = read_mapping(file)
    if unknown := sorted(map(str, set(content) ^ KEYS)):
        raise ConfigurationError(f"{file}: a regression file has {', '.join(sorted(KEYS))}; see '{unknown[0]}'")
    tolerances = content["tolerances"]
    if not isinstance(tolerances, dict) or set(tolerances) != set(LEVELS) or not all(_positive(tolerances.values())):
        raise ConfigurationError(f"{file}: 'tolerances' needs {', '.join(LEVELS)}, each in points, at least 0")
    runs = content["runs"]
    if not isinstance(runs, dict) or not runs:
        raise ConfigurationError(f"{file}: 'runs' needs at least one run by name")
    rows = tuple(_row(file, str(name), run) for name, run in runs.items())
    return Gate(Study(file.stem, (), rows), tolerances, file.parent / content["baseline"])


def _positive(values: Any) -> list[bool]:
    return [isinstance(value, (int, float)) and value >= 0 for value in values]


def _row(file: Path, name: str, run: Any) -> Variant:
    if not isinstance(run, dict) or not isinstance(run.get("config"), str) or set(run) - {"config", "set"}:
        raise ConfigurationError(f"{file}: a run has a 'config' and may have 'set' (flag: value)")
    return Variant(name, {"config": str(file.parent / run["config"]), **located(run.get("set", {}), file.parent)})


def scores_of(run: Run) -> dict[str, Any]:
    """What of a run a baseline keeps: fingerprints, and scores in percent rounded to 4 digits."""
    images = {}
    for record in run.records:
        labelled = sum(record.label)
        images[record.id] = round(100 * sum(record.intersection) / labelled, 4) if labelled else None
    return {
        "data": run.results["data_fingerprint"],
        "protocol": run.results["protocol"]["fingerprint"],
        "miou": _rounded(run.results["miou"]),
        "classes": {row["name"]: _rounded(row["iou"]) for row in run.results["per_class"]},
        "images": images,
    }


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 4)


def read_baseline(file: Path) -> dict[str, Any]:
    """The committed scores by run.

    Raises:
        RunError: The file is missing or damaged: a gate without a baseline does not pass.
    """
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
        runs = content["runs"]
    except FileNotFoundError:
        raise RunError(f"there is no baseline '{file}': measure one with --update and commit it") from None
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise RunError(f"the baseline '{file}' is damaged: {error}") from error
    if content.get("schema") != SCHEMA or not isinstance(runs, dict):
        raise RunError(f"the baseline '{file}' is of another version: measure one with --update")
    return runs


def write_baseline(file: Path, scores: Mapping[str, Any], study: Study) -> None:
    """Write a baseline, with the command that measured each run beside its scores."""
    commands = {cell.name: " ".join(("ovseg evaluate", *cell.arguments)) for cell in study.cells()}
    runs = {name: {"command": commands[name], **scores[name]} for name in scores}
    atomic.write_json(file, {"schema": SCHEMA, "runs": runs})


@dataclass(frozen=True)
class Move:
    """A score that is not what it was.

    Attributes:
        run: The run's name.
        level: ``miou``, ``class`` or ``image``.
        name: Of the class or image; empty for mIoU.
        before: In percent; None when undefined.
        now: In percent; None when undefined.
        failed: It fell by more than the tolerance, or became undefined.
    """

    run: str
    level: str
    name: str
    before: float | None
    now: float | None
    failed: bool


def moves(name: str, before: Mapping[str, Any], now: Mapping[str, Any], tolerances: Mapping[str, float]) -> list[Move]:
    """Every score of a run that differs from the baseline's.

    Raises:
        RunError: Data or protocol are not the baseline's, so that scores cannot be compared.
    """
    for part in ("data", "protocol"):
        if before.get(part) != now[part]:
            raise RunError(f"'{name}' has another {part} than its baseline: if that is meant, measure with --update")
    found = []
    groups: list[tuple[str, Mapping[str, Any], Mapping[str, Any]]] = [
        ("miou", {"": before.get("miou")}, {"": now["miou"]}),
        ("class", before.get("classes", {}), now["classes"]),
        ("image", before.get("images", {}), now["images"]),
    ]
    for level, old, new in groups:
        for key in [*old, *(key for key in new if key not in old)]:
            was, is_ = old.get(key), new.get(key)
            if was != is_:
                failed = was is not None and (is_ is None or was - is_ > tolerances[level])
                found.append(Move(name, level, key, was, is_, failed))
    return found
