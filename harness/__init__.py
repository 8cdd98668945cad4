"""The engine: contracts, protocol, sliding window, metric, records, results, command line."""

from harness.data import Picture, Sample, SegmentationData
from harness.errors import ConfigurationError, DataError, ModelError, OvsegError, RunError
from harness.evaluation import Evaluation, evaluate
from harness.method import Prediction, Refiner, SegmentationMethod
from harness.metric import SegmentationMetric
from harness.protocol import Protocol
from harness.vocabulary import Vocabulary
from harness.windows import Box, ScoreMap

__all__ = [
    "Box",
    "ConfigurationError",
    "DataError",
    "Evaluation",
    "ModelError",
    "OvsegError",
    "Picture",
    "Prediction",
    "Protocol",
    "Refiner",
    "RunError",
    "Sample",
    "ScoreMap",
    "SegmentationData",
    "SegmentationMethod",
    "SegmentationMetric",
    "Vocabulary",
    "evaluate",
]
