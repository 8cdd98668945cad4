"""A parallel map over processes, with a progress bar on a terminal."""

import multiprocessing
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from typing import Any, TypeVar

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from harness.system.errors import ConfigurationError

Item = TypeVar("Item")
Result = TypeVar("Result")
MAX_WORKERS = 16
# Starting a process costs about as much as this many images.
MIN_PARALLEL_ITEMS = 64
CHUNK_SIZE = 8


def resolve_num_workers(requested: int | None) -> int:
    """The number of processes: ``requested``, or if None one per core available to this process, at most 16.

    Raises:
        ConfigurationError: ``requested`` is less than 1.
    """
    if requested is not None and requested < 1:
        raise ConfigurationError(f"--workers must be at least 1, not {requested}")
    # Only Linux has the cores available to a process.
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return requested or min(cores, MAX_WORKERS)


def parallel_map(
    function: Callable[[Item], Result], items: Sequence[Item], workers: int, title: str, preload: str
) -> Iterator[Result]:
    """Yield ``function(item)`` for every item, in order; with one worker or few items, in this process.

    Args:
        function: Applied to every item; it, the items and the results must be picklable.
        items: The function's arguments.
        workers: Number of processes.
        title: Label of the progress bar.
        preload: Name of a module that the worker processes need; imported once for all of them.
    """
    with _progress_bar(title, len(items)) as advance:
        if workers == 1 or len(items) < MIN_PARALLEL_ITEMS:
            for item in items:
                yield function(item)
                advance()
            return
        # Not forked from this process: torch's threads do not survive a fork.
        context: Any = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload([preload])
        pool = ProcessPoolExecutor(min(workers, len(items)), mp_context=context, initializer=_initialize_worker)
        try:
            for result in pool.map(function, items, chunksize=CHUNK_SIZE):
                yield result
                advance()
        finally:
            # Also after Ctrl-C: pending items are left for the next run.
            pool.shutdown(wait=True, cancel_futures=True)


def _initialize_worker() -> None:
    """Ignore Ctrl-C in a worker, and exit with the main process even if that is killed."""
    # Ctrl-C reaches all processes of a terminal; the main process handles it.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    main_process = multiprocessing.parent_process()

    def watch() -> None:
        if main_process is not None:
            main_process.join()
            os._exit(1)

    # A worker that waits for items would not notice: its siblings keep the queue's other end open.
    threading.Thread(target=watch, daemon=True, name="exit-with-parent").start()


@contextmanager
def _progress_bar(title: str, count: int) -> Iterator[Callable[[], None]]:
    """Yield the function that advances the bar by one item; without a terminal it does nothing."""
    if not sys.stderr.isatty() or not count:
        yield lambda: None
        return
    columns = TextColumn("{task.description}", markup=False), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn()
    with Progress(*columns, console=Console(stderr=True)) as progress:
        task = progress.add_task(title, total=count)
        yield lambda: progress.update(task, advance=1)
