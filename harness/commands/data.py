"""``ovseg data``: list benchmarks, check one on disk, or convert one."""

import inspect
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Literal, NamedTuple

from rich.table import Table
from rich.text import Text

from harness.commands.arguments import Parser
from harness.commands.console import console
from harness.data.benchmark import IGNORE_LABEL, ROOT_VARIABLE, Benchmark, data_root
from harness.data.datamodule import SegmentationData
from harness.data.inspection import Inspection
from harness.data.inspection import inspect as inspect_benchmark
from harness.data.preparation import prepare
from harness.system.errors import ConfigurationError, DataError, OvsegError, did_you_mean
from harness.system.parallel import resolve_num_workers
from harness.system.plugins import DATA, find_plugins

SUMMARY = "list benchmarks, check one that is on disk, or prepare one that has to be converted"
# Maximum number of problems printed per kind.
SHOWN = 10
# Columns of a terminal: from WIDE on, archives and paths stand side by side; below NARROW only paths have room.
WIDE = 100
NARROW = 76


def parser() -> Parser:
    """The command's arguments."""
    built = Parser(prog="ovseg data", description=SUMMARY)
    built.add_argument("action", type=Literal["list", "check", "prepare"], help="list, check or prepare")
    built.add_argument("name", type=str | None, nargs="?", default=None, help="a benchmark, as 'list' names it")
    built.add_argument(
        "--root",
        type=Path | None,
        default=None,
        help=f"folder of the benchmark, or of all (default: ${ROOT_VARIABLE})",
    )
    built.add_argument("--workers", type=int | None, default=None, help="processes (default: one per core, at most 16)")
    return built


def run(arguments: list[str]) -> int:
    """Do it; exit code 1 when something is wrong with the data."""
    given = parser().parse_args(arguments)
    workers = resolve_num_workers(given.workers)
    if given.action == "list":
        return _list(given.name, given.root)
    if given.name is None:
        raise ConfigurationError(f"which benchmark? 'ovseg data {given.action} NAME'; 'ovseg data list' names them")
    benchmark = benchmark_class(given.name)
    root = data_root(given.root)
    if root is None:
        raise ConfigurationError(f"give the folder of {benchmark.name} with --root, or set {ROOT_VARIABLE}")
    if given.action == "check":
        return check(benchmark, root, workers)
    return make(benchmark, root, workers)


def data_classes() -> dict[str, type[SegmentationData] | Exception]:
    """All data modules by name, ours and other packages', or why one cannot be imported."""
    classes: dict[str, type[SegmentationData] | Exception] = {}
    for name, point in find_plugins(DATA).items():
        try:
            classes[name] = point.load()
        except Exception as error:  # an error in another package must not hide the rest
            classes[name] = error
    return classes


def benchmark_class(name: str) -> type[Benchmark]:
    """The benchmark of this name.

    Raises:
        ConfigurationError: There is none, or it is no published benchmark.
    """
    classes = data_classes()
    found = classes.get(name)
    if isinstance(found, type) and issubclass(found, Benchmark):
        return found
    if isinstance(found, Exception):
        raise ConfigurationError(f"the benchmark '{name}' cannot be imported: {found}")
    known = [each for each, made in classes.items() if isinstance(made, type) and issubclass(made, Benchmark)]
    what = "is no published benchmark; those are" if found else "is none of the benchmarks"
    raise ConfigurationError(f"'{name}' {what} {', '.join(known)}{did_you_mean(name, known)}")


class Row(NamedTuple):
    """A line of ``ovseg data list``."""

    name: str
    classes: str
    images: str
    needs: str
    found: str


def row(name: str, found: type[SegmentationData] | Exception, root: Path | None) -> Row:
    """The table row of a data module."""
    if isinstance(found, Exception):
        return Row(name, "?", "?", f"cannot be imported: {found}", "-")
    if not issubclass(found, Benchmark):
        return _other(name, found)
    try:
        classes = str(len(found.default_vocabulary()))
    except OvsegError as error:
        return Row(name, "?", "?", str(error), "-")
    labels = "\nor ".join(source.name for source in found.label_sources)
    needs = "\n".join(dict.fromkeys([found.images_source.name, labels]))
    return Row(name, classes, str(found.num_images_published or "?"), needs, whereabouts(found, root))


def _other(name: str, found: type[SegmentationData]) -> Row:
    """A data module that is no published benchmark: one that needs no arguments can be asked."""
    needed = [
        parameter.name
        for parameter in inspect.signature(found).parameters.values()
        if parameter.default is parameter.empty and parameter.kind is parameter.POSITIONAL_OR_KEYWORD
    ]
    if needed:
        return Row(name, "-", "-", ", ".join(f"--data.{argument}" for argument in needed), "-")
    try:
        data = found()
        return Row(name, str(len(data.vocabulary)), str(len(data.ids)), "nothing", "built in")
    except Exception as error:  # an error in another package must not hide the rest
        return Row(name, "?", "?", f"{type(error).__name__}: {error}", "-")


def whereabouts(benchmark: type[Benchmark], root: Path | None) -> str:
    """Where a benchmark is below ``root``, and what is not done yet."""
    folder = None if root is None else benchmark.locate(root)
    if root is None or folder is None:
        return "-"
    below = folder.relative_to(root).as_posix()
    try:
        first = benchmark.find_ids(folder)[0]
    except DataError:
        first = None
    layout = benchmark.layout
    if first is not None and (folder / layout.labels / f"{first}{layout.label_suffix}").is_file():
        return below
    return f"{below} (not prepared)" if benchmark.prepared_parts else f"{below} (incomplete)"


def _list(name: str | None, given: Path | None) -> int:
    root = data_root(given)
    if given is not None and not given.expanduser().is_dir():
        raise DataError(f"the folder {given} is missing (--root)")
    if name is not None:
        describe(benchmark_class(name), root)
        return 0
    out = console()
    rows = [row(each, found, root) for each, found in data_classes().items()]
    out.print(listed(rows, "nowhere" if root is None else str(root), out.width))
    if root is None:
        out.print(f"give a folder of data sets with --root, or set {ROOT_VARIABLE}")
    out.print("'ovseg data list NAME' says what one needs, and where that is published", highlight=False)
    return 0


def listed(rows: Sequence[Row], where: str, width: int) -> Table:
    """The benchmarks, in as many columns as a terminal of this width has room for."""
    table = Table(title=Text(f"data sets, searched in {where}"), title_justify="left")
    table.add_column("name", no_wrap=True)
    if width >= NARROW:
        table.add_column("classes", justify="right", no_wrap=True)
        table.add_column("images", justify="right", no_wrap=True)
    if width >= WIDE:
        table.add_column("needs", overflow="fold")
    table.add_column("found" if width >= WIDE or width < NARROW else "needs, and where it is", overflow="fold")
    for name, classes, images, needs, found in rows:
        cells = {
            width >= WIDE: (name, classes, images, needs, found),
            NARROW <= width < WIDE: (name, classes, images, needs if found == "-" else f"{needs}\n→ {found}"),
            width < NARROW: (name, found),
        }[True]
        # Paths and messages are not markup.
        table.add_row(*map(Text, cells))
    return table


def describe(benchmark: type[Benchmark], root: Path | None) -> None:
    """Print where a benchmark is published, where its files have to lie, and whether they do."""
    layout, place = benchmark.layout, benchmark.default_folders[0]
    vocabulary = benchmark.default_vocabulary()
    background = ", the first of them the background" if vocabulary.background else ""
    lines = [
        f"{benchmark.name}: {(benchmark.__doc__ or '').strip().splitlines()[0]}",
        f"classes:    {len(vocabulary)}{background}",
        f"images:     {benchmark.num_images_published or 'not published'}",
        *(f"  or        {images}: {split}" for images, split in benchmark.other_splits.items()),
        f"images:     ROOT/{place}/{layout.images}/*{layout.image_suffix}",
        f"  from      {benchmark.images_source.name}",
        f"            {benchmark.images_source.url}",
        f"label maps: ROOT/{place}/{layout.labels}/*{layout.label_suffix}",
    ]
    for word, source in zip(
        ["  from", *["  or"] * len(benchmark.label_sources)], benchmark.label_sources, strict=False
    ):
        lines += [f"{word:<12}{source.name}", f"{'':<12}{source.url}"]
    if layout.ids is not None:
        lines.append(f"list:       ROOT/{place}/{layout.ids}")
    if benchmark.prepared_parts:
        what = " and ".join({"labels": "label maps", "list": "list"}[part] for part in sorted(benchmark.prepared_parts))
        lines.append(f"prepare:    'ovseg data prepare {benchmark.name} --root ROOT' makes the {what}")
    lines.append(f"found:      {whereabouts(benchmark, root)}" + ("" if root is None else f" in {root}"))
    # print(), since a console would wrap addresses.
    print("\n".join(lines))


def check(benchmark: type[Benchmark], root: Path, workers: int) -> int:
    """Look at every file; exit code 1 when something is wrong."""
    found = inspect_benchmark(benchmark, root, workers)
    if found.num_images:
        console().print(summary(benchmark, found))
    shown: Counter[str] = Counter()
    for problem in found.problems:
        shown[problem.kind] += 1
        if shown[problem.kind] <= SHOWN:
            print(f"{problem.kind}: {problem.message}")
    for kind, count in shown.items():
        if count > SHOWN:
            print(f"{kind}: {count - SHOWN} more")
    count = len(found.problems)
    verdict = "no problems" if not count else "1 problem" if count == 1 else f"{count} problems"
    print(f"{benchmark.name} in {found.folder}: {verdict}")
    return 1 if count else 0


def summary(benchmark: type[Benchmark], found: Inspection) -> Table:
    """The inspection as a table."""
    classes = len(benchmark.default_vocabulary())
    labelled = sum(value < classes for value in found.pixels)
    total = found.pixels.total()
    ignored = f"{100 * found.pixels[IGNORE_LABEL] / total:.1f} %" if total else "-"
    table = Table(title=benchmark.name, title_justify="left", show_header=False)
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    published = (
        "number not published"
        if benchmark.num_images_published is None
        else f"{benchmark.num_images_published} published"
    )
    split = benchmark.other_splits.get(found.num_images)
    table.add_row("images", f"{found.num_images} ({published}{'' if split is None else f'; this is {split}'})")
    table.add_row("classes that occur", f"{labelled} of {classes}")
    table.add_row("ignored pixels", ignored)
    table.add_row("fingerprint", found.fingerprint or "-")
    table.add_row("pixel fingerprint", found.pixel_fingerprint or "-")
    return table


def make(benchmark: type[Benchmark], root: Path, workers: int) -> int:
    """Make what is missing; exit code 1 when something could not be made."""
    if not benchmark.prepared_parts:
        print(f"{benchmark.name} needs no preparation: it is read as it is published")
        return 0
    folder = benchmark.find_folder(root)
    done = prepare(benchmark.jobs(folder), workers, benchmark.name)
    for error in done.errors[:SHOWN]:
        print(f"error: {error}")
    if len(done.errors) > SHOWN:
        print(f"error: {len(done.errors) - SHOWN} more")
    failed = f", {len(done.errors)} failed" if done.errors else ""
    print(f"{benchmark.name} in {folder}: {done.num_written} files written, {done.num_existing} already there{failed}")
    return 1 if done.errors else 0
