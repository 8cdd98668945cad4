"""``ovseg reproduce --dry_run``: what would run, what it needs, what of that is missing here, and how long it takes."""

from collections.abc import Mapping, Sequence
from pkgutil import resolve_name
from typing import Any, NamedTuple

from jsonargparse import Namespace
from rich.table import Table
from rich.text import Text

from harness.commands.arguments import plain
from harness.commands.console import console
from harness.data.benchmark import Benchmark
from harness.data.datamodule import SegmentationData
from harness.method.method import SegmentationMethod
from harness.method.part import Requirement
from harness.studies import costs
from harness.studies.study import Cell
from harness.system import distributed
from harness.system.errors import OvsegError

# Columns below which a table says in two lines what else stands side by side.
NARROW = 120


def listed(rows: Sequence[str], limit: int = 4) -> str:
    """Names of rows in a sentence, the first few of many."""
    return ", ".join(rows) if len(rows) <= limit else f"{', '.join(rows[:limit])} and {len(rows) - limit} more"


def class_name(path: str) -> str:
    """A class by the module that defines it: ``methods.clip_diy.ClipDIY`` for ``methods.ClipDIY``."""
    found: type = resolve_name(path)
    return f"{found.__module__}.{found.__qualname__}"


class DataSummary(NamedTuple):
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


def check_data(parsed: Namespace) -> DataSummary:
    """Make the data module, which reads no image, and read the first one."""
    found: type = resolve_name(parsed.data.class_path)
    class_names = parsed.protocol.class_names
    try:
        data: SegmentationData = found(**(plain(parsed.data).get("init_args") or {}))
        classes = data.vocabulary_for(class_names).foreground
        data.read(0)
        return DataSummary(data.name, len(data.ids), tuple(classes), None)
    except OvsegError as error:
        if not issubclass(found, Benchmark):
            return DataSummary(found.__name__, None, (), str(error))
        return DataSummary(found.name, found.num_images_published, _names(found, class_names), str(error))


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
    return resolve_name(value["class_path"])(**_construct(value.get("init_args") or {}))


def _names(found: type[Benchmark], class_names: str) -> tuple[str, ...]:
    """The foreground's names, which a benchmark knows without its files; none under names that it does not have."""
    try:
        return tuple(found.vocabulary_for(class_names).foreground)
    except OvsegError:
        return ()


def print_plan(cells: Sequence[Cell], parsed: Mapping[str, Namespace], rates: Sequence[costs.Rate]) -> None:
    """Print cells with what each needs; then, once, everything that is missing; then the hours.

    Args:
        cells: In their order; those that are only quoted come last.
        parsed: The settings of the others, by name.
        rates: Measured ones.
    """
    if not distributed.is_main_process():
        return
    running, quoted = [cell for cell in cells if not cell.quoted], [cell for cell in cells if cell.quoted]
    data = {cell.name: check_data(parsed[cell.name]) for cell in running}
    needed = {cell.name: requirements_of(parsed[cell.name]) for cell in running}
    plans = [
        costs.Plan(
            cell.name,
            class_name(parsed[cell.name].method.class_path),
            data[cell.name].images,
            data[cell.name].classes,
            cell.seeds or (plain(parsed[cell.name].method).get("init_args", {}).get("seed"),),
        )
        for cell in running
    ]
    hours = costs.estimate(plans, rates)
    lines = [_planned(cell, data[cell.name], needed[cell.name], hours.image_hours.get(cell.name)) for cell in running]
    lines += [(*_published(cell), "not run", "", "-") for cell in quoted]
    printer = console()
    printer.print(_table(lines, printer.width))
    for seeds in dict.fromkeys(cell.seeds for cell in running if cell.seeds):
        rows = [cell.name for cell in running if cell.seeds == seeds]
        print(f"mean over the seeds {', '.join(map(str, seeds))}: {listed(rows)}")
    if quoted:
        print(f"given as published only: {listed([cell.name for cell in quoted])}")
    _print_needs([cell.name for cell in running], data, needed)
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
    table = Table(title="what would run", title_justify="left", show_lines=narrow)
    for title in titles:
        table.add_column(title, justify="right" if title in ("published", "hours") else "left", overflow="fold")
    for line in lines:
        table.add_row(*map(Text, line))
    return table


def _planned(cell: Cell, data: DataSummary, needed: Sequence[Requirement], hours: float | None) -> tuple[str, ...]:
    absent = sum(need.missing is not None for need in needed)
    return (
        *_published(cell),
        data.name + (" (missing)" if data.missing else ""),
        f"{len(needed)}" + (f" ({absent} missing)" if absent else ""),
        "-" if hours is None else f"{hours:.2f}",
    )


def _published(cell: Cell) -> tuple[str, str, str]:
    published = cell.published
    if published is None:
        return cell.name, "", "-"
    where = f"{published.table}, {published.row}, {published.benchmark}"
    value = "-" if published.value is None else f"{published.value:.2f}"
    return cell.name, where, value + ("" if published.deviation is None else f" ± {published.deviation:g}")


def _print_needs(rows: Sequence[str], data: Mapping[str, DataSummary], needed: Mapping[str, list[Requirement]]) -> None:
    lacking = [(each.missing, row) for row, each in data.items() if each.missing is not None]
    for why in dict.fromkeys(why for why, _ in lacking):
        print(f"missing data: {why} (for {listed([row for each, row in lacking if each == why])})")
    every = {(need.kind, need.name): need for each in needed.values() for need in each}
    for (kind, name), need in sorted(every.items()):
        asking = [row for row, each in needed.items() if any((n.kind, n.name) == (kind, name) for n in each)]
        state = "here" if need.missing is None else "missing"
        print(f"{state}: {kind} {name}" + (f": {need.missing} (for {listed(asking)})" if need.missing else ""))
    ready = [row for row in rows if data[row].missing is None and all(need.missing is None for need in needed[row])]
    print(f"{len(ready)} of {len(rows)} rows can run here" + (f": {listed(ready)}" if ready else ""))


def _print_hours(plans: Sequence[costs.Plan], hours: costs.Estimate) -> None:
    for method, rate in hours.used.items():
        rows = [plan.row for plan in plans if plan.method == method and plan.row in hours.image_hours]
        total = sum(hours.image_hours[row] for row in rows)
        made = hours.precompute[method]
        first = f" and {made:.2f} for what is made before the first image, shared by the rows" if made else ""
        print(
            f"about {total:.2f} for the images of {len(rows)} rows{first}, in {costs.unit(rate.hardware)}"
            f" ({rate.image:.3g} s an image by {rate.source})"
        )
    unknown = sorted({plan.method for plan in plans} - set(hours.used))
    if unknown:
        print(f"no rate was measured for {', '.join(unknown)}: benchmarks/rates.py measures them")
