"""``ovseg sweep``: the points of a W&B sweep file, without a W&B server."""

import argparse

from harness.commands.study import run_file
from harness.studies.readers import read_mapping
from harness.studies.study import Study
from harness.studies.sweeps import read_sweep
from harness.system import distributed

SUMMARY = "evaluate the points of a W&B sweep file; the same --run_dir resumes"


def run(arguments: list[str]) -> None:
    """Evaluate, print and draw; the table and ``curves.png`` are in the run directory."""
    run_file("sweep", SUMMARY, _read, arguments, _options)


def _options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--count", type=int, default=None, help="at most so many points (default: the file's run_cap)")
    parser.add_argument("--suggestion_seed", type=int, default=0, help="seed of random and Bayesian suggestions")


def _read(known: argparse.Namespace) -> Study:
    study = read_sweep(known.file, known.count, known.suggestion_seed)
    if "early_terminate" in read_mapping(known.file) and distributed.is_main_process():
        print("early_terminate is not used: a point has its score only when all its images are done", flush=True)
    return study
