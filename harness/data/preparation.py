"""Preparation: the files that a benchmark needs are generated from the published ones, atomically and only once."""

from collections.abc import Sequence
from typing import NamedTuple

from harness.data.benchmark import Job
from harness.system import atomic
from harness.system.errors import DataError
from harness.system.parallel import parallel_map


class PreparationReport(NamedTuple):
    """Result of ``prepare``.

    Attributes:
        num_existing: Number of files that existed before.
        num_written: Number of files written.
        errors: A sentence per file that could not be written.
    """

    num_existing: int
    num_written: int
    errors: list[str]


def prepare(jobs: Sequence[Job], workers: int, title: str) -> PreparationReport:
    """Write the files that do not exist yet; a failed job leaves no file and does not stop the others.

    Args:
        jobs: One per file.
        workers: Number of processes.
        title: Label of the progress bar.
    """
    pending = [job for job in jobs if not job.target.exists()]
    errors = [error for error in parallel_map(_run_job, pending, workers, title, __name__) if error is not None]
    return PreparationReport(len(jobs) - len(pending), len(pending) - len(errors), errors)


def _run_job(job: Job) -> str | None:
    """Write one file; returns the error, if any."""
    try:
        content = job.compute()
    except DataError as error:
        return str(error)
    try:
        atomic.write_bytes(job.target, content)
    except OSError as error:
        return f"{job.target} cannot be written: {error.strerror}"
    return None
