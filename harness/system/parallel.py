"""A function over many items, on several processes, with a progress bar where a person is watching."""

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
MOST_WORKERS = 16
# Starting a process costs about as much as so many pictures.
FEW_ITEMS = 64
CHUNK = 8


def worker_count(asked: int | None) -> int:
    """How many processes to use: as many as asked for, or one per core that this process may use, at most 16.

    Raises:
        ConfigurationError: Less than one was asked for.
    """
    if asked is not None and asked < 1:
        raise ConfigurationError(f"--workers must be at least 1, not {asked}")
    # Only Linux knows which cores a process may use.
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return asked or min(cores, MOST_WORKERS)


def each(
    function: Callable[[Item], Result], items: Sequence[Item], workers: int, title: str, preload: str
) -> Iterator[Result]:
    """Results in the order of the items; with one worker or few items, in this process.

    Args:
        function: Can be pickled, as can items and results.
        items: Its arguments.
        workers: Processes.
        title: Stands before the bar.
        preload: A module that the processes need, imported once for all of them.
    """
    with _bar(title, len(items)) as advance:
        if workers == 1 or len(items) < FEW_ITEMS:
            for item in items:
                yield function(item)
                advance()
            return
        # Not forked from this process: torch's threads would not survive in the child.
        context: Any = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload([preload])
        pool = ProcessPoolExecutor(min(workers, len(items)), mp_context=context, initializer=_attend)
        try:
            for result in pool.map(function, items, chunksize=CHUNK):
                yield result
                advance()
        finally:
            # Also after Ctrl-C: what was not begun is left for the next time.
            pool.shutdown(wait=True, cancel_futures=True)


def _attend() -> None:
    """What each process does first: leave Ctrl-C to the first process, and end with it, even when it is killed."""
    # Ctrl-C reaches all processes of a terminal; only the first one has something to say about it.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    first = multiprocessing.parent_process()

    def watch() -> None:
        if first is not None:
            first.join()
            os._exit(1)

    # Waiting for work, it would not notice: its siblings hold the other end of the queue, too.
    threading.Thread(target=watch, daemon=True, name="end-with-parent").start()


@contextmanager
def _bar(title: str, count: int) -> Iterator[Callable[[], None]]:
    if not sys.stderr.isatty() or not count:
        yield lambda: None
        return
    columns = TextColumn("{task.description}", markup=False), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn()
    with Progress(*columns, console=Console(stderr=True)) as progress:
        task = progress.add_task(title, total=count)
        yield lambda: progress.update(task, advance=1)
