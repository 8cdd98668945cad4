"""Another person's package: a method and a benchmark that the harness knows nothing of."""

import time
from typing import Literal

import numpy as np
import torch
from safetensors.torch import load_file
from torch import nn
from torch.nn.functional import avg_pool2d

from harness import DataError, Evidence, LabeledImage, ScoreMap, SegmentationData, SegmentationMethod, Vocabulary


class NearestColour(SegmentationMethod):
    """Scores a class by how near a patch's mean colour is to the class's palette colour."""

    name = "nearest_colour"
    encode_settings = frozenset({"patch"})
    scores_background = True

    def __init__(
        self, patch: int = 4, delay: float = 0.0, checkpoint: str | None = None, window_batch: int = 8
    ) -> None:
        super().__init__(window_batch=window_batch)
        self.patch = patch
        self.delay = delay
        self.checkpoint = checkpoint
        self.batches: list[int] = []

    def load(self) -> None:
        self.scale = nn.Linear(1, 1, bias=False)
        known = {"weight": torch.full((1, 1), 1 / 255)}
        self.scale.load_state_dict(load_file(self.checkpoint) if self.checkpoint else known)

    def prepare(self) -> None:
        self.colours = torch.tensor(self.vocabulary.palette, device=self.device, dtype=torch.float32)

    def encode(self, windows, boxes, image):
        time.sleep(self.delay)
        self.batches.append(len(windows))
        return avg_pool2d(windows.float(), self.patch, ceil_mode=True)

    def score(self, means, boxes, context):
        distance = (means[:, None] - self.colours[None, :, :, None, None]).abs().mean(dim=2)
        return [ScoreMap(-distance * self.scale.weight.float())]

    def explain(self, sample, labels):
        image = sample.original.permute(1, 2, 0).cpu().numpy()
        return [
            Evidence(label, f"<{self.vocabulary.names[label]}>", image, (labels == label).cpu().numpy())
            for label in labels.unique().tolist()
        ]


class SeededColour(NearestColour):
    """The same with colours that are a little off, as its seed has it."""

    name = "seeded_colour"

    def __init__(self, seed: int = 0, patch: int = 4, window_batch: int = 8) -> None:
        super().__init__(patch, window_batch=window_batch)
        self.seed = seed

    def prepare(self) -> None:
        super().prepare()
        off = torch.randn(self.colours.shape, generator=torch.Generator().manual_seed(self.seed))
        self.colours = self.colours + 60 * off


class Squares(SegmentationData):
    """Rectangles of random classes on background, noisy, of several sizes; some labels ignored."""

    name = "squares"
    not_identity = SegmentationData.not_identity | {"damaged"}

    def __init__(
        self,
        count: int = 5,
        classes: int = 5,
        damaged: tuple[int, ...] = (),
        batch_size: int = 1,
        num_workers: int = 0,
        limit: int | None = None,
        on_error: Literal["stop", "skip"] = "stop",
    ) -> None:
        super().__init__(batch_size, num_workers, limit, on_error)
        self.count = count
        self.damaged = tuple(damaged)
        self._vocabulary = Vocabulary(("background", *(f"class {i}" for i in range(1, classes))), background=True)

    @property
    def vocabulary(self):
        return self._vocabulary

    def all_ids(self):
        return [f"squares/{index}" for index in range(self.count)]

    def content_signature(self, index):
        return "1"

    def read(self, index):
        if index in self.damaged:
            raise DataError(f"squares/{index}.png is damaged")
        random = np.random.default_rng(index)
        height, width = (int(random.integers(20, 90)) for _ in range(2))
        labels = np.zeros((height, width), dtype=np.uint8)
        for _ in range(4):
            top, left = int(random.integers(height)), int(random.integers(width))
            labels[top : top + 20, left : left + 30] = random.integers(1, len(self._vocabulary))
        colours = np.array(self._vocabulary.palette)[labels]
        image = np.clip(colours + random.normal(0, 60, colours.shape), 0, 255).astype(np.uint8)
        labels[:2] = 255
        return LabeledImage(image, labels)
