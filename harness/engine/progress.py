"""A progress bar with images/s and the running mIoU; silent without a terminal."""

import sys
import time
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from harness.results.metric import Areas, Scores, SegmentationMetric

REFRESH_SECONDS = 1.0


class EvaluationProgress(Callback):
    """Rank 0's progress over its own images.

    Args:
        metric: Its running mIoU is shown; null shows none.
    """

    def __init__(self, metric: SegmentationMetric | None = None) -> None:
        self.metric = metric
        self._progress: Progress | None = None
        self._images = 0
        self._began = self._shown = 0.0

    def on_predict_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Draw the bar, on rank 0 and on a terminal only; the precompute stage, which has its own bar, is over."""
        if not trainer.is_global_zero or not sys.stderr.isatty():
            return
        shards = f" (rank 0 of {trainer.world_size})" if trainer.world_size > 1 else ""
        self._progress = Progress(
            TextColumn("images" + shards),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[rate]}"),
            TextColumn("{task.fields[miou]}"),
            TimeRemainingColumn(),
            console=Console(stderr=True),
        )
        loader: Any = trainer.predict_dataloaders
        self._progress.add_task("predict", total=len(loader.dataset), rate="", miou="")
        self._progress.start()
        self._began = time.perf_counter()

    def on_predict_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Advance by the number of images in the batch."""
        if self._progress is None:
            return
        self._images += len(batch)
        task = self._progress.task_ids[0]
        self._progress.update(task, completed=self._images)
        now = time.perf_counter()
        # Reading the metric waits for the device, so it is not done for every image.
        if now - self._shown < REFRESH_SECONDS:
            return
        self._shown = now
        self._progress.update(task, rate=f"{self._images / (now - self._began):.1f} images/s", miou=self._miou())

    def _miou(self) -> str:
        if self.metric is None:
            return ""
        miou = Scores.of(Areas.of(self.metric.confusion), self.metric.absent_classes).miou
        return "" if miou is None else f"mIoU {miou:.1f}"

    def on_predict_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Leave the finished bar on the screen."""
        self._stop()

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Restore the terminal."""
        self._stop()

    def _stop(self) -> None:
        if self._progress is not None:
            self._progress.stop()
            self._progress = None
