"""``ovseg reproduce --dry_run``: what would run, what it needs, what of that is missing here, and how long it takes."""

from collections.abc import Sequence
from typing import Any, NamedTuple

from jsonargparse import Namespace
from rich.table import Table
from rich.text import Text

from harness.commands.arguments import plain
from harness.commands.cells import ParsedCell, class_name, class_of
from harness.commands.console import console
from harness.data.benchmark import Benchmark
from harness.data.datamodule import SegmentationData
from harness.method.method import SegmentationMethod
from harness.method.part import Requirement
from harness.studies import costs
from harness.studies.papers import Cell, Published
from harness.system import distributed
from harness.system.errors import OvsegError

# Columns below which a table says in two lines what else stands side by side.
NARROW = 120


def listed(rows: Sequence[str], most: int = 4) -> str:
    """Names of cells in a sentence, the first few of many."""
    return ", ".join(rows) if len(rows) <= most else f"{', '.join(rows[:most])} and {len(rows) - most} more"


class DataStatus(NamedTuple):
    """What the data of a cell are.

    Attributes:
        name: The benchmark's.
        images: How many images; None if unknown.
        classes: The foreground's names.
        missing: Why it cannot be read, a sentence; None if it can.
    """

    name: str
    images: int | None
    classes: tuple[str, ...]
    missing: str | None


def check_data(parsed: Namespace) -> DataStatus:
    """Make the data module, which reads no image, and read the first one."""
    found = class_of(parsed.data.class_path)
    class_names = parsed.protocol.class_names
    try:
        data: SegmentationData = found(**(plain(parsed.data).get("init_args") or {}))
        classes = data.vocabulary_for(class_names).foreground
        data.read(0)
        return DataStatus(data.name, len(data.ids), tuple(classes), None)
    except OvsegError as error:
        if not issubclass(found, Benchmark):
            return DataStatus(found.__name__, None, (), str(error))
        return DataStatus(found.name, found.num_images_published, _names(found, class_names), str(error))


def requirements_of(parsed: Namespace) -> list[Requirement]:
    """What a cell's method reads from this machine; the method is constructed and nothing is loaded.

    Raises:
        ConfigurationError: A setting of the method is out of range.
    """
    method: SegmentationMethod = _construct(plain(parsed.method))
    return method.requires()


def lacks_requirements(parsed: Namespace) -> bool:
    """Whether something that the method reads is missing on this machine, or a setting of it is out of range."""
    try:
        return any(requirement.missing is not None for requirement in requirements_of(parsed))
    except OvsegError:
        return True


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


def print_plan(cells: Sequence[ParsedCell | Cell], rates: Sequence[costs.Rate]) -> None:
    """Print cells with what each needs; then, once, the notes, everything that is missing, and the hours."""
    if not distributed.is_main_process():
        return
    tasks = [each for each in cells if isinstance(each, ParsedCell)]
    checked = {task.cell.name: check_data(task.parsed) for task in tasks}
    needed = {task.cell.name: requirements_of(task.parsed) for task in tasks}
    plans = [
        costs.Workload(
            task.cell.name,
            class_name(task.parsed.method.class_path),
            checked[task.cell.name].images,
            checked[task.cell.name].classes,
        )
        for task in tasks
    ]
    hours = costs.estimate(plans, rates)
    quoted = [each for each in cells if isinstance(each, Cell)]
    planned = zip(tasks, plans, strict=True)
    lines = [_planned(task, checked[task.cell.name], needed[task.cell.name], plan, hours) for task, plan in planned]
    lines += [(*_stands_in(cell, cell.published), "not run", "", "-") for cell in quoted]
    printer = console()
    printer.print(_table(lines, printer.width))
    if quoted:
        print(f"given as published only: {listed([cell.name for cell in quoted])}")
    if len(cells) == 1 and (note := (quoted or [tasks[0].cell])[0].note):
        print(f"note: {note}")
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
    task: ParsedCell, data: DataStatus, needed: Sequence[Requirement], plan: costs.Workload, hours: costs.Estimate
) -> tuple[str, ...]:
    absent = sum(need.missing is not None for need in needed)
    took = hours.image_hours.get(plan.row)
    return (
        *_stands_in(task.cell, task.published),
        data.name + (" (missing)" if data.missing else ""),
        f"{len(needed)}" + (f" ({absent} missing)" if absent else ""),
        "-" if took is None else f"{took:.2f}",
    )


def _stands_in(cell: Cell, published: Published) -> tuple[str, str, str]:
    where = f"{published.table}, {published.row}, {published.benchmark}"
    return cell.name, where, "-" if published.value is None else f"{published.value:.2f}"


def _print_needs(
    tasks: Sequence[ParsedCell], checked: dict[str, DataStatus], needed: dict[str, list[Requirement]]
) -> None:
    lacking = [(data.missing, row) for row, data in checked.items() if data.missing is not None]
    for why in dict.fromkeys(why for why, _ in lacking):
        print(f"missing data: {why} (for {listed([row for each, row in lacking if each == why])})")
    every = {(need.kind, need.name): need for each in needed.values() for need in each}
    for (kind, name), need in sorted(every.items()):
        rows = [row for row, each in needed.items() if any((n.kind, n.name) == (kind, name) for n in each)]
        state = "here" if need.missing is None else "missing"
        print(f"{state}: {kind} {name}" + (f": {need.missing} (for {listed(rows)})" if need.missing else ""))
    ready = [
        task.cell.name
        for task in tasks
        if checked[task.cell.name].missing is None and all(need.missing is None for need in needed[task.cell.name])
    ]
    print(f"{len(ready)} of {len(tasks)} cells can run here" + (f": {listed(ready)}" if ready else ""))


def _print_hours(plans: Sequence[costs.Workload], hours: costs.Estimate) -> None:
    for method, rate in hours.used.items():
        rows = [plan.row for plan in plans if plan.method == method and plan.row in hours.image_hours]
        total = sum(hours.image_hours[row] for row in rows)
        made = hours.precompute[method]
        first = f" and {made:.2f} for what is made before the first image, shared by the cells" if made else ""
        print(
            f"about {total:.2f} for the images of {len(rows)} cells{first}, in {costs.unit(rate.hardware)}"
            f" ({rate.image:.3g} s an image by {rate.source})"
        )
    unknown = sorted({plan.method for plan in plans} - set(hours.used))
    if unknown:
        print(f"no rate was measured for {', '.join(unknown)}: benchmarks/rates.py measures them")
