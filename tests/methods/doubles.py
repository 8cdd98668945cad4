"""Models whose answers are known, for the tests of several methods."""

from collections.abc import Sequence
from typing import Any

import torch

from harness import Box, ScoreMap, SegmentationMethod
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
