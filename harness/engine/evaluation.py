"""One evaluation: resume, shard, predict, record, score. The Trainer drives it as a callback."""

import os
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer

from harness.data.datamodule import SegmentationData, shard
from harness.data.protocol import Protocol
from harness.engine.preparation import Preparation
from harness.engine.progress import EvaluationProgress
from harness.engine.result_images import ResultImages
from harness.method.method import Prediction, SegmentationMethod
from harness.method.part import sources_of
from harness.results.metric import Areas, ScoredPixels, SegmentationMetric
from harness.results.records import Record, RecordWriter, merge
from harness.results.results import SCHEMA, check_complete, compute_scores
from harness.results.run_directory import CONFIG, RESULTS, RunDirectory, default_name
from harness.system import atomic, distributed
from harness.system.errors import DataError, OvsegError, RunError
from harness.system.provenance import commit, versions


class Evaluation(Callback):
    """Runs one method on one benchmark under one protocol, in one run directory.

    Args:
        method: Bound and loaded.
        data: The benchmark.
        protocol: The protocol.
        run_dir: Where to write; null makes a new directory below ``runs/``. One begun earlier is gone on with.
        config: The resolved configuration as YAML, kept beside the results.
        kept_images: Which images to keep; null keeps none.
        fingerprint: The data's, if it is known already; it takes a look at every file.
    """

    def __init__(
        self,
        method: SegmentationMethod,
        data: SegmentationData,
        protocol: Protocol,
        run_dir: Path | None = None,
        config: str | None = None,
        kept_images: ResultImages | None = None,
        fingerprint: str | None = None,
    ) -> None:
        self.method = method
        self.data = data
        self.protocol = protocol
        self.config = config
        self.kept_images = kept_images or ResultImages()
        self.vocabulary = data.vocabulary_for(protocol.class_names)  # once: a benchmark reads its names from files
        self.metric = SegmentationMetric(len(self.vocabulary), protocol.ignore_label, protocol.absent_classes)
        self.results: dict[str, Any] | None = None
        self.directory: RunDirectory
        self._run_dir = run_dir
        self._weights = method.weights()
        self._models = sources_of(method.effective_arguments)
        self._fingerprint = fingerprint or data.fingerprint
        self._mine: list[Record] = []
        self._earlier: list[list[Record]] = []
        self._writer: RecordWriter | None = None
        self._started = 0.0

    def identity(self, trainer: Trainer) -> dict[str, Any]:
        """Everything that determines the run's integers."""
        seed = os.environ.get("PL_GLOBAL_SEED")  # as Lightning's seed_everything leaves it
        return {
            "method": {"name": self.method.name, "class": _path(self.method), "settings": self.method.identity()},
            "data": {
                "class": _path(self.data),
                "settings": self.data.identity(),
                "vocabulary": self.vocabulary.identity(),
                "fingerprint": self._fingerprint,
                "images": len(self.data.ids),
            },
            "protocol": asdict(self.protocol),
            "weights": self._weights,
            "precision": str(trainer.precision),
            "seed": None if seed is None else int(seed),
        }

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Open the run directory, agree on what is left to do, and plan this rank's share."""
        done = self.open(trainer)
        pending = [index for index in range(len(self.data.ids)) if index not in done]
        self.data.plan(self.protocol, shard(pending, trainer.global_rank, trainer.world_size))

    def open(self, trainer: Trainer) -> set[int]:
        """Take the run directory, with a record file for this rank; returns the images that any rank has finished."""
        self.method.on_error = self.data.on_error
        path = self._run_dir or Path("runs") / default_name(self.method.name, self.data.name)
        self.directory = RunDirectory(Path(distributed.broadcast(str(path))))
        # One process per node holds the directory: nodes need not share a file system.
        distributed.run_and_sync_errors(
            self.directory.acquire if trainer.node_rank == 0 and trainer.local_rank == 0 else None
        )
        identity = self.identity(trainer)
        distributed.run_and_sync_errors(
            lambda: self.directory.ensure_identity(identity) if trainer.local_rank == 0 else None
        )
        self._earlier = (
            distributed.run_and_sync_errors(self.directory.records if trainer.local_rank == 0 else None) or []
        )
        # What an earlier start skipped has no result for a run that stops at such images.
        skips = self.data.on_error == "skip"
        here = [record.index for record in merge(self._earlier) if record.skipped is None or skips]
        done = {index for indices in distributed.gather(here) for index in indices}
        if trainer.is_global_zero:
            if self.config is not None:
                atomic.write_text(self.directory.path / CONFIG, self.config)
            self._write_results("running")
        self._writer = self.directory.writer(trainer.global_rank)
        return done

    def on_predict_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """The metric counts where the predictions are."""
        self.metric.to(pl_module.device)

    def on_predict_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """The method's bank is known now: a run that was started with another one must not resume with this one."""
        bank = self.method.precomputed.bank
        distributed.run_and_sync_errors(
            lambda: self.directory.ensure_bank(bank) if bank and trainer.local_rank == 0 else None
        )

    def on_predict_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        """Start the clock."""
        self._started = time.perf_counter()

    def on_predict_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Count each image and flush its record."""
        counted = [(prediction, self.count(prediction)) for prediction in outputs]
        seconds = (time.perf_counter() - self._started) / max(len(counted), 1)
        for prediction, areas in counted:
            self.record(prediction, areas, seconds)

    def scored_pixels(self, prediction: Prediction) -> ScoredPixels | None:
        """The pixels of the truth that are scored; None for an image that could not be read.

        Raises:
            DataError: The image has no label map.
        """
        sample, predicted = prediction
        if predicted is None:
            return None
        if sample.labels is None:
            raise DataError(f"'{sample.id}' has no label map, so it cannot be scored (ovseg segment needs none)")
        return ScoredPixels.of(sample.labels, len(self.vocabulary), self.protocol.ignore_label)

    def count(self, prediction: Prediction, scored: ScoredPixels | None = None) -> Areas | None:
        """Compare a prediction with the truth; None for an image that could not be read.

        Args:
            prediction: The image and its label map.
            scored: What ``scored_pixels`` returned, if it is known already.

        Raises:
            DataError: The image has no label map.
        """
        scored = scored or self.scored_pixels(prediction)
        if scored is None or prediction.labels is None:
            return None
        confusion = scored.confusion(prediction.labels)
        self.metric.add(confusion)
        return Areas.of(confusion)

    def record(self, prediction: Prediction, areas: Areas | None, seconds: float, sync: bool = True) -> None:
        """Flush an image's record, and keep what images of it are asked for.

        Args:
            prediction: The image and its label map.
            areas: What ``count`` returned.
            seconds: As in ``Record``.
            sync: Wait until the disk has the record; otherwise ``sync`` has to be called some time.
        """
        sample = prediction.sample
        if areas is None or prediction.labels is None:
            record = Record(sample.number, sample.id, skipped=sample.error)
        else:
            record = Record.of(sample.number, sample.id, areas, seconds)
            self.kept_images.save(self.directory.path, self.method, sample, prediction.labels)
        self._mine.append(record)
        if self._writer is not None:
            self._writer.write(record, sync)

    def sync(self) -> None:
        """Wait until the disk has all records."""
        if self._writer is not None:
            self._writer.sync()

    def on_predict_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """All images are done: the first collective after them, then ``close``."""
        # A rank that failed joins it to say so, see ``predict``.
        distributed.run_and_sync_errors(None)
        self.close(trainer)

    def close(self, trainer: Trainer) -> None:
        """Merge all ranks' records, check them against the metric, write the results, and leave the run directory.

        Raises:
            RunError: On every rank: an image is missing, or the counts contradict each other.
        """
        if self._writer is not None:
            self._writer.close()
        gathered = distributed.gather([[r.to_json() for r in group] for group in [*self._earlier, self._mine]])
        groups = [[Record.from_json(line) for line in group] for rank in gathered for group in rank]
        records = merge(groups)
        self._check_metric(trainer)
        self.results = {**compute_scores(records, self.vocabulary, self.protocol), "world_size": trainer.world_size}

        def write() -> None:
            check_complete(records, self.data.ids)
            self.directory.write_images(records)
            self._write_results("complete", self.results)

        distributed.run_and_sync_errors(write if trainer.is_global_zero else None)
        if trainer.local_rank == 0:
            self.directory.remove_rank_records()
        self.directory.release()

    def _check_metric(self, trainer: Trainer) -> None:
        """The metric, reduced over ranks by sum, and this session's records must agree to the count."""
        counted = Areas.of(self.metric.compute()["confusion"])
        session = Areas.zero(len(self.vocabulary))
        for record in self._mine:
            session = session + record.areas(len(self.vocabulary))
        rows = distributed.gather([session.intersection, session.prediction, session.label])
        records = Areas.zero(len(self.vocabulary))
        for row in rows:
            records = records + Areas(*(tuple(values) for values in row))
        if counted != records:
            raise RunError("the metric and the records count different pixels; please report this as a bug")

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Leave a truthful status behind, and the directory free."""
        if not hasattr(self, "directory"):
            return
        if self._writer is not None and trainer.is_global_zero:
            stopped = isinstance(exception, KeyboardInterrupt)
            self._write_results("interrupted" if stopped else "failed", error=str(exception))
        self.directory.release()

    def _write_results(self, status: str, found: dict[str, Any] | None = None, error: str | None = None) -> None:
        empty = compute_scores([], self.vocabulary, self.protocol)
        results = {
            "schema": SCHEMA,
            "status": status,
            "method": self.method.name,
            "data": self.data.name,
            "protocol": {"name": self.protocol.name, "fingerprint": self.protocol.fingerprint},
            **{key: None if key != "per_class" else [] for key in empty},
            "world_size": distributed.world_size(),
            **(found or {}),
            "data_fingerprint": self._fingerprint,
            "versions": versions(),
            "commit": commit(),
            "weights": self._weights,
            "models": self._models,
            "bank": self.method.precomputed.bank,
        }
        if error is not None:
            results["error"] = error
        if found is not None:
            self.results = results
        atomic.write_json(self.directory.path / RESULTS, results)


def _path(value: object) -> str:
    return f"{type(value).__module__}.{type(value).__qualname__}"


def _raising(error: OvsegError) -> Callable[[], None]:
    def act() -> None:
        raise error

    return act


def evaluate(
    method: SegmentationMethod,
    data: SegmentationData,
    protocol: Protocol,
    trainer: Trainer,
    run_dir: Path | None = None,
    config: str | None = None,
    kept_images: ResultImages | None = None,
    progress: EvaluationProgress | None = None,
) -> Evaluation:
    """Evaluate a method on a benchmark; arguments as in ``Evaluation``, and a progress bar to show its metric.

    Returns:
        The finished evaluation with its ``results``, ``metric`` and ``directory``, the same on every rank.

    Raises:
        OvsegError: Something that the user can fix; one sentence.
    """
    method.make_ready(data.vocabulary_for(protocol.class_names), protocol)
    evaluation = Evaluation(method, data, protocol, run_dir, config, kept_images)
    if progress is not None:
        progress.metric = evaluation.metric
    trainer.callbacks.append(evaluation)  # type: ignore[attr-defined]
    predict(trainer, method, [method], data)
    return evaluation


def predict(
    trainer: Trainer, module: LightningModule, methods: Sequence[SegmentationMethod], data: SegmentationData
) -> None:
    """Prepare methods, then send the planned images through the module's ``predict_step``, on all ranks.

    Raises:
        OvsegError: Something that the user can fix; one sentence.
    """
    trainer.callbacks.append(Preparation(methods))  # type: ignore[attr-defined]
    try:
        trainer.predict(module, datamodule=data, return_predictions=False)
    except DataError as error:
        if distributed.world_size() > 1:
            # The other ranks finish and record their images, then learn of it in ``on_predict_end``.
            distributed.run_and_sync_errors(_raising(error))
        raise
