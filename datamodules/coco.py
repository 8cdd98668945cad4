"""COCO 2017, validation: what its benchmarks share, that is, the pictures, the maps of COCO-Stuff, and their values."""

from abc import abstractmethod
from functools import partial
from pathlib import Path

import numpy as np

from datamodules.label_maps import translated
from harness.data.benchmark import Benchmark, Job, Layout, Source

IMAGES = Source("val2017.zip", "http://images.cocodataset.org/zips/val2017.zip")
MAPS = Source(
    "stuffthingmaps_trainval2017.zip",
    "http://calvin.inf.ed.ac.uk/wp-content/uploads/data/cocostuffdataset/stuffthingmaps_trainval2017.zip",
)
THINGS = 80
# Of COCO's 182 numbers, those that no annotation has: street sign, hat, shoe, eye glasses, plate, mirror, window,
# desk, door, blender, hair brush.
REMOVED = frozenset({12, 26, 29, 30, 45, 66, 68, 69, 71, 83, 91})
# The others, in order: 80 things and 91 stuff classes. The maps of COCO-Stuff hold the number less 1.
NUMBERS = tuple(number for number in range(1, 183) if number not in REMOVED)


def labelled(label_suffix: str) -> Layout:
    """The layout of a benchmark on COCO whose label maps have this suffix."""
    return Layout("images/val2017", "annotations/val2017", label_suffix=label_suffix)


class COCO(Benchmark):
    """What the benchmarks on COCO's validation pictures share."""

    places = ("coco_stuff164k", "coco_stuff", "coco")
    published = 5000
    images_from = IMAGES
    labels_from = (MAPS,)
    prepared = frozenset({"labels"})


class FromMaps(COCO):
    """A benchmark whose labels are those of COCO-Stuff's maps, looked up."""

    @classmethod
    @abstractmethod
    def values(cls) -> np.ndarray:
        """Label by value of the maps, [256] uint8."""

    @classmethod
    def jobs(cls, folder: Path) -> list[Job]:
        """A label map beside each of COCO-Stuff's."""
        labels, values = folder / cls.layout.labels, cls.values()
        return [
            Job(labels / f"{id}{cls.layout.label_suffix}", partial(translated, labels / f"{id}.png", MAPS, values))
            for id in cls.find_ids(folder)
        ]
