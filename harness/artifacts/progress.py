"""Progress bars of the precompute stage, one per rank, drawn by rank 0; none without a terminal."""

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


def format_time_left(seconds: float, done: int, count: int) -> str:
    """The estimated time left, from the seconds that the first ``done`` of ``count`` items took."""
    if not done:
        return "time left: ?"
    left = round(seconds / done * (count - done))
    hours, minutes = divmod(left // 60, 60)
    return f"time left: {hours}:{minutes:02d}:{left % 60:02d}" if hours else f"time left: {minutes}:{left % 60:02d}"


class StageProgress:
    """A context manager that shows each rank's progress and current item.

    Args:
        name: The stage's name.
        items: The items to compute.
        queue: Polled twice a second.
    """

    def __init__(self, name: str, items: Sequence[WorkItem], queue: WorkQueue) -> None:
        self._name, self._items, self._queue = name, items, queue
        self._stopped = threading.Event()
        self._thread: threading.Thread | None = None

    def __enter__(self) -> None:
        if self._queue.rank == 0 and sys.stderr.isatty():
            self._thread = threading.Thread(target=self._draw, daemon=True, name="stage-progress")
            self._thread.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stopped.set()
        if self._thread is not None:
            self._thread.join()

    def _draw(self) -> None:
        start, count = time.perf_counter(), len(self._items)
        # Titles are the user's text, so no markup.
        text = TextColumn("{task.description}", markup=False)
        note = TextColumn("{task.fields[note]}", markup=False)
        with Progress(text, BarColumn(), MofNCompleteColumn(), note, console=Console(stderr=True)) as progress:
            stage_task = progress.add_task(self._name, total=count, note="")
            tasks = [progress.add_task(f"  rank {r}", total=count, note="") for r in range(self._queue.world_size)]
            last = False
            while True:
                try:
                    done = self._queue.num_done()
                    computed, current = self._queue.num_computed(), self._queue.current_items()
                except RunError:
                    return  # the ranks raise it themselves
                left = format_time_left(time.perf_counter() - start, done, count)
                progress.update(stage_task, completed=done, note="" if done == count else left)
                for task, number, item in zip(tasks, computed, current, strict=True):
                    progress.update(task, completed=number, note="" if item is None else self._items[item].title)
                if last:
                    return
                last = self._stopped.wait(REFRESH_SECONDS)
