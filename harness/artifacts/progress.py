"""A progress bar per rank for the precompute stage, drawn by rank 0; silent where no person is watching."""

import sys
import threading
import time
from collections.abc import Sequence
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

from harness.artifacts.queue import WorkQueue
from harness.artifacts.work_item import WorkItem
from harness.system.errors import RunError

REFRESH_SECONDS = 0.5


def remaining(seconds: float, done: int, count: int) -> str:
    """The estimated time left, from the time that the first ``done`` of ``count`` items took."""
    if not done:
        return "time left: ?"
    left = round(seconds / done * (count - done))
    hours, minutes = divmod(left // 60, 60)
    return f"time left: {hours}:{minutes:02d}:{left % 60:02d}" if hours else f"time left: {minutes}:{left % 60:02d}"


class StageProgress:
    """Shows, while it is entered, how far each rank has got and what is in its hands.

    Args:
        name: The stage's.
        items: What is being made.
        queue: Asked twice a second.
    """

    def __init__(self, name: str, items: Sequence[WorkItem], queue: WorkQueue) -> None:
        self._name, self._items, self._queue = name, items, queue
        self._over = threading.Event()
        self._thread: threading.Thread | None = None

    def __enter__(self) -> None:
        if self._queue.rank == 0 and sys.stderr.isatty():
            self._thread = threading.Thread(target=self._draw, daemon=True, name="stage-progress")
            self._thread.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._over.set()
        if self._thread is not None:
            self._thread.join()

    def _draw(self) -> None:
        began, count = time.perf_counter(), len(self._items)
        # Titles are the user's text, so no markup.
        text = TextColumn("{task.description}", markup=False)
        note = TextColumn("{task.fields[note]}", markup=False)
        with Progress(text, BarColumn(), MofNCompleteColumn(), note, console=Console(stderr=True)) as progress:
            whole = progress.add_task(self._name, total=count, note="")
            ranks = [progress.add_task(f"  rank {r}", total=count, note="") for r in range(self._queue.world_size)]
            last = False
            while True:
                try:
                    done, made, hands = self._queue.finished(), self._queue.made(), self._queue.hands()
                except RunError:
                    return  # raised by the ranks themselves, in words
                left = remaining(time.perf_counter() - began, done, count)
                progress.update(whole, completed=done, note="" if done == count else left)
                for task, number, hand in zip(ranks, made, hands, strict=True):
                    progress.update(task, completed=number, note="" if hand is None else self._items[hand].title)
                if last:
                    return
                last = self._over.wait(REFRESH_SECONDS)
