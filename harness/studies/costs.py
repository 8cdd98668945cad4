"""How long rows will take, from measured rates: a file of them (``benchmarks/rates.py`` writes it) and earlier runs."""

import json
import platform
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

import torch

from harness.artifacts.stage import StageReport
from harness.studies.study import CellResult
from harness.system.errors import ConfigurationError

SCHEMA = 1
FILE = Path("benchmarks") / "rates.json"


class StageRate(NamedTuple):
    """The rate of one kind of precompute.

    Attributes:
        name: The stage's.
        seconds: Per item.
        items: How many items it had.
        per: Whether there is an item for every ``class``, made once for all benchmarks that have it, or as many for all
            vocabularies, made ``once``.
    """

    name: str
    seconds: float
    items: int
    per: Literal["class", "once"]


class Rate(NamedTuple):
    """How fast a method is somewhere.

    Attributes:
        method: Its class by module and name.
        hardware: As ``hardware`` gives it.
        image: Seconds per image.
        stages: Of its precompute.
        source: Where this was measured, for a person to read.
    """

    method: str
    hardware: str
    image: float
    stages: tuple[StageRate, ...]
    source: str


class Plan(NamedTuple):
    """A row's work.

    Attributes:
        row: Its name.
        method: Its method's class by module and name.
        images: How many images its benchmark has; None if unknown.
        classes: The names of the classes that precompute makes something for.
        seeds: Of its runs; precompute makes something else for each. Null stands for a method without one.
    """

    row: str
    method: str
    images: int | None
    classes: tuple[str, ...]
    seeds: tuple[int | None, ...] = (None,)


class Estimate(NamedTuple):
    """What some rows will take.

    Attributes:
        images: Hours per row; rows that cannot be estimated are left out.
        precompute: Hours per method, what its rows share being counted once.
        used: The rate of each method that could be estimated.
    """

    image_hours: dict[str, float]
    precompute: dict[str, float]
    used: dict[str, Rate]


def hardware(accelerator: str = "auto") -> str:
    """What a Trainer with this accelerator runs on: ``cuda: NAME``, ``mps``, or ``cpu: NAME, n threads``."""
    if accelerator in ("auto", "gpu", "cuda") and torch.cuda.is_available():
        return f"cuda: {torch.cuda.get_device_name()}"
    if accelerator in ("auto", "gpu", "mps") and torch.backends.mps.is_available():
        return "mps"
    threads = torch.get_num_threads()
    return f"cpu: {_processor()}, {threads} thread{'s' if threads > 1 else ''}"


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    named = [text.partition(":")[2].strip() for text in lines if text.startswith("model name")]
    return named[0] if named else platform.processor() or platform.machine()


def unit(where: str) -> str:
    """What an hour on this hardware is called; only a GPU's is a GPU-hour."""
    kind, _, name = where.partition(": ")
    return {"cuda": f"GPU-hours on {name}", "cpu": f"CPU-hours on {name}"}.get(kind, f"hours on {where}")


def stages_of(reports: Sequence[StageReport], classes: int) -> tuple[dict[str, Any], ...]:
    """The rates of stages of which everything was made in this run, as JSON; wall seconds count for every rank."""
    found = []
    for report in reports:
        if report.num_items and sum(report.computed_per_rank) == report.num_items:
            per = "class" if report.num_items == classes else "once"
            seconds = report.seconds * len(report.computed_per_rank) / report.num_items
            found.append({"name": report.name, "seconds": seconds, "items": report.num_items, "per": per})
    return tuple(found)


def read(file: Path) -> list[Rate]:
    """The rates in a file; none if it is missing.

    Raises:
        ConfigurationError: The file is damaged.
    """
    if not file.is_file():
        return []
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
        return [
            Rate(
                each["method"],
                content["hardware"],
                float(each["image"]),
                tuple(StageRate(**stage) for stage in each["stages"]),
                f"{file}: {each['experiment']}",
            )
            for each in content["rates"]
        ]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ConfigurationError(f"{file} is no file of rates ({error}); benchmarks/rates.py writes one") from error


def of_runs(runs: Iterable[CellResult]) -> list[Rate]:
    """The rates of runs whose hardware is known and whose pass over the data was their own."""
    return [
        Rate(
            run.method,
            run.hardware,
            run.seconds / run.images,
            tuple(StageRate(**stage) for stage in run.stages),
            f"the run of {run.cell.name}",
        )
        for run in runs
        if run.method is not None and run.hardware is not None and run.images and not run.joint
    ]


def estimate(plans: Sequence[Plan], rates: Sequence[Rate]) -> Estimate:
    """Hours of rows: a GPU's rates are taken before others, and of those the last one.

    A stage that a rate lacks, since another run had made its items, is taken from the method's next best rate.
    """
    found = Estimate({}, {}, {})
    counted: dict[str, set[tuple[str, int | None]]] = {}
    for plan in plans:
        own = sorted((rate for rate in reversed(rates) if rate.method == plan.method), key=_is_no_gpu)
        if not own or plan.images is None:
            continue
        best = found.used.setdefault(plan.method, own[0])
        found.image_hours[plan.row] = len(plan.seeds) * plan.images * best.image / 3600
        known = counted.setdefault(plan.method, set())
        items = [(name, seed) for seed in plan.seeds for name in dict.fromkeys(plan.classes)]
        new = [item for item in items if item not in known]
        known.update(new)
        stages: dict[str, StageRate] = {}
        for stage in (stage for rate in own if rate.hardware == best.hardware for stage in rate.stages):
            stages.setdefault(stage.name, stage)
        first = plan.method not in found.precompute
        seconds = sum(
            stage.seconds * (len(new) if stage.per == "class" else stage.items if first else 0)
            for stage in stages.values()
        )
        found.precompute[plan.method] = found.precompute.get(plan.method, 0.0) + seconds / 3600
    return found


def _is_no_gpu(rate: Rate) -> bool:
    return not rate.hardware.startswith("cuda")
