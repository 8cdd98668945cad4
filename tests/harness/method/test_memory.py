"""Bounded: memory grows with the image or with the number of classes, not with their product.

``benchmarks/score_memory.py`` measures the same in resident memory at 1024x2048; here live tensors are counted, on an
eighth of each side with a 64th of the budget.
"""

import weakref
from collections.abc import Sequence
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from harness import Box, Protocol, Sample, ScoreMap, SegmentationMethod, Vocabulary
from harness.method import windows

HEIGHT, WIDTH = 128, 256
BUDGET = windows.PLANE_BUDGET // 64


class LiveBytes(TorchDispatchMode):
    """Bytes of all storages made inside that are still alive, now and at their peak."""

    def __init__(self) -> None:
        super().__init__()
        self.now = self.peak = 0
        self._known: set[int] = set()

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        made = function(*args, **(kwargs or {}))
        for each in tree_leaves(made):
            if isinstance(each, Tensor):
                self._count(each.untyped_storage())
        return made

    def _count(self, storage: torch.UntypedStorage) -> None:
        key, size = storage._cdata, storage.nbytes()
        if key in self._known:
            return
        self._known.add(key)
        self.now += size
        self.peak = max(self.peak, self.now)
        weakref.finalize(storage, self._forget, key, size)

    def _forget(self, key: int, size: int) -> None:
        self._known.discard(key)
        self.now -= size


class Noise(SegmentationMethod):
    """Random scores at a sixteenth of the window."""

    name = "noise"

    def load(self) -> None:
        pass

    def encode(self, windows: Tensor, boxes: Sequence[Box], image: Any) -> Tensor:
        count, _, height, width = windows.shape
        return torch.rand(count, len(self.vocabulary), height // 16, width // 16)

    def score(self, encoded: Tensor, boxes: Sequence[Box], context: Any) -> list[ScoreMap]:
        """As encoded."""
        return [ScoreMap(encoded)]


def peak(classes: int) -> int:
    method = Noise()
    vocabulary = Vocabulary(tuple(f"class {index}" for index in range(classes)))
    method.bind(vocabulary, Protocol(name="x", resize="none", window=64, stride=32))
    image = torch.zeros(3, HEIGHT, WIDTH, dtype=torch.uint8)
    with LiveBytes() as live, torch.inference_mode():
        labels = method.predict_image(Sample(0, "x", image, image, None, (HEIGHT, WIDTH)))
    assert labels.shape == (HEIGHT, WIDTH)
    # What else stays is less than one plane: weights of interpolation.
    assert live.now < labels.numel() + image.numel() + 4 * HEIGHT * WIDTH
    return live.peak


def test_nine_times_the_classes_need_less_than_half_more_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(windows, "PLANE_BUDGET", BUDGET)
    few, many = peak(19), peak(171)
    assert many < 1.5 * few
    # What the test is about: all planes at once.
    monkeypatch.setattr(windows, "PLANE_BUDGET", 2**40)
    assert peak(171) > 3 * many
