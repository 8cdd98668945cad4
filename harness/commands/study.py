"""What ``ovseg table`` and ``ovseg sweep`` have in common: arguments, evaluating a study, and printing its table."""

import argparse
import os
from collections.abc import Callable, Sequence
from pathlib import Path

from jsonargparse import Namespace
from rich.table import Table
from rich.text import Text

from harness.commands.arguments import SentenceParser
from harness.commands.console import console
from harness.commands.joint_evaluation import JointEvaluator
from harness.studies.curves import draw, drawable
from harness.studies.runner import Runner
from harness.studies.study import Cell, CellResult, Study
from harness.studies.tables import best, body, header
from harness.system import distributed


def run_file(
    command: str,
    summary: str,
    read: Callable[[argparse.Namespace], Study],
    arguments: list[str],
    options: Callable[[argparse.ArgumentParser], None] = lambda parser: None,
) -> None:
    """Parse, check all points known in advance, then evaluate; finished points are only read.

    Args:
        command: ``table`` or ``sweep``.
        summary: What the command does.
        read: Makes a study of the command's own arguments, ``file`` among them.
        arguments: FILE, ``--run_dir``, and flags of ``ovseg evaluate`` that all points get.
        options: Adds further arguments of the command's own.

    Raises:
        ConfigurationError: The file or a point's settings are wrong; nothing has run then.
    """
    built = SentenceParser(
        prog=f"ovseg {command}",
        description=summary,
        epilog="All other flags are those of 'ovseg evaluate' and hold for all points.",
        allow_abbrev=False,
    )
    built.add_argument("file", type=Path, metavar="FILE", help=f"a {command} file (YAML)")
    built.add_argument("--run_dir", type=Path, default=None, help="where to put all runs (default: runs/NAME_OF_FILE)")
    options(built)
    known, rest = built.parse_known_args(arguments)
    study = read(known)
    runner = runner_of(study, rest, known.run_dir or Path("runs") / known.file.stem)
    study, results = runner.study(study)
    if distributed.rank() == 0:
        if drawable(study):
            draw(runner.folder / "curves.png", study, results)
        # Not as the table's title, which is broken to the width of its columns.
        console().print(Text(study.title, style="italic"))
        console().print(_table(study, results))
        if study.parameters and (top := best(study, results)) is not None:
            print(f"best {study.metric_title}: {top.score(study.metric):.1f} at {top.cell.name}")
        print(runner.folder, flush=True)


def runner_of(study: Study, rest: Sequence[str], folder: Path) -> Runner:
    """A runner of a study's cells, each in a run directory of its own; where runs are logged, the study is a group.

    Args:
        study: The study.
        rest: Arguments of ``ovseg evaluate`` that all cells get.
        folder: Of all runs and of the table.
    """

    def place(cell: Cell, parsed: Namespace) -> None:
        parsed.run_dir = folder / cell.folder
        if parsed.wandb.group is None and "WANDB_RUN_GROUP" not in os.environ:
            parsed.wandb.group = study.title

    return Runner(JointEvaluator(study.arguments, rest, place), folder)


def _table(study: Study, results: list[CellResult]) -> Table:
    # Titles, names and values are the user's text, so no markup.
    table = Table()
    for position, title in enumerate(header(study)):
        words = position == 0 and not study.parameters
        table.add_column(Text(title), justify="left" if words else "right", overflow="fold")
    for line in body(study, results):
        table.add_row(*map(Text, line))
    return table
