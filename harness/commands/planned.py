"""``ovseg reproduce --dry_run``: what would run, what it needs, what of that is missing here, and how long it takes."""

from collections.abc import Sequence
from typing import Any, NamedTuple

from jsonargparse import Namespace
from rich.table import Table
from rich.text import Text

from harness.commands.arguments import plain
from harness.commands.console import console
from harness.commands.rows import Quoted, Task, class_name, class_of
from harness.data.benchmark import Benchmark
from harness.data.datamodule import SegmentationData
from harness.method.method import SegmentationMethod
from harness.method.part import Requirement
from harness.studies import costs
from harness.studies.reproduction import Published, Row
from harness.system import distributed
from harness.system.errors import OvsegError

# Columns below which a table says in two lines what else stands side by side.
NARROW = 120


def listed(rows: Sequence[str], most: int = 4) -> str:
    """Names of rows in a sentence, the first few of many."""
    return ", ".join(rows) if len(rows) <= most else f"{', '.join(rows[:most])} and {len(rows) - most} more"


class Checked(NamedTuple):
    """What the data of a row are.

    Attributes:
        name: The benchmark's.
        images: How many pictures; None when nobody says.
        classes: The foreground's names.
        missing: Why it cannot be read, a sentence; None if it can.
    """

    name: str
    images: int | None
    classes: tuple[str, ...]
    missing: str | None


def check_data(parsed: Namespace) -> Checked:
    """Make the data module, which reads no picture, and read the first one."""
    found = class_of(parsed.data.class_path)
    class_names = parsed.protocol.class_names
    try:
        data: SegmentationData = found(**(plain(parsed.data).get("init_args") or {}))
        classes = data.vocabulary_for(class_names).foreground
        data.read(0)
        return Checked(data.name, len(data.ids), tuple(classes), None)
    except OvsegError as error:
        if not issubclass(found, Benchmark):
            return Checked(found.__name__, None, (), str(error))
        return Checked(found.name, found.num_images_published, _names(found, class_names), str(error))


def requirements_of(parsed: Namespace) -> list[Requirement]:
    """What a row's method reads from this machine; the method is constructed and nothing is loaded.

    Raises:
        ConfigurationError: A setting of the method is out of range.
    """
    method: SegmentationMethod = _construct(plain(parsed.method))
    return method.requires()


def _construct(value: Any) -> Any:
    """The object that ``class_path`` and ``init_args`` describe, at any depth; other values as they are."""
    if isinstance(value, list):
        return [_construct(item) for item in value]
    if not isinstance(value, dict):
        return value
    if "class_path" not in value:
        return {key: _construct(item) for key, item in value.items()}
    return class_of(value["class_path"])(**_construct(value.get("init_args") or {}))


def _names(found: type[Benchmark], class_names: str) -> tuple[str, ...]:
    """The foreground's names, which a benchmark knows without its files; none under names that it does not have."""
    try:
        return tuple(found.vocabulary_for(class_names).foreground)
    except OvsegError:
        return ()


def print_plan(rows: Sequence[Task | Quoted], rates: Sequence[costs.Rate]) -> None:
    """Print rows with what each needs; then, once, everything that is missing; then the hours."""
    if not distributed.is_main_process():
        return
    tasks = [row for row in rows if isinstance(row, Task)]
    checked = {task.row.name: check_data(task.parsed) for task in tasks}
    needed = {task.row.name: requirements_of(task.parsed) for task in tasks}
    plans = [
        costs.Plan(
            task.row.name,
            class_name(task.parsed.method.class_path),
            checked[task.row.name].images,
            checked[task.row.name].classes,
        )
        for task in tasks
    ]
    hours = costs.estimate(plans, rates)
    quoted = [row for row in rows if isinstance(row, Quoted)]
    planned = zip(tasks, plans, strict=True)
    lines = [_planned(task, checked[task.row.name], needed[task.row.name], plan, hours) for task, plan in planned]
    lines += [(*_quoted(row.row, row.published), "not run", "", "-") for row in quoted]
    printer = console()
    printer.print(_table(lines, printer.width))
    if quoted:
        print(f"given as published only: {listed([row.row.name for row in quoted])}")
    _print_needs(tasks, checked, needed)
    _print_hours(plans, hours)


def _table(lines: Sequence[Sequence[str]], width: int) -> Table:
    """Side by side where there is room, else what a row stands in below its name."""
    titles, narrow = ["row", "stands in", "published", "data", "needs", "hours"], width < NARROW
    if narrow:
        titles.remove("stands in")
        lines = [
            (f"{row}\n{where}", value, *(each.replace(" (", "\n(") for each in rest))
            for row, where, value, *rest in lines
        ]
    drawn = Table(title="what would run", title_justify="left", show_lines=narrow)
    for title in titles:
        drawn.add_column(title, justify="right" if title in ("published", "hours") else "left", overflow="fold")
    for line in lines:
        drawn.add_row(*map(Text, line))
    return drawn


def _planned(
    task: Task, data: Checked, needed: Sequence[Requirement], plan: costs.Plan, hours: costs.Estimate
) -> tuple[str, ...]:
    absent = sum(need.missing is not None for need in needed)
    took = hours.pictures.get(plan.row)
    return (
        *_quoted(task.row, task.published),
        data.name + (" (missing)" if data.missing else ""),
        f"{len(needed)}" + (f" ({absent} missing)" if absent else ""),
        "-" if took is None else f"{took:.2f}",
    )


def _quoted(row: Row, published: Published) -> tuple[str, str, str]:
    where = f"{published.table}, {published.row}, {published.benchmark}"
    return row.name, where, "-" if published.value is None else f"{published.value:.2f}"


def _print_needs(tasks: Sequence[Task], checked: dict[str, Checked], needed: dict[str, list[Requirement]]) -> None:
    lacking = [(data.missing, row) for row, data in checked.items() if data.missing is not None]
    for why in dict.fromkeys(why for why, _ in lacking):
        print(f"missing data: {why} (for {listed([row for each, row in lacking if each == why])})")
    every = {(need.kind, need.name): need for each in needed.values() for need in each}
    for (kind, name), need in sorted(every.items()):
        rows = [row for row, each in needed.items() if any((n.kind, n.name) == (kind, name) for n in each)]
        state = "here" if need.missing is None else "missing"
        print(f"{state}: {kind} {name}" + (f": {need.missing} (for {listed(rows)})" if need.missing else ""))
    ready = [
        task.row.name
        for task in tasks
        if checked[task.row.name].missing is None and all(need.missing is None for need in needed[task.row.name])
    ]
    print(f"{len(ready)} of {len(tasks)} rows can run here" + (f": {listed(ready)}" if ready else ""))


def _print_hours(plans: Sequence[costs.Plan], hours: costs.Estimate) -> None:
    for method, rate in hours.used.items():
        rows = [plan.row for plan in plans if plan.method == method and plan.row in hours.pictures]
        pictures = sum(hours.pictures[row] for row in rows)
        made = hours.precompute[method]
        first = f" and {made:.2f} for what is made before the first picture, shared by the rows" if made else ""
        print(
            f"about {pictures:.2f} for the pictures of {len(rows)} rows{first}, in {costs.unit(rate.hardware)}"
            f" ({rate.image:.3g} s a picture by {rate.source})"
        )
    unknown = sorted({plan.method for plan in plans} - set(hours.used))
    if unknown:
        print(f"no rate was measured for {', '.join(unknown)}: benchmarks/rates.py measures them")
