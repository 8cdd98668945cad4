"""``ovseg table``: every row of a table file, such as a paper's ablation."""

import argparse
from dataclasses import replace

from harness.commands.evaluate import parse_seeds
from harness.commands.study import run_file
from harness.studies.readers import read_table
from harness.studies.study import Study

SUMMARY = "evaluate every row of a table file; the same --run_dir resumes"


def run(arguments: list[str]) -> None:
    """Evaluate and print; ``table.json``, ``.csv`` and ``.md`` are in the run directory."""
    run_file("table", SUMMARY, _read, arguments, _options)


def _options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--seeds", help="mean and deviation over these seeds of the method: 0,1,2 (default: the file's)"
    )


def _read(known: argparse.Namespace) -> Study:
    study = read_table(known.file)
    return study if known.seeds is None else replace(study, seeds=tuple(parse_seeds(known.seeds)))
