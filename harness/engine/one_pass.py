"""Several evaluations in one pass over the data: each image goes through the frozen models once.

Configurations that differ only in what is cheap (N, K, γ, thresholds, refinement, filters) encode alike: the first of
them encodes an image, and each scores it (``predict_jointly``). Every one keeps its own method, run directory and
metric, and ends with what a run of its own would have counted.
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor, nn

from harness.data.datamodule import Sample, SegmentationData, shard
from harness.data.protocol import Protocol
from harness.engine.evaluation import Evaluation, predict
from harness.engine.result_images import ResultImages
from harness.method.method import Prediction, SegmentationMethod, predict_jointly
from harness.results.metric import Areas, ScoredPixels
from harness.system import distributed

# Records are written at once and outlive the process; the disk is waited for only so often, for all points together.
SYNC_SECONDS = 5.0


@dataclass(frozen=True)
class PassEntry:
    """What is evaluated; arguments as in ``Evaluation``.

    Attributes:
        method: Not bound yet; it may have parts in common with the other points'.
        protocol: It may differ from the other points' in what comes after the reading of images.
        run_dir: Of this point alone.
        config: The resolved configuration.
        kept_images: Which images to keep.
    """

    method: SegmentationMethod
    protocol: Protocol
    run_dir: Path | None = None
    config: str | None = None
    kept_images: ResultImages = field(default_factory=ResultImages)


class OnePass(LightningModule):
    """Predicts each image by every method that still lacks it.

    Args:
        methods: Loaded, with one store for all.

    Attributes:
        finished: Per method the images, by number, that it has done in an earlier session.
    """

    def __init__(self, methods: Sequence[SegmentationMethod]) -> None:
        super().__init__()
        self.methods = nn.ModuleList(methods)
        self.finished: list[set[int]] = [set() for _ in methods]

    def predict_step(self, batch: list[Sample], batch_idx: int) -> list[list[Prediction | None]]:
        """Per sample and method the prediction, or None where the method has the image from an earlier session.

        Raises:
            DataError: As in ``SegmentationMethod.predict_step``.
        """
        return [self._predict(sample) for sample in batch]

    def _predict(self, sample: Sample) -> list[Prediction | None]:
        methods = [cast(SegmentationMethod, method) for method in self.methods]
        pending = [index for index, finished in enumerate(self.finished) if sample.number not in finished]
        predictions: list[Prediction | None] = [None] * len(methods)
        if pending and methods[pending[0]].readable(sample):
            labels: list[Tensor | None] = [*predict_jointly([methods[index] for index in pending], sample)]
        else:
            labels = [None] * len(pending)
        for index, label_map in zip(pending, labels, strict=True):
            predictions[index] = Prediction(sample, label_map)
        return predictions


class JointEvaluation(Callback):
    """Does for several evaluations what an ``Evaluation`` does for itself.

    The seconds of a record are the time that the pass took for an image, divided evenly by the points that it was
    predicted for: over all points they add up to the pass. What a point would take alone is not known.

    Args:
        evaluations: Of one data set, in the order of the methods.
        data: That data set.
        module: Predicts for them.
    """

    def __init__(self, evaluations: Sequence[Evaluation], data: SegmentationData, module: OnePass) -> None:
        self.evaluations = evaluations
        self.data = data
        self.module = module
        self._closed = 0
        self._started = self._synced = 0.0

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Open all run directories, and plan this rank's share of the images that any of them lacks."""
        self.module.finished = [evaluation.open(trainer) for evaluation in self.evaluations]
        everywhere = set.intersection(*self.module.finished)
        pending = [index for index in range(len(self.data.ids)) if index not in everywhere]
        self.data.plan(self.evaluations[0].protocol, shard(pending, trainer.global_rank, trainer.world_size))

    def on_predict_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """As in ``Evaluation``."""
        for evaluation in self.evaluations:
            evaluation.on_predict_start(trainer, pl_module)

    def on_predict_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """As in ``Evaluation``."""
        for evaluation in self.evaluations:
            evaluation.on_predict_epoch_start(trainer, pl_module)

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
        """Count each image for each point and flush the records."""
        counted = [entry for predictions in outputs for entry in self._count(predictions)]
        seconds = (time.perf_counter() - self._started) / max(len(counted), 1)
        for evaluation, prediction, areas in counted:
            evaluation.record(prediction, areas, seconds, sync=False)
        if time.perf_counter() - self._synced > SYNC_SECONDS:
            for evaluation in self.evaluations:
                evaluation.sync()
            self._synced = time.perf_counter()

    def _count(self, predictions: Sequence[Prediction | None]) -> list[tuple[Evaluation, Prediction, Areas | None]]:
        """Compare one image's predictions with its truth, whose scored pixels are looked up once."""
        scored: ScoredPixels | None = None
        counted = []
        for evaluation, prediction in zip(self.evaluations, predictions, strict=True):
            if prediction is not None:
                scored = scored or evaluation.scored_pixels(prediction)
                counted.append((evaluation, prediction, evaluation.count(prediction, scored)))
        return counted

    def on_predict_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Write all results."""
        # The first collective after the images, as in ``Evaluation``.
        distributed.run_and_sync_errors(None)
        for evaluation in self.evaluations:
            evaluation.close(trainer)
            self._closed += 1

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Leave a truthful status behind in all run directories that are not complete."""
        for evaluation in self.evaluations[self._closed :]:
            evaluation.on_exception(trainer, pl_module, exception)


def evaluate_in_one_pass(points: Sequence[PassEntry], data: SegmentationData, trainer: Trainer) -> list[Evaluation]:
    """Evaluate several points on one benchmark.

    Args:
        points: At least one. Their protocols read images alike: resize, labels, names and the ignored label.
        data: The benchmark.
        trainer: For ``predict``.

    Returns:
        The finished evaluations in the order of the points, the same on every rank.

    Raises:
        OvsegError: Something that the user can fix; one sentence.
    """
    fingerprint = data.fingerprint
    evaluations = [_ready(point, data, fingerprint) for point in points]
    methods = [point.method for point in points]
    module = OnePass(methods)
    trainer.callbacks.append(JointEvaluation(evaluations, data, module))  # type: ignore[attr-defined]
    predict(trainer, module, methods, data)
    return evaluations


def _ready(point: PassEntry, data: SegmentationData, fingerprint: str) -> Evaluation:
    point.method.make_ready(data.vocabulary_for(point.protocol.class_names), point.protocol)
    return Evaluation(point.method, data, point.protocol, point.run_dir, point.config, point.kept_images, fingerprint)
