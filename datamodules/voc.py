"""PASCAL VOC 2012: 20 objects, with and without the background, and VOC-C, the subset of FreeSeg-Diff."""

from functools import partial
from pathlib import Path
from typing import ClassVar

import numpy as np

from datamodules.label_maps import read_published_labels
from datamodules.metainfo import metainfo
from datamodules.stuff import stuff_names
from harness.data.benchmark import REDUCE_ZERO_LABEL, Benchmark, Job, Layout, Source
from harness.data.vocabulary import Vocabulary

DEVKIT = Source(
    "VOCtrainval_11-May-2012.tar", "http://host.robots.ox.ac.uk/pascal/VOC/voc2012/VOCtrainval_11-May-2012.tar"
)
# Class names in the releases of the methods, where they differ.
CLASS_NAME_OVERRIDES = {
    "clip_diy": {"pottedplant": "potted plant", "tvmonitor": "tv/monitor"},
    "group_vit": {"diningtable": "table", "pottedplant": "plant", "tvmonitor": "monitor"},
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
        root: ``VOCdevkit/VOC2012``, or the parent folder of ``VOCdevkit``; null takes OVSEG_DATA.
        batch_size: Samples per call of ``predict_step``.
        num_workers: Processes per rank that read images.
        limit: Number of images to use, from the first; null takes all.
        on_error: Whether to ``stop`` at an unreadable image or ``skip`` it.
    """

    name = "voc21"
    layout: ClassVar[Layout] = Layout("JPEGImages", "SegmentationClass", ids="ImageSets/Segmentation/val.txt")
    default_folders = ("VOCdevkit/VOC2012", "VOC2012")
    num_images_published: ClassVar[int | None] = 1449
    images_source = DEVKIT
    label_sources = (DEVKIT,)
    class_name_overrides = CLASS_NAME_OVERRIDES

    @classmethod
    def default_vocabulary(cls) -> Vocabulary:
        """The background and 20 objects."""
        names, palette = metainfo("voc", "PascalVOCDataset")
        return Vocabulary(names, background=True, stuff=stuff_names("voc"), palette=palette)


class VOC20(VOC21):
    """PASCAL VOC 2012, validation: 20 objects; the background is not scored.

    Args:
        root: ``VOCdevkit/VOC2012``, or the parent folder of ``VOCdevkit``; null takes OVSEG_DATA.
        batch_size: Samples per call of ``predict_step``.
        num_workers: Processes per rank that read images.
        limit: Number of images to use, from the first; null takes all.
        on_error: Whether to ``stop`` at an unreadable image or ``skip`` it.
    """

    name = "voc20"
    label_table = REDUCE_ZERO_LABEL

    @classmethod
    def default_vocabulary(cls) -> Vocabulary:
        """The 20 objects."""
        names, palette = metainfo("voc", "PascalVOCDataset")
        return Vocabulary(names[1:], stuff=stuff_names("voc"), palette=palette[1:])


class VOCC(VOC21):
    """VOC-C of FreeSeg-Diff: the images of PASCAL VOC 2012, validation, with one object class.

    The paper calls VOC-C "filtered part of Pascal VOC", as used by Peekaboo; neither published the list of images. We
    take the images whose label map has exactly one object class; another list can be put into
    ``ImageSets/Segmentation/val_voc_c.txt``.

    Args:
        root: ``VOCdevkit/VOC2012``, or the parent folder of ``VOCdevkit``; null takes OVSEG_DATA.
        batch_size: Samples per call of ``predict_step``.
        num_workers: Processes per rank that read images.
        limit: Number of images to use, from the first; null takes all.
        on_error: Whether to ``stop`` at an unreadable image or ``skip`` it.
    """

    name = "voc_c"
    layout = Layout("JPEGImages", "SegmentationClass", ids="ImageSets/Segmentation/val_voc_c.txt")
    num_images_published = None
    prepared_parts = frozenset({"list"})

    @classmethod
    def jobs(cls, folder: Path) -> list[Job]:
        """The list of images."""
        VOC21.find_ids(folder)
        return [Job(folder / str(cls.layout.ids), partial(one_class_list, folder))]


def one_class_list(folder: Path) -> bytes:
    """The list of validation images whose label map has exactly one class besides background and border.

    Raises:
        DataError: A label map is missing or corrupt.
    """
    layout = VOC21.layout
    lines = []
    for id in VOC21.find_ids(folder):
        labels = np.unique(read_published_labels(folder / layout.labels / f"{id}{layout.label_suffix}", DEVKIT))
        if np.count_nonzero((labels > 0) & (labels < 255)) == 1:
            lines.append(f"{id}\n")
    return "".join(lines).encode()
