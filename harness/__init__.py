"""The engine: contracts, protocol, sliding window, metric, records, results, command line."""

import os

# Offline first: without this, a missing model costs minutes of retries before its one sentence; HF_HUB_OFFLINE=0 in
# the environment downloads. The Hub's library reads it when it is first imported, so it stands before all imports.
os.environ.setdefault("HF_HUB_OFFLINE", "1")

from harness.data import Picture, Sample, SegmentationData
from harness.errors import ConfigurationError, DataError, ModelError, OvsegError, RunError, StoreError
from harness.evaluation import Evaluation, evaluate
from harness.method import Evidence, Prediction, Refiner, SegmentationMethod
from harness.metric import SegmentationMetric
from harness.protocol import Protocol
from harness.sharing import frozen_part, once
from harness.stage import Precomputed, Stage
from harness.store import ArtifactStore
from harness.vocabulary import Vocabulary
from harness.windows import Box, ScoreMap
from harness.work_item import WorkItem

__all__ = [
    "ArtifactStore",
    "Box",
    "ConfigurationError",
    "DataError",
    "Evaluation",
    "Evidence",
    "ModelError",
    "OvsegError",
    "Picture",
    "Precomputed",
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
    "frozen_part",
    "once",
]
