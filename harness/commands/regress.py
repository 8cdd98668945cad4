"""``ovseg regress``: the gate that a change has to pass."""

import tempfile
from pathlib import Path

from jsonargparse import Namespace
from rich.table import Table

from harness.commands.arguments import Parser
from harness.commands.console import console
from harness.commands.joint_evaluation import JointEvaluator
from harness.results.comparison import Run
from harness.studies.regression import Move, moves, read_baseline, read_gate, scores_of, write_baseline
from harness.studies.runner import Runner
from harness.studies.study import Cell
from harness.system.errors import RunError

SUMMARY = "run small fixed evaluations and compare them with a committed baseline; exit code 1 on a drop"
SHOWN = 12
STORE_HELP = "folder of an artifact store (default: an empty one, so that precompute is tested, too)"


def parser() -> Parser:
    """The command's arguments."""
    built = Parser(prog="ovseg regress", description=SUMMARY)
    built.add_argument("file", type=Path, metavar="FILE", help="a regression file (YAML)")
    # Not "update", which is a method of what the parser returns.
    built.add_argument("--update", dest="measure", action="store_true", help="measure and write the baseline")
    built.add_argument("--store", type=Path | None, default=None, help=STORE_HELP)
    return built


def run(arguments: list[str]) -> int:
    """Measure, on one process, and compare; 0 when nothing fell by more than its tolerance.

    Raises:
        OvsegError: The baseline is missing or of other data; a run cannot be made.
    """
    parsed = parser().parse_args(arguments)
    gate = read_gate(parsed.file)
    baseline = None if parsed.measure else read_baseline(gate.baseline)
    scores = {}
    with tempfile.TemporaryDirectory(prefix="ovseg-regress-") as folder:

        def place(cell: Cell, parsed_cell: Namespace) -> None:
            parsed_cell.run_dir = Path(folder) / cell.folder
            parsed_cell.store = parsed.store or Path(folder) / "store"

        _, results = Runner(JointEvaluator(gate.study.arguments, [], place), Path(folder)).study(gate.study)
        for result in results:
            scores[result.cell.name] = scores_of(Run.read(Path(folder) / result.cell.folder))
    if baseline is None:
        write_baseline(gate.baseline, scores, gate.study)
        print(f"wrote {gate.baseline}")
        return 0
    found: list[Move] = []
    for name, now in scores.items():
        if name not in baseline:
            raise RunError(f"the baseline '{gate.baseline}' has no run '{name}': measure one with --update")
        found += moves(name, baseline[name], now, gate.tolerances)
    missing = sorted(set(baseline) - set(scores))
    for name in missing:
        print(f"the baseline's run '{name}' was not made")
    _show(found)
    return int(bool(missing) or any(move.failed for move in found))


def _show(found: list[Move]) -> None:
    """Print what fell first, then the rest, the largest move first."""
    if not found:
        print("nothing moved")
        return
    failed = sum(move.failed for move in found)
    table = Table(title=f"{len(found)} scores moved, {failed} fell by more than allowed")
    for position, title in enumerate(("run", "score", "before", "now", "Δ")):
        table.add_column(title, justify="left" if position < 2 else "right")
    order = sorted(found, key=lambda move: (not move.failed, move.level != "miou", -abs(_change(move))))
    for move in order[:SHOWN]:
        title = "mIoU" if move.level == "miou" else f"{move.level} {move.name}"
        cells = (move.run, title, _number(move.before), _number(move.now), f"{_change(move):+.2f}")
        table.add_row(*cells, style="bold red" if move.failed else None)
    console().print(table)
    if len(found) > SHOWN:
        print(f"and {len(found) - SHOWN} more")


def _change(move: Move) -> float:
    return (move.now or 0.0) - (move.before or 0.0)


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}"
