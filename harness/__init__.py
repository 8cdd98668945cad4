"""The engine: contracts, protocol, sliding window, metric, records, results, command line."""

import os

# Offline first: without this, a missing model costs minutes of retries before its one sentence; HF_HUB_OFFLINE=0 in
# the environment downloads. The Hub's library reads it when it is first imported, so it stands before all imports.
os.environ.setdefault("HF_HUB_OFFLINE", "1")

from harness.artifacts.stage import PrecomputeReport, Stage
from harness.artifacts.store import ArtifactStore
from harness.artifacts.work_item import WorkItem
from harness.data.datamodule import LabeledImage, Sample, SegmentationData
from harness.data.protocol import Protocol
from harness.data.vocabulary import Vocabulary
from harness.engine.evaluation import Evaluation, evaluate
from harness.method.method import Evidence, Prediction, SegmentationMethod
from harness.method.part import Part
from harness.method.refiner import Refiner
from harness.method.windows import Box, ScoreMap
from harness.results.metric import SegmentationMetric
from harness.system.errors import ConfigurationError, DataError, ModelError, OvsegError, RunError, StoreError

__all__ = [
    "ArtifactStore",
    "Box",
    "ConfigurationError",
    "DataError",
    "Evaluation",
    "Evidence",
    "LabeledImage",
    "ModelError",
    "OvsegError",
    "Part",
    "PrecomputeReport",
    "Prediction",
    "Protocol",
    "Refiner",
    "RunError",
    "Sample",
    "ScoreMap",
    "SegmentationData",
    "SegmentationMethod",
    "SegmentationMetric",
    "Stage",
    "StoreError",
    "Vocabulary",
    "WorkItem",
    "evaluate",
]
