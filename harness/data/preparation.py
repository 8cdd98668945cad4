"""Making the files that a benchmark needs from those that are published; whole files only, and none twice."""

from collections.abc import Sequence
from typing import NamedTuple

from harness.data.benchmark import Job
from harness.system import atomic
from harness.system.errors import DataError
from harness.system.parallel import each


class Prepared(NamedTuple):
    """What became of the jobs.

    Attributes:
        there: How many files were there already.
        made: How many were made.
        errors: Why others could not be made, a sentence each.
    """

    there: int
    made: int
    errors: list[str]


def prepare(jobs: Sequence[Job], workers: int, title: str) -> Prepared:
    """Do what is not done yet; a job that fails leaves no file and does not stop the others."""
    left = [job for job in jobs if not job.target.exists()]
    errors = [error for error in each(_do, left, workers, title, __name__) if error is not None]
    return Prepared(len(jobs) - len(left), len(left) - len(errors), errors)


def _do(job: Job) -> str | None:
    try:
        content = job.make()
    except DataError as error:
        return str(error)
    try:
        atomic.write_bytes(job.target, content)
    except OSError as error:
        return f"{job.target} cannot be written: {error.strerror}"
    return None
