"""Perfect support sets: drawn images with their true masks, in place of generated images with attention maps.

A method that uses them reaches its upper bound on Miniature: the score that its other parts allow.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from harness.system.errors import ConfigurationError
from methods.backbones.diffusion import Attribution, GeneratedImages, TextToImage
from miniature.generation.captioned_images import THING_COVER
from miniature.world import CLASSES, VERSION, draw_scene

_SEED = 1 << 43  # apart from the seeds of all training and validation scenes
_ATTEMPTS = 8


class DrawnImages(TextToImage):
    """Drawn scenes of the prompted class in place of generated images, true masks in place of attribution.

    Args:
        size: Side of the square images in pixels.

    Raises:
        ConfigurationError: The size is not positive.
    """

    def __init__(self, size: int = 64) -> None:
        super().__init__()
        if size < 1:
            raise ConfigurationError(f"drawn images need a positive size, not {size}")
        self.size = size

    def configuration(self) -> Any:
        """The version of the drawing code."""
        return VERSION

    def generate(
        self,
        prompts: Sequence[str],
        seeds: Sequence[int],
        words: Sequence[str] = (),
        attribution: Attribution | None = None,
    ) -> GeneratedImages:
        """See ``TextToImage.generate``; ``maps`` are the true masks of the words, at the attribution's resolution.

        Raises:
            ConfigurationError: A word is not a class of Miniature.
        """
        for word in words:
            if word not in CLASSES:
                raise ConfigurationError(f"'{word}' is not a class of Miniature: {', '.join(CLASSES)}")
        drawn = [self._draw(prompt, seed) for prompt, seed in zip(prompts, seeds, strict=True)]
        images = torch.stack([image for image, _ in drawn])
        if not words:
            return GeneratedImages(images, None)
        labels = torch.stack([label for _, label in drawn])
        masks = torch.stack([labels == CLASSES.index(word) for word in words], dim=1).float()
        resolution = (attribution.resolution if attribution else None) or self.size
        return GeneratedImages(images, F.interpolate(masks, (resolution, resolution), mode="area"))

    def _draw(self, prompt: str, seed: int) -> tuple[Tensor, Tensor]:
        """One scene that shows the first class named in the prompt: [3, S, S] uint8 and [S, S] labels."""
        only = next((word.strip(".,") for word in prompt.split() if word.strip(".,") in CLASSES), None)
        if only is None:
            raise ConfigurationError(f"the prompt '{prompt}' names no class of Miniature")
        for attempt in range(_ATTEMPTS):
            scene = draw_scene(_SEED + seed * _ATTEMPTS + attempt, (self.size, self.size), only)
            if (scene.labels == CLASSES.index(only)).mean() >= THING_COVER:
                break
        return torch.from_numpy(scene.image).permute(2, 0, 1).clone(), torch.from_numpy(scene.labels)
