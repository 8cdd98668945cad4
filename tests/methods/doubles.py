"""Models whose answers are known, for the tests of several methods."""

import random
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from harness import ArtifactStore, Box, ScoreMap, SegmentationMethod, Stage
from methods.backbones import FeatureExtractor


class Colours(FeatureExtractor):
    """Features that are known: a pixel's colour, centred."""

    def __init__(self) -> None:
        super().__init__()
        self.centre = torch.nn.Parameter(torch.tensor(127.5))

    def features(self, images: torch.Tensor) -> torch.Tensor:
        return images.float() - self.centre


def window_scores(
    method: SegmentationMethod, windows: torch.Tensor, boxes: Sequence[Box] | None = None, context: Any = None
) -> Sequence[ScoreMap]:
    """Encode some windows, [B, 3, h, w] uint8, and score them."""
    boxes = boxes or [Box(0, 0, windows.shape[2], windows.shape[3])] * len(windows)
    return method.score(method.encode(windows, boxes, context), boxes, context)


def make_without_global_randomness(stage: Stage, store: ArtifactStore) -> None:
    """Make and keep all items of a stage; its keys may then change without changing its values."""

    def state() -> tuple[object, ...]:
        name, numbers, *rest = np.random.get_state()
        return torch.get_rng_state().tolist(), name, numbers.tolist(), rest, random.getstate()

    before = state()
    for item in stage.items():
        store.put(item, stage.make(item, store), 0.0)
    assert state() == before, f"{stage.name} draws from global generators"
