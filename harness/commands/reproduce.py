"""``ovseg reproduce``: the cells of a paper's tables, measured beside published."""

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.table import Table
from rich.text import Text

from harness.commands import evaluate
from harness.commands.arguments import Parser, StudyParser
from harness.commands.cells import ParsedCell, class_name, parse_cell
from harness.commands.console import console
from harness.commands.passes import evaluate_independently
from harness.commands.planned import NARROW, listed, print_plan
from harness.engine.evaluation import Evaluation
from harness.studies import costs, papers, reproduction
from harness.studies.papers import Cell
from harness.studies.reproduction import CellResult
from harness.system import distributed
from harness.system.errors import ConfigurationError, OvsegError

SUMMARY = "evaluate the cells of a paper's tables and print measured beside published; the same --run_dir resumes"

# Of the columns of ``reproduction.HEADER``: published, measured, Δ, within, images.
AGREEMENT = (3, 4, 5, 6, 9)


def arguments_parser() -> argparse.ArgumentParser:
    """The command's own arguments; all others are those of ``ovseg evaluate``."""
    built = StudyParser("reproduce", SUMMARY, "cells")
    what = "a paper file of --configs, or one cell of it: the ids of table, row and column, joined by '_'"
    built.add_argument("what", metavar="PAPER[/CELL]", help=what)
    built.add_argument("--data_root", type=Path, default=None, help="folder of the data sets (default: $OVSEG_DATA)")
    built.add_argument("--run_dir", type=Path, default=None, help="for runs and table (default: runs/reproduce/PAPER)")
    built.add_argument("--configs", type=Path, default=None, help=f"folder of the papers (default: {papers.FOLDER})")
    built.add_argument("--rates", type=Path, default=None, help=f"measured rates for --dry_run (default: {costs.FILE})")
    built.add_argument(
        "--dry_run", action="store_true", help="say what would run, what is missing, and how long it takes"
    )
    return built


def run(arguments: list[str]) -> int:
    """Check all cells, then evaluate them; a cell that lacks something is named and the others run.

    Returns:
        2 when cells were to run and none could, else 0.

    Raises:
        ConfigurationError: There is no such cell, a cell's settings are wrong, or a file or folder is; nothing has run.
    """
    known, rest = arguments_parser().parse_known_args(arguments)
    configs = known.configs or papers.default_folder()
    cells = papers.resolve(known.what, configs)
    paper = cells[0].paper
    folder: Path = known.run_dir or Path("runs") / "reproduce" / paper
    parser = evaluate.parser()
    tasks = [
        cell if cell.settings is None else parse_cell(parser, cell, rest, known.data_root, folder) for cell in cells
    ]
    earlier = reproduction.read(folder)
    if known.rates is not None and not known.rates.is_file():
        raise ConfigurationError(f"--rates {known.rates} is no file")
    if known.dry_run:
        file = known.rates or _beside(costs.FILE, configs)
        print_plan(tasks, [*costs.read(file), *costs.of_runs(earlier.values())])
        return 0
    _make(folder)
    order = [cell.name for cell in papers.resolve(paper, configs)]
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
    """A file of the repository: here, or in the checkout that the papers are of."""
    return file if file.is_file() else configs.resolve().parents[1] / file


def _leads() -> bool:
    """Whether this process prints and writes; ranks know each other only once a cell ran."""
    return distributed.rank() == 0 and distributed.is_main_process()


def _run_all(
    parser: Parser,
    cells: Sequence[ParsedCell | Cell],
    folder: Path,
    paper: str,
    earlier: dict[str, CellResult],
    order: list[str],
) -> list[CellResult]:
    """Evaluate all cells, those that can share a pass over the data in one; equal experiments run once.

    The table on disk has every cell that was measured, also by earlier starts.
    """
    names = [cell.name if isinstance(cell, Cell) else cell.cell.name for cell in cells]
    measured = {cell.name: CellResult(cell.name, cell.published) for cell in cells if isinstance(cell, Cell)}
    by_run: dict[str, list[ParsedCell]] = {}
    for cell in cells:
        if isinstance(cell, ParsedCell):
            by_run.setdefault(cell.run, []).append(cell)
    runs = list(by_run.values())
    began = [(same[0].parsed.run_dir / "run.json").exists() for same in runs]

    def announce(group: list[int]) -> None:
        if _leads():
            for number in sorted(names.index(cell.cell.name) for place in group for cell in runs[place]):
                print(f"{number + 1} of {len(cells)}: {paper}/{names[number]}", flush=True)
            if len(group) > 1:
                print(f"these {len(group)} runs in one pass over the data", flush=True)

    def write() -> None:
        table = {**earlier, **{name: result for name, result in measured.items() if result.why is None}}
        if _leads():
            reproduction.write(folder, paper, [table[name] for name in order if name in table])

    write()
    for place, outcome in evaluate_independently(parser, [same[0].parsed for same in runs], announce=announce):
        first = runs[place][0]
        result = _cell_result(first, outcome, began[place], earlier.get(first.cell.name))
        measured |= {cell.cell.name: result.of(cell.cell.name, cell.published) for cell in runs[place]}
        write()
    return [measured[name] for name in names]


def _cell_result(
    cell: ParsedCell, outcome: Evaluation | OvsegError, began: bool, earlier: CellResult | None
) -> CellResult:
    """What became of a cell; what its benchmark or a model lacks is said in it."""
    method = class_name(cell.parsed.method.class_path)
    if isinstance(outcome, OvsegError):
        return CellResult(cell.cell.name, cell.published, method=method, why=str(outcome))
    stages = costs.stages_of(outcome.method.precomputed.stages, len(outcome.vocabulary.foreground))
    known: str | None = costs.hardware(cell.parsed.trainer.accelerator)
    if began:
        # Records of an earlier start may be from another machine: what is known of it stays.
        same = earlier is not None and earlier.run == cell.run
        known, stages = (earlier.hardware, earlier.stages or stages) if same and earlier else (None, ())
    results: dict[str, Any] = outcome.results or {}
    return CellResult(
        cell.cell.name,
        cell.published,
        run=cell.run,
        miou=results.get("miou"),
        per_image_miou=results.get("per_image_miou"),
        pixel_accuracy=results.get("pixel_accuracy"),
        images=results.get("num_images", 0),
        whole=_whole(outcome),
        method=method,
        hardware=known,
        seconds=results.get("seconds", 0.0),
        stages=stages,
    )


def _whole(evaluation: Evaluation) -> bool:
    """Whether every image of the benchmark was scored."""
    results = evaluation.results or {}
    return not results.get("skipped") and len(evaluation.data.ids) == len(evaluation.data.all_ids())


def _table(paper: str, measured: Sequence[CellResult], width: int) -> Table:
    """Every column where there is room, else those that say how well a cell agrees; the files have all of them."""
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
    """Each sentence once, with the cells that it holds for."""
    for why in dict.fromkeys(why for _, why in missing):
        rows = [row for row, each in missing if each == why]
        # print(), since a console would wrap commands and paths.
        print(f"did not run: {listed(rows)}: {why}")
