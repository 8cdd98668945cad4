"""COCO 2017, validation: base classes of its benchmarks, with the images, COCO-Stuff's maps, and their values."""

from abc import abstractmethod
from functools import partial
from pathlib import Path
from typing import ClassVar

import numpy as np

from datamodules.label_maps import remap_labels
from harness.data.benchmark import Benchmark, Job, Layout, Source

IMAGES = Source("val2017.zip", "http://images.cocodataset.org/zips/val2017.zip")
MAPS = Source(
    "stuffthingmaps_trainval2017.zip",
    "http://calvin.inf.ed.ac.uk/wp-content/uploads/data/cocostuffdataset/stuffthingmaps_trainval2017.zip",
)
NUM_THINGS = 80
# Of COCO's 182 category ids, those that no annotation has: street sign, hat, shoe, eye glasses, plate, mirror, window,
# desk, door, blender, hair brush.
UNUSED_CATEGORY_IDS = frozenset({12, 26, 29, 30, 45, 66, 68, 69, 71, 83, 91})
# The others, in order: 80 things and 91 stuff classes. COCO-Stuff's maps hold the category id minus 1.
CATEGORY_IDS = tuple(id for id in range(1, 183) if id not in UNUSED_CATEGORY_IDS)

# The prompt name that OVDiff's release puts over that of any data set.
CLASS_NAME_OVERRIDES = {"ovdiff": {"keyboard": "computer keyboard"}}


def coco_layout(label_suffix: str) -> Layout:
    """The layout of a benchmark on COCO with this suffix of label maps."""
    return Layout("images/val2017", "annotations/val2017", label_suffix=label_suffix)


class COCO(Benchmark):
    """Base of the benchmarks on COCO's validation images."""

    default_folders = ("coco_stuff164k", "coco_stuff", "coco")
    num_images_published: ClassVar[int | None] = 5000
    images_source = IMAGES
    label_sources = (MAPS,)
    prepared_parts = frozenset({"labels"})


class COCOStuffMaps(COCO):
    """Base of the benchmarks whose labels are looked up from the values of COCO-Stuff's maps."""

    @classmethod
    @abstractmethod
    def stuff_map_table(cls) -> np.ndarray:
        """Label by value of COCO-Stuff's maps, [256] uint8."""

    @classmethod
    def jobs(cls, folder: Path) -> list[Job]:
        """A label map beside each of COCO-Stuff's maps."""
        labels, table = folder / cls.layout.labels, cls.stuff_map_table()
        return [
            Job(labels / f"{id}{cls.layout.label_suffix}", partial(remap_labels, labels / f"{id}.png", MAPS, table))
            for id in cls.find_ids(folder)
        ]
