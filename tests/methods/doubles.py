"""Models whose answers are known, for the tests of several methods."""

import torch

from methods.backbones import FeatureExtractor


class Colours(FeatureExtractor):
    """Features that are known: a pixel's colour, centred."""

    def __init__(self) -> None:
        super().__init__()
        self.centre = torch.nn.Parameter(torch.tensor(127.5))

    def features(self, images: torch.Tensor) -> torch.Tensor:
        return images.float() - self.centre
