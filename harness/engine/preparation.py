"""What comes before the first image: precompute over all ranks, then each method's own preparation."""

from collections.abc import Sequence

from lightning.pytorch import Callback, LightningModule, Trainer

from harness.artifacts.precompute import precompute_all
from harness.method.method import SegmentationMethod


def prepare(methods: Sequence[SegmentationMethod]) -> None:
    """Precompute what methods need, give them their banks, and let each prepare; called by all ranks, on the device.

    Args:
        methods: Loaded, with one store for all.

    Raises:
        OvsegError: On every rank: an item could not be computed, a rank was lost, or the banks differ.
    """
    for method, precomputed in zip(methods, precompute_all(methods, methods[0].store), strict=True):
        method.precomputed = precomputed
        method.prepare()


class Preparation(Callback):
    """Prepares methods when the models are on the device and the first image is still to come.

    Args:
        methods: As for ``prepare``.
    """

    def __init__(self, methods: Sequence[SegmentationMethod]) -> None:
        self.methods = methods

    def on_predict_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """See ``prepare``."""
        prepare(self.methods)
