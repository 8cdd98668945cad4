"""Miniature: a small world drawn in code, so that everything runs offline with real results."""

from collections.abc import Sequence
from functools import lru_cache
from typing import Literal

import numpy as np

from harness.data.datamodule import LabeledImage, SegmentationData
from harness.data.vocabulary import Vocabulary
from miniature import world
from miniature.stuff import STUFF
from miniature.things import THINGS

Classes = Literal["things", "context", "all"]
CONTEXT_STUFF = ("grass", "water", "road")


class Miniature(SegmentationData):
    """Scenes of ``miniature/world.py``, drawn as they are read.

    Args:
        split: ``val`` has 200 scenes; ``train`` has as many as ``limit`` asks for.
        classes: ``things`` scores the 12 things and a background (all stuff together); ``context`` also grass, water
            and road, with sky and sand as background; ``all`` scores things and stuff, 17 classes without a background.
        batch_size: As in ``SegmentationData``.
        num_workers: Likewise.
        limit: Likewise; 1000 for the training split if null.
        on_error: Likewise.
    """

    def __init__(
        self,
        split: Literal["train", "val"] = "val",
        classes: Classes = "things",
        batch_size: int = 1,
        num_workers: int = 0,
        limit: int | None = None,
        on_error: Literal["stop", "skip"] = "stop",
    ) -> None:
        super().__init__(batch_size, num_workers, limit, on_error)
        self.split = split
        self.classes = classes
        self.name = "miniature" if split == "val" else f"miniature_{split}"

    @property
    def vocabulary(self) -> Vocabulary:
        """The background and 12 things, without or with some stuff; or all 17 classes."""
        if self.classes == "all":
            return Vocabulary(world.CLASSES, stuff=frozenset(STUFF))
        stuff = CONTEXT_STUFF if self.classes == "context" else ()
        return Vocabulary(("background", *THINGS, *stuff), background=True, stuff=frozenset(stuff))

    def all_ids(self) -> Sequence[str]:
        """``val/0``, ``val/1``, ..."""
        count = world.VAL_IMAGES if self.split == "val" else min(self.limit or 1000, world.TRAIN_IMAGES)
        return [f"{self.split}/{index}" for index in range(count)]

    def read(self, index: int) -> LabeledImage:
        """Draw scene ``index``."""
        image, labels = _draw(self.split, index)
        return LabeledImage(image, self._values()[labels])

    def _values(self) -> np.ndarray:
        """For every label of the world its place in the vocabulary, 0 for what is background."""
        names = self.vocabulary.names
        table = np.zeros(256, dtype=np.uint8)
        table[: len(world.CLASSES)] = [names.index(name) if name in names else 0 for name in world.CLASSES]
        return table

    def content_signature(self, index: int) -> str:
        """The version of the drawing code: a test holds it to the pixels."""
        return str(world.VERSION)


@lru_cache(maxsize=256)
def _draw(split: Literal["train", "val"], index: int) -> tuple[np.ndarray, np.ndarray]:
    scene = world.scene(split, index)
    return scene.image, scene.labels
