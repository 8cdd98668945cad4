"""``ovseg table``: every row of a table file, such as a paper's ablation."""

import argparse

from harness.commands.study import run_file
from harness.studies.readers import read_table
from harness.studies.study import Study

SUMMARY = "evaluate every row of a table file; the same --run_dir resumes"


def run(arguments: list[str]) -> None:
    """Evaluate and print; ``table.json``, ``.csv`` and ``.md`` are in the run directory."""
    run_file("table", SUMMARY, _read, arguments)


def _read(known: argparse.Namespace) -> Study:
    return read_table(known.file)
