"""``ovseg sweep``: every point of a W&B sweep file, without a W&B server."""

from harness.commands.points import run_file
from harness.study import read_sweep

SUMMARY = "evaluate every point of a W&B sweep file; the same --run_dir goes on where it stopped"


def run(arguments: list[str]) -> None:
    """Evaluate, print and draw; the table and ``curves.png`` are in the run directory."""
    run_file("sweep", SUMMARY, read_sweep, arguments)
