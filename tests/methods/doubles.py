"""Models whose answers are known, for the tests of several methods."""

import pickle
import random

import numpy as np
import torch

from harness import ArtifactStore, Stage
from methods.backbones import FeatureExtractor


class Colours(FeatureExtractor):
    """Features that are known: a pixel's colour, centred."""

    def __init__(self) -> None:
        super().__init__()
        self.centre = torch.nn.Parameter(torch.tensor(127.5))

    def features(self, images: torch.Tensor) -> torch.Tensor:
        return images.float() - self.centre


def make_without_global_randomness(stage: Stage, store: ArtifactStore) -> None:
    """Make and keep all items of a stage; its keys may then change without changing its values."""

    def state() -> bytes:
        return pickle.dumps((torch.get_rng_state().tolist(), np.random.get_state(), random.getstate()))

    before = state()
    for item in stage.items():
        store.put(item, stage.make(item, store), 0.0)
    assert state() == before, f"{stage.name} draws from global generators"
