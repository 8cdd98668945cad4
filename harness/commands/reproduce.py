"""``ovseg reproduce``: the rows of a paper's tables, measured beside published."""

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NoReturn

from rich.table import Table
from rich.text import Text

from harness.commands import evaluate
from harness.commands.arguments import Parser
from harness.commands.console import console
from harness.commands.planned import NARROW, listed, print_plan
from harness.commands.rows import Quoted, Task, class_name, parse_row
from harness.engine.evaluation import Evaluation
from harness.studies import costs, reproduction
from harness.studies.reproduction import Measured
from harness.system import distributed
from harness.system.errors import ConfigurationError, OvsegError

SUMMARY = "evaluate the rows of a paper's tables and print measured beside published; the same --run_dir goes on"

# Of the columns of ``reproduction.HEADER``: published, measured, Δ, within, images.
AGREEMENT = (3, 4, 5, 6, 9)


class _Arguments(argparse.ArgumentParser):
    """Raises one sentence in the place of printing usage."""

    def error(self, message: str) -> NoReturn:
        raise ConfigurationError(f"{message} (see {self.prog} --help)")


def arguments_parser() -> argparse.ArgumentParser:
    """The command's own arguments; all others are those of ``ovseg evaluate``."""
    built = _Arguments(
        prog="ovseg reproduce",
        description=SUMMARY,
        epilog="All other flags are those of 'ovseg evaluate' and hold for all rows.",
        allow_abbrev=False,
    )
    built.add_argument("what", metavar="PAPER[/ROW]", help="a folder of --configs, or one file in it without .yaml")
    built.add_argument("--data_root", type=Path, default=None, help="folder of the data sets (default: $OVSEG_DATA)")
    built.add_argument("--run_dir", type=Path, default=None, help="for runs and table (default: runs/reproduce/PAPER)")
    built.add_argument(
        "--configs", type=Path, default=None, help=f"folder of the rows (default: {reproduction.FOLDER})"
    )
    built.add_argument("--rates", type=Path, default=None, help=f"measured rates for --dry_run (default: {costs.FILE})")
    built.add_argument(
        "--dry_run", action="store_true", help="say what would run, what is missing, and how long it takes"
    )
    return built


def run(arguments: list[str]) -> int:
    """Check all rows, then evaluate them; a row that lacks something is named and the others go on.

    Returns:
        2 when rows were to run and none could, else 0.

    Raises:
        ConfigurationError: There is no such row, a row's settings are wrong, or a file or folder is; nothing has run.
    """
    known, rest = arguments_parser().parse_known_args(arguments)
    configs = known.configs or reproduction.default_folder()
    rows = reproduction.resolve(known.what, configs)
    paper = rows[0].paper
    folder: Path = known.run_dir or Path("runs") / "reproduce" / paper
    parser = evaluate.parser()
    tasks = [parse_row(parser, row, rest, known.data_root, folder) for row in rows]
    earlier = reproduction.read(folder)
    if known.rates is not None and not known.rates.is_file():
        raise ConfigurationError(f"--rates {known.rates} is no file")
    if known.dry_run:
        file = known.rates or _beside(costs.FILE, configs)
        print_plan(tasks, [*costs.read(file), *costs.of_runs(earlier.values())])
        return 0
    _make(folder)
    order = [row.name for row in reproduction.papers(configs)[paper]]
    measured = _run_all(parser, tasks, folder, paper, earlier, order)
    if _leads():
        if any(each.why is None for each in measured):
            printer = console()
            printer.print(_table(paper, measured, printer.width))
        _print_missing([(each.row, each.why) for each in measured if each.why is not None])
        print(folder, flush=True)
    lacking = any(each.why is not None for each in measured)
    return 2 if lacking and all(each.run is None for each in measured) else 0


def _make(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigurationError(f"--run_dir {folder} cannot be made: {error.strerror}") from error


def _beside(file: Path, configs: Path) -> Path:
    """A file of the repository: here, or in the checkout that the rows are of."""
    return file if file.is_file() else configs.resolve().parents[1] / file


def _leads() -> bool:
    """Whether this process prints and writes; ranks know each other only once a row ran."""
    return distributed.rank() == 0 and distributed.is_main_process()


def _run_all(
    parser: Parser,
    tasks: Sequence[Task | Quoted],
    folder: Path,
    paper: str,
    earlier: dict[str, Measured],
    order: list[str],
) -> list[Measured]:
    """Evaluate row by row; the table on disk has every row that was measured, also by earlier starts."""
    done: dict[str, Measured] = {}
    outcomes, table = [], dict(earlier)
    for number, task in enumerate(tasks):
        if _leads():
            print(f"{number + 1} of {len(tasks)}: {task.row.paper}/{task.row.name}", flush=True)
        if isinstance(task, Quoted):
            outcome = Measured(task.row.name, task.published)
        else:
            if task.run not in done:
                done[task.run] = _run(parser, task, earlier.get(task.row.name))
            outcome = done[task.run].of(task.row.name, task.published)
        outcomes.append(outcome)
        if outcome.why is None:
            table[outcome.row] = outcome
        if _leads():
            reproduction.write(folder, paper, [table[name] for name in order if name in table])
    return outcomes


def _run(parser: Parser, task: Task, earlier: Measured | None) -> Measured:
    """Evaluate a row; what its benchmark or a model lacks is said in its outcome."""
    began = (task.parsed.run_dir / "run.json").exists()
    method = class_name(task.parsed.method.class_path)
    where = costs.hardware(task.parsed.trainer.accelerator)
    try:
        evaluation = evaluate.evaluate_parsed(parser, task.parsed, quiet=True)
    except OvsegError as error:
        return Measured(task.row.name, task.published, method=method, why=str(error))
    stages = costs.stages_of(evaluation.method.precomputed.stages, len(evaluation.vocabulary.foreground))
    known: str | None = where
    if began:
        # Records of an earlier start may be from another machine: what is known of it stays.
        same = earlier is not None and earlier.run == task.run
        known, stages = (earlier.hardware, earlier.stages or stages) if same and earlier else (None, ())
    results: dict[str, Any] = evaluation.results or {}
    return Measured(
        task.row.name,
        task.published,
        run=task.run,
        miou=results.get("miou"),
        per_image_miou=results.get("per_image_miou"),
        pixel_accuracy=results.get("pixel_accuracy"),
        images=results.get("num_images", 0),
        whole=_whole(evaluation),
        method=method,
        hardware=known,
        seconds=results.get("seconds", 0.0),
        stages=stages,
    )


def _whole(evaluation: Evaluation) -> bool:
    """Whether every picture of the benchmark was scored."""
    results = evaluation.results or {}
    return not results.get("skipped") and len(evaluation.data.ids) == len(evaluation.data.all_ids())


def _table(paper: str, measured: Sequence[Measured], width: int) -> Table:
    """Every column where there is room, else those that say how well a row agrees; the files have all of them."""
    narrow = width < NARROW
    drawn = Table(title=Text(f"{paper}: measured beside published"), title_justify="left", show_lines=narrow)
    for position, title in enumerate(reproduction.HEADER):
        if not narrow or position in (0, *AGREEMENT):
            words = position < 3
            drawn.add_column(title, justify="left" if words else "right", no_wrap=not words, overflow="fold")
    for each in measured:
        if each.why is None:
            cells = reproduction.line(each)
            shown = [f"{cells[0]}\n{cells[1]}", *(cells[position] for position in AGREEMENT)] if narrow else cells
            drawn.add_row(*map(Text, shown))
    return drawn


def _print_missing(missing: Sequence[tuple[str, str]]) -> None:
    """Each sentence once, with the rows that it holds for."""
    for why in dict.fromkeys(why for _, why in missing):
        rows = [row for row, each in missing if each == why]
        # print(), since a console would wrap commands and paths.
        print(f"did not run: {listed(rows)}: {why}")
