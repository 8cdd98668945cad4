"""COCO-Stuff 164k: 80 things and 91 stuff classes."""

import numpy as np

from datamodules.coco import NUMBERS, FromMaps, labelled
from datamodules.label_maps import table
from datamodules.metainfo import metainfo
from datamodules.stuff import stuff_names
from harness.data.vocabulary import Vocabulary


class COCOStuff(FromMaps):
    """COCO-Stuff 164k, validation: 171 classes.

    Args:
        root: ``coco_stuff164k``, with ``images`` and ``annotations`` in it, or the folder in which it lies; null takes
            OVSEG_DATA.
        batch_size: As in ``SegmentationData``.
        num_workers: Likewise.
        limit: Likewise.
        on_error: Likewise.
    """

    name = "coco_stuff"
    layout = labelled("_labelTrainIds.png")

    @classmethod
    def named(cls) -> Vocabulary:
        """80 things, 91 stuff classes."""
        names, palette = metainfo("coco_stuff", "COCOStuffDataset")
        return Vocabulary(names, stuff=stuff_names("coco_stuff"), palette=palette)

    @classmethod
    def values(cls) -> np.ndarray:
        """The 171 numbers that are in use, without gaps."""
        return table({number - 1: label for label, number in enumerate(NUMBERS)})
