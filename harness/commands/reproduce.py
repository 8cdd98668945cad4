"""``ovseg reproduce``: the rows of a paper's tables, measured beside published."""

import argparse
import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from jsonargparse import Namespace
from rich.table import Table
from rich.text import Text

from harness.commands.arguments import SentenceParser, plain
from harness.commands.console import console
from harness.commands.evaluate import parse_seeds
from harness.commands.joint_evaluation import JointEvaluator
from harness.commands.planned import NARROW, class_name, listed, print_plan
from harness.data.protocol import fingerprint
from harness.studies import costs
from harness.studies.readers import PAPERS, default_papers, paper_file, read_paper, select
from harness.studies.runner import Evaluated, Runner, result_of, results_of
from harness.studies.study import Cell, CellResult
from harness.studies.tables import COMPARISON, comparison, read_comparison, write_comparison
from harness.system import distributed
from harness.system.errors import ConfigurationError

SUMMARY = "evaluate the rows of a paper's tables and print measured beside published; the same --run_dir resumes"

# Of the columns of ``COMPARISON``: published, measured, Δ, within, images.
AGREEMENT = (3, 4, 5, 6, 9)
# Arguments of data that say where images are and how they are read, not what is scored.
READING = ("root", "batch_size", "num_workers", "on_error")


def arguments_parser() -> argparse.ArgumentParser:
    """The command's own arguments; all others are those of ``ovseg evaluate``."""
    built = SentenceParser(
        prog="ovseg reproduce",
        description=SUMMARY,
        epilog="All other flags are those of 'ovseg evaluate' and hold for all rows.",
        allow_abbrev=False,
    )
    built.add_argument(
        "what",
        metavar="PAPER[/TABLE[/ROW[/COLUMN]]]",
        help="a file of --configs without .yaml, and in it a table, a row or a single cell by name",
    )
    built.add_argument("--data_root", type=Path, default=None, help="folder of the data sets (default: $OVSEG_DATA)")
    built.add_argument("--run_dir", type=Path, default=None, help="for runs and table (default: runs/reproduce/PAPER)")
    built.add_argument("--configs", type=Path, default=None, help=f"folder of the papers' files (default: {PAPERS})")
    built.add_argument("--seeds", help="mean and deviation over these seeds of the method: 42,43 (default: the file's)")
    built.add_argument("--rates", type=Path, default=None, help=f"measured rates for --dry_run (default: {costs.FILE})")
    built.add_argument(
        "--dry_run", action="store_true", help="say what would run, what is missing, and how long it takes"
    )
    return built


def run(arguments: list[str]) -> int:
    """Check all cells, then evaluate them; one that lacks something is named and the others are evaluated.

    Returns:
        2 when cells were to run and none could, else 0.

    Raises:
        ConfigurationError: There is no such cell, a cell's settings are wrong, or a file or folder is; nothing has run.
    """
    known, rest = arguments_parser().parse_known_args(arguments)
    configs = known.configs or default_papers()
    paper, slash, selection = known.what.partition("/")
    everything = read_paper(paper_file(paper, configs))
    cells = select(paper, selection if slash else None, everything)
    if known.seeds is not None:
        seeds = tuple(parse_seeds(known.seeds))
        cells = [cell if cell.quoted else replace(cell, seeds=seeds) for cell in cells]
    folder: Path = known.run_dir or Path("runs") / "reproduce" / paper
    evaluator = evaluator_of(folder, rest, known.data_root)
    running = [cell for cell in cells if not cell.quoted]
    runs = running if known.dry_run else [run for cell in running for run in cell.per_seed()]
    parsed = {run.name: evaluator.parse(run) for run in runs}
    earlier = read_comparison(folder, everything)
    if known.rates is not None and not known.rates.is_file():
        raise ConfigurationError(f"--rates {known.rates} is no file")
    if known.dry_run:
        file = known.rates or _beside(costs.FILE, configs)
        print_plan(cells, parsed, [*costs.read(file), *costs.of_runs(earlier.values())])
        return 0
    _make(folder)
    table = _Comparison(folder, paper, everything, earlier)
    results = _run_all(Runner(evaluator, folder), cells, parsed, table)
    if _leads():
        if any(each.why is None for each in results):
            printer = console()
            printer.print(_table(paper, results, printer.width))
        _print_missing([(each.cell.name, each.why) for each in results if each.why is not None])
        print(folder, flush=True)
    lacking = any(each.why is not None for each in results)
    return 2 if lacking and all(each.run is None for each in results) else 0


def evaluator_of(folder: Path, rest: Sequence[str], data_root: Path | None) -> JointEvaluator:
    """Parses cells into run directories of ``folder``.

    Args:
        folder: Of the runs.
        rest: Arguments of ``ovseg evaluate`` that all cells get.
        data_root: Folder of the data sets; a cell's own ``root`` wins.
    """

    def place(cell: Cell, parsed: Namespace) -> None:
        data = parsed.data.get("init_args")
        if data_root is not None and data is not None and "root" in data and data.root is None:
            data.root = str(data_root)
        parsed.run_dir = folder / run_name(parsed)

    return JointEvaluator([], rest, place)


def run_name(parsed: Namespace) -> str:
    """``METHOD-DATA-HASH``: one name for all cells that are the same experiment, another for every other."""
    method, data = plain(parsed.method), plain(parsed.data)
    scored = {key: value for key, value in (data.get("init_args") or {}).items() if key not in READING}
    identity = [method, data["class_path"], scored, plain(parsed.protocol), parsed.seed, parsed.trainer.precision]
    words = [re.sub(r"[^a-z0-9]+", "_", each["class_path"].rpartition(".")[2].lower()) for each in (method, data)]
    return "-".join([*words, fingerprint(identity)[:8]])


def _make(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigurationError(f"--run_dir {folder} cannot be made: {error.strerror}") from error


def _beside(file: Path, configs: Path) -> Path:
    """A file of the repository: here, or in the checkout that the papers' files are of."""
    return file if file.is_file() else configs.resolve().parents[1] / file


def _leads() -> bool:
    """Whether this process prints and writes; ranks know each other only once a cell ran."""
    return distributed.rank() == 0 and distributed.is_main_process()


class _Comparison:
    """The table on disk: every cell that was measured, also by earlier starts, in the order of the paper.

    ``earlier`` has the results of earlier starts by name, of cells and of their runs.
    """

    def __init__(self, folder: Path, paper: str, cells: Sequence[Cell], earlier: dict[str, CellResult]) -> None:
        runs = {run.cell.name: run for result in earlier.values() for run in result.per_seed}
        self.paper, self.earlier = paper, {**earlier, **runs}
        self._folder, self._order = folder, [cell.name for cell in cells]
        self._results = dict(earlier)

    def add(self, results: Sequence[CellResult]) -> None:
        """Write it with more results; those that did not run are left out."""
        self._results |= {result.cell.name: result for result in results if result.why is None}
        if _leads():
            write_comparison(
                self._folder, self.paper, [self._results[name] for name in self._order if name in self._results]
            )


def _run_all(
    runner: Runner, cells: Sequence[Cell], parsed: dict[str, Namespace], table: _Comparison
) -> list[CellResult]:
    """Evaluate cells, equal experiments once; the table is written after each.

    Args:
        runner: Evaluates.
        cells: In the order of the paper.
        parsed: The settings of their runs, by name.
        table: On disk.
    """
    found = {cell.name: CellResult(cell) for cell in cells if cell.quoted}
    table.add(list(found.values()))
    alike: dict[Path, list[Cell]] = {}
    for cell in cells:
        for run in [] if cell.quoted else cell.per_seed():
            alike.setdefault(parsed[run.name].run_dir, []).append(run)
    groups = list(alike.values())
    settings = [parsed[group[0].name] for group in groups]
    began = [(each.run_dir / "run.json").exists() for each in settings]
    names = [", ".join(f"{table.paper}/{cell.name}" for cell in group) for group in groups]
    for done in runner.evaluate(settings, names, keep_going=True):
        group, each = groups[done.place], settings[done.place]
        result = _result(group[0], each, done, began[done.place], table.earlier.get(group[0].name))
        found |= {run.name: replace(result, cell=run) for run in group}
        table.add(results_of(cells, found))
    return results_of(cells, found)


def _result(cell: Cell, parsed: Namespace, done: Evaluated, began: bool, earlier: CellResult | None) -> CellResult:
    """The result of a cell, with what is known of its speed.

    Args:
        cell: The cell.
        parsed: Its settings.
        done: Its evaluation, or why there is none.
        began: An earlier start had begun it.
        earlier: Its result at an earlier start.
    """
    method = class_name(parsed.method.class_path)
    if done.evaluation is None:
        return result_of(cell, done, method=method)
    stages = costs.stages_of(done.evaluation.method.precomputed.stages, len(done.evaluation.vocabulary.foreground))
    result = result_of(cell, done, method=method, hardware=costs.hardware(parsed.trainer.accelerator), stages=stages)
    if not began:
        return result
    # Records of an earlier start may be from another machine: what is known of it stays.
    if earlier is None or earlier.run != result.run:
        return replace(result, hardware=None, stages=())
    return replace(
        result, hardware=earlier.hardware, stages=earlier.stages or stages, joint=earlier.joint or result.joint
    )


def _table(paper: str, results: Sequence[CellResult], width: int) -> Table:
    """Every column where there is room, else those that say how well a cell agrees; the files have all of them."""
    narrow = width < NARROW
    table = Table(title=Text(f"{paper}: measured beside published"), title_justify="left", show_lines=narrow)
    for position, title in enumerate(COMPARISON):
        if not narrow or position in (0, *AGREEMENT):
            words = position < 3
            table.add_column(title, justify="left" if words else "right", no_wrap=not words, overflow="fold")
    for each in results:
        if each.why is None:
            line = comparison(each)
            shown = [f"{line[0]}\n{line[1]}", *(line[position] for position in AGREEMENT)] if narrow else line
            table.add_row(*map(Text, shown))
    return table


def _print_missing(missing: Sequence[tuple[str, str]]) -> None:
    """Each sentence once, with the rows that it holds for."""
    for why in dict.fromkeys(why for _, why in missing):
        rows = [row for row, each in missing if each == why]
        # print(), since a console would wrap commands and paths.
        print(f"did not run: {listed(rows)}: {why}")
