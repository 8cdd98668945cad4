"""COCO-Stuff 164k: 80 things and 91 stuff classes."""

import numpy as np

from datamodules.coco import CATEGORY_IDS, CLASS_NAME_OVERRIDES, COCOStuffMaps, coco_layout
from datamodules.label_maps import lookup_table
from datamodules.metainfo import metainfo
from datamodules.stuff import stuff_names
from harness.data.vocabulary import Vocabulary


class COCOStuff(COCOStuffMaps):
    """COCO-Stuff 164k, validation: 171 classes.

    Args:
        root: ``coco_stuff164k``, with ``images`` and ``annotations``, or its parent folder; null takes OVSEG_DATA.
        batch_size: Samples per call of ``predict_step``.
        num_workers: Processes per rank that read images.
        limit: Number of images to use, from the first; null takes all.
        on_error: Whether to ``stop`` at an unreadable image or ``skip`` it.
    """

    name = "coco_stuff"
    layout = coco_layout("_labelTrainIds.png")
    class_name_overrides = CLASS_NAME_OVERRIDES

    @classmethod
    def default_vocabulary(cls) -> Vocabulary:
        """80 things, 91 stuff classes."""
        names, palette = metainfo("coco_stuff", "COCOStuffDataset")
        return Vocabulary(names, stuff=stuff_names("coco_stuff"), palette=palette)

    @classmethod
    def stuff_map_table(cls) -> np.ndarray:
        """The 171 category ids in use, renumbered without gaps."""
        return lookup_table({id - 1: label for label, id in enumerate(CATEGORY_IDS)})
