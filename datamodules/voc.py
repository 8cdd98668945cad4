"""PASCAL VOC 2012: 20 objects, with and without the background, and VOC-C, the subsets of FreeSeg-Diff."""

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import ClassVar, Literal

import numpy as np

from datamodules.label_maps import read_published_labels
from datamodules.metainfo import metainfo
from datamodules.stuff import stuff_names
from harness.data.benchmark import IGNORE_LABEL, REDUCE_ZERO_LABEL, Benchmark, Job, Layout, Source
from harness.data.datamodule import LabeledImage
from harness.data.protocol import fingerprint
from harness.data.vocabulary import Vocabulary
from harness.system.errors import ConfigurationError

Void = Literal["ignore", "background"]

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
        void: The border of the objects and what is too difficult, 255 in the label maps: not scored (``ignore``), or
            counted as ``background``, as in FreeSeg-Diff's release (``datasetsManager.py``).

    Raises:
        ConfigurationError: ``void`` is background, of a benchmark without one.
    """

    name = "voc21"
    layout: ClassVar[Layout] = Layout("JPEGImages", "SegmentationClass", ids="ImageSets/Segmentation/val.txt")
    default_folders = ("VOCdevkit/VOC2012", "VOC2012")
    num_images_published: ClassVar[int | None] = 1449
    images_source = DEVKIT
    label_sources = (DEVKIT,)
    class_name_overrides = CLASS_NAME_OVERRIDES

    def __init__(
        self,
        root: str | None = None,
        batch_size: int = 1,
        num_workers: int = 0,
        limit: int | None = None,
        on_error: Literal["stop", "skip"] = "stop",
        void: Void = "ignore",
    ) -> None:
        super().__init__(root, batch_size, num_workers, limit, on_error)
        if void == "background" and not self.vocabulary.background:
            raise ConfigurationError(f"{self.name} has no background that the void border could be counted as")
        self.void: Void = void

    @property
    def fingerprint(self) -> str:
        """As of every benchmark, and of ``void`` if it is not ignored."""
        found = super().fingerprint
        return found if self.void == "ignore" else fingerprint([found, "void", self.void])

    def read(self, index: int) -> LabeledImage:
        """As every benchmark, with ``void`` as the settings have it."""
        image, labels = super().read(index)
        if self.void == "background" and labels is not None:
            labels = np.where(labels == IGNORE_LABEL, 0, labels)
        return LabeledImage(image, labels)

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
        void: As in ``VOC21``; only ``ignore`` here, where there is no background.
    """

    name = "voc20"
    label_table = REDUCE_ZERO_LABEL

    @classmethod
    def default_vocabulary(cls) -> Vocabulary:
        """The 20 objects."""
        names, palette = metainfo("voc", "PascalVOCDataset")
        return Vocabulary(names[1:], stuff=stuff_names("voc"), palette=palette[1:])


class VOCC(VOC21):
    """VOC-C of FreeSeg-Diff as its paper means it: the images of PASCAL VOC 2012, validation, with one object class.

    The paper calls VOC-C "filtered part of Pascal VOC", as used by Peekaboo; neither published the list of images. We
    take the images whose label map has exactly one object class; another list can be put into
    ``ImageSets/Segmentation/val_voc_c.txt``. ``VOCCRelease`` has the images that the release scores.

    Args:
        root: ``VOCdevkit/VOC2012``, or the parent folder of ``VOCdevkit``; null takes OVSEG_DATA.
        batch_size: Samples per call of ``predict_step``.
        num_workers: Processes per rank that read images.
        limit: Number of images to use, from the first; null takes all.
        on_error: Whether to ``stop`` at an unreadable image or ``skip`` it.
        void: As in ``VOC21``.
    """

    name = "voc_c"
    layout = Layout("JPEGImages", "SegmentationClass", ids="ImageSets/Segmentation/val_voc_c.txt")
    num_images_published = None
    prepared_parts = frozenset({"list"})

    @classmethod
    def jobs(cls, folder: Path) -> list[Job]:
        """The list of images."""
        VOC21.find_ids(folder)
        return [Job(folder / str(cls.layout.ids), partial(filtered_list, folder, has_one_class))]


class VOCCRelease(VOCC):
    """VOC-C of FreeSeg-Diff as its release scores it: the images whose printed labels have at most two characters.

    The release keeps an image by the text of its label values, see ``has_two_characters``: the background with one of
    the classes 1 to 9, but not with one of 10 to 20, whose labels have two digits.

    Args:
        root: ``VOCdevkit/VOC2012``, or the parent folder of ``VOCdevkit``; null takes OVSEG_DATA.
        batch_size: Samples per call of ``predict_step``.
        num_workers: Processes per rank that read images.
        limit: Number of images to use, from the first; null takes all.
        on_error: Whether to ``stop`` at an unreadable image or ``skip`` it.
        void: As in ``VOC21``.
    """

    name = "voc_c_release"
    layout = Layout("JPEGImages", "SegmentationClass", ids="ImageSets/Segmentation/val_voc_c_release.txt")

    @classmethod
    def jobs(cls, folder: Path) -> list[Job]:
        """The list of images."""
        VOC21.find_ids(folder)
        return [Job(folder / str(cls.layout.ids), partial(filtered_list, folder, has_two_characters))]


def has_one_class(values: Sequence[int]) -> bool:
    """Whether there is exactly one class besides background (0) and border (255)."""
    return sum(0 < value < 255 for value in values) == 1


def has_two_characters(values: Sequence[int]) -> bool:
    """The rule of FreeSeg-Diff's release (``utils.py``): at most two characters, printed without brackets and spaces.

    The border counts as background, as everywhere in the release. Kept are ``[0 7]``, ``[7]``, ``[0]``, and, without
    any background, ``[15]`` and the two classes of ``[3 4]``; left out is ``[0 15]``.
    """
    labels = {0 if value == 255 else value for value in values}
    return sum(len(str(label)) for label in labels) <= 2


def filtered_list(folder: Path, keep: Callable[[Sequence[int]], bool]) -> bytes:
    """The list of validation images whose label values, ascending, pass a rule.

    Raises:
        DataError: A label map is missing or corrupt.
    """
    layout = VOC21.layout
    lines = []
    for id in VOC21.find_ids(folder):
        labels = np.unique(read_published_labels(folder / layout.labels / f"{id}{layout.label_suffix}", DEVKIT))
        if keep(labels.tolist()):
            lines.append(f"{id}\n")
    return "".join(lines).encode()
