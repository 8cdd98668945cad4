"""PASCAL VOC 2012: 20 objects, with and without the background, and the part of it that FreeSeg-Diff calls VOC-C."""

from functools import partial
from pathlib import Path
from typing import ClassVar

import numpy as np

from datamodules.label_maps import published
from datamodules.metainfo import metainfo
from datamodules.stuff import stuff_names
from harness.data.benchmark import REDUCED, Benchmark, Job, Layout, Source
from harness.data.vocabulary import Vocabulary

DEVKIT = Source(
    "VOCtrainval_11-May-2012.tar", "http://host.robots.ox.ac.uk/pascal/VOC/voc2012/VOCtrainval_11-May-2012.tar"
)
# What the releases of the methods call some classes.
RENAMED = {
    "clip_diy": {"pottedplant": "potted plant", "tvmonitor": "tv/monitor"},
    "ovdiff": {
        "aeroplane": "airplane",
        "diningtable": "table",
        "pottedplant": "potted plant",
        "tvmonitor": "monitor",
    },
}


class VOC21(Benchmark):
    """PASCAL VOC 2012, validation: 20 objects and the background.

    Args:
        root: ``VOCdevkit/VOC2012``, or the folder in which ``VOCdevkit`` lies; null takes OVSEG_DATA.
        batch_size: As in ``SegmentationData``.
        num_workers: Likewise.
        limit: Likewise.
        on_error: Likewise.
    """

    name = "voc21"
    layout: ClassVar[Layout] = Layout("JPEGImages", "SegmentationClass", ids="ImageSets/Segmentation/val.txt")
    places = ("VOCdevkit/VOC2012", "VOC2012")
    published: ClassVar[int | None] = 1449
    images_from = DEVKIT
    labels_from = (DEVKIT,)
    renamed = RENAMED

    @classmethod
    def named(cls) -> Vocabulary:
        """The background and 20 objects."""
        names, palette = metainfo("voc", "PascalVOCDataset")
        return Vocabulary(names, background=True, stuff=stuff_names("voc"), palette=palette)


class VOC20(VOC21):
    """PASCAL VOC 2012, validation: 20 objects; the background is not scored.

    Args:
        root: ``VOCdevkit/VOC2012``, or the folder in which ``VOCdevkit`` lies; null takes OVSEG_DATA.
        batch_size: As in ``SegmentationData``.
        num_workers: Likewise.
        limit: Likewise.
        on_error: Likewise.
    """

    name = "voc20"
    decode = REDUCED

    @classmethod
    def named(cls) -> Vocabulary:
        """The 20 objects."""
        names, palette = metainfo("voc", "PascalVOCDataset")
        return Vocabulary(names[1:], stuff=stuff_names("voc"), palette=palette[1:])


class VOCC(VOC21):
    """VOC-C of FreeSeg-Diff: the pictures of PASCAL VOC 2012, validation, with one kind of object.

    The paper calls VOC-C "filtered part of Pascal VOC", as used by Peekaboo; neither published the list of pictures.
    That it holds the pictures whose label map has exactly one object class is our reading; another list can be put
    into ``ImageSets/Segmentation/val_voc_c.txt``.

    Args:
        root: ``VOCdevkit/VOC2012``, or the folder in which ``VOCdevkit`` lies; null takes OVSEG_DATA.
        batch_size: As in ``SegmentationData``.
        num_workers: Likewise.
        limit: Likewise.
        on_error: Likewise.
    """

    name = "voc_c"
    layout = Layout("JPEGImages", "SegmentationClass", ids="ImageSets/Segmentation/val_voc_c.txt")
    published = None
    prepared = frozenset({"list"})

    @classmethod
    def jobs(cls, folder: Path) -> list[Job]:
        """The list."""
        VOC21.find_ids(folder)
        return [Job(folder / str(cls.layout.ids), partial(one_class_list, folder))]


def one_class_list(folder: Path) -> bytes:
    """The names of the validation pictures whose label map has exactly one class besides background and border.

    Raises:
        DataError: A label map is missing or damaged.
    """
    layout = VOC21.layout
    kept = []
    for id in VOC21.find_ids(folder):
        labels = np.unique(published(folder / layout.labels / f"{id}{layout.label_suffix}", DEVKIT))
        if np.count_nonzero((labels > 0) & (labels < 255)) == 1:
            kept.append(f"{id}\n")
    return "".join(kept).encode()
