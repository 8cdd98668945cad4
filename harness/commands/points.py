"""What ``ovseg table`` and ``ovseg sweep`` share: evaluate the points of a study, one after another."""

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn

from jsonargparse import Namespace
from rich.console import Console
from rich.table import Table

from harness import distributed
from harness.commands import evaluate
from harness.commands.arguments import Parser, resolve_entry_points
from harness.curves import curve_parameter, draw
from harness.errors import ConfigurationError
from harness.study import Outcome, Point, Study, body, folder_of, header, write


class _Arguments(argparse.ArgumentParser):
    """Raises one sentence in the place of printing usage."""

    def error(self, message: str) -> NoReturn:
        raise ConfigurationError(f"{message} (see {self.prog} --help)")


def run_file(command: str, summary: str, read: Callable[[Path], Study], arguments: list[str]) -> None:
    """Parse, check all points, then evaluate them; finished ones are only read.

    Args:
        command: ``table`` or ``sweep``.
        summary: What the command does.
        read: Makes a study of the file.
        arguments: FILE, ``--run_dir``, and flags of ``ovseg evaluate`` that all points get.

    Raises:
        ConfigurationError: The file or a point's settings are wrong; nothing has run then.
    """
    built = _Arguments(
        prog=f"ovseg {command}",
        description=summary,
        epilog="All other flags are those of 'ovseg evaluate' and hold for all points.",
        allow_abbrev=False,
    )
    built.add_argument("file", type=Path, metavar="FILE", help=f"a {command} file (YAML)")
    built.add_argument("--run_dir", type=Path, default=None, help="where to put all runs (default: runs/NAME_OF_FILE)")
    known, rest = built.parse_known_args(arguments)
    study = read(known.file)
    folder: Path = known.run_dir or Path("runs") / known.file.stem
    parser = evaluate.parser()
    points = study.points()
    parsed = [_parse(parser, study, row, column, rest, folder) for row, column in points]
    outcomes: list[Outcome] = []
    for (row, column), one in zip(points, parsed, strict=True):
        if distributed.speaks():
            where = row.name if len(study.columns) == 1 else f"{row.name} / {column.name}"
            print(f"{len(outcomes) + 1} of {len(points)}: {where}", flush=True)
        evaluation = evaluate.evaluate_parsed(parser, one, quiet=True)
        outcomes.append(Outcome(row, column, (evaluation.results or {}).get("miou"), evaluation.directory.path))
        if distributed.rank() == 0:
            write(folder, study, outcomes)
    if distributed.rank() == 0:
        if curve_parameter(study) is not None:
            draw(folder / "curves.png", study, outcomes)
        Console().print(_table(study, outcomes))
        print(folder, flush=True)


def _parse(parser: Parser, study: Study, row: Point, column: Point, rest: list[str], folder: Path) -> Namespace:
    run_dir = f"--run_dir={folder / folder_of(row, column)}"
    arguments = [*study.arguments, *column.arguments(), *row.arguments(), *rest, run_dir]
    try:
        parsed = parser.parse_args(resolve_entry_points(arguments))
    except ConfigurationError as error:
        raise ConfigurationError(f"'{row.name}': {error}") from error
    if parsed.seeds is not None:
        raise ConfigurationError(f"'{row.name}': --seeds is not for studies; make the seed a parameter")
    return parsed


def _table(study: Study, outcomes: list[Outcome]) -> Table:
    drawn = Table(title=study.title)
    for position, title in enumerate(header(study)):
        drawn.add_column(title, justify="left" if position == 0 else "right")
    for line in body(study, outcomes):
        drawn.add_row(*line)
    return drawn
