"""PASCAL Context: the 59 most frequent classes of objects and stuff, with and without a background class."""

import json
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from datamodules.label_maps import encode_png, pycocotools
from datamodules.metainfo import metainfo
from datamodules.stuff import stuff_names
from harness.data.benchmark import REDUCE_ZERO_LABEL, Benchmark, Job, Layout, Source
from harness.data.vocabulary import Vocabulary
from harness.system.errors import DataError

DEVKIT = Source(
    "VOCtrainval_03-May-2010.tar", "http://host.robots.ox.ac.uk/pascal/VOC/voc2010/VOCtrainval_03-May-2010.tar"
)
JSON = Source("trainval_merged.json", "https://codalabuser.blob.core.windows.net/public/trainval_merged.json")
MAT = Source("trainval.tar.gz", "https://cs.stanford.edu/~roozbeh/pascal-context/trainval.tar.gz")

# Of the annotators' 459 classes (labels.txt of PASCAL Context), the 59 that are scored, in the order of their labels.
SCORED_CLASSES = (
    2, 9, 18, 19, 22, 23, 25, 31, 33, 34, 44, 45, 46, 59, 65, 68, 72, 80, 85, 98, 104, 105, 113, 115, 144, 158, 159,
    162, 187, 189, 207, 220, 232, 258, 259, 260, 284, 295, 296, 308, 324, 326, 347, 349, 354, 355, 360, 366, 368, 397,
    415, 416, 420, 424, 427, 440, 445, 454, 458,
)  # fmt: skip
# Look-up table of 16-bit values; all but the 59 are background.
LABEL_TABLE = np.zeros(1 << 16, dtype=np.uint8)
LABEL_TABLE[list(SCORED_CLASSES)] = np.arange(1, len(SCORED_CLASSES) + 1)
# Class names in the releases of the methods, where they differ from mmsegmentation's.
# OVDiff has no list for PASCAL Context: these are its names of PASCAL VOC's classes, and the name that it puts over
# that of any data set.
CLASS_NAME_OVERRIDES = {
    "group_vit": {"aeroplane": "airplane", "pottedplant": "plant", "tvmonitor": "monitor"},
    "ovdiff": {
        "aeroplane": "airplane",
        "keyboard": "computer keyboard",
        "pottedplant": "potted plant",
        "tvmonitor": "monitor",
    },
}


class Context60(Benchmark):
    """PASCAL Context, validation: 59 classes and the background.

    The JSON file (PASCAL in Detail) has 5,104 validation images: the split of mmsegmentation, on which papers report.
    The .mat files are the older release, whose validation split has 5,105; scores on it are of another split.

    Args:
        root: ``VOCdevkit/VOC2010``, or the parent folder of ``VOCdevkit``; null takes OVSEG_DATA.
        batch_size: Samples per call of ``predict_step``.
        num_workers: Processes per rank that read images.
        limit: Number of images to use, from the first; null takes all.
        on_error: Whether to ``stop`` at an unreadable image or ``skip`` it.
    """

    name = "context60"
    layout: ClassVar[Layout] = Layout(
        "JPEGImages", "SegmentationClassContext", ids="ImageSets/SegmentationContext/val.txt"
    )
    default_folders = ("VOCdevkit/VOC2010", "VOC2010")
    num_images_published = 5104
    other_splits: ClassVar[Mapping[int, str]] = {5105: f"the older split, that of the .mat files ({MAT.name})"}
    images_source = DEVKIT
    label_sources = (JSON, MAT)
    prepared_parts = frozenset({"labels", "list"})
    class_name_overrides = CLASS_NAME_OVERRIDES

    @classmethod
    def default_vocabulary(cls) -> Vocabulary:
        """The background and 59 classes."""
        names, palette = metainfo("pascal_context", "PascalContextDataset")
        return Vocabulary(names, background=True, stuff=stuff_names("context"), palette=palette)

    @classmethod
    def jobs(cls, folder: Path) -> list[Job]:
        """The validation list and a label map for each image in it, from the JSON file or else the .mat files.

        The two are different splits, see the class.
        """
        layout = cls.layout
        list_path = folder / str(layout.ids)
        if list_path.is_file():
            targets = [folder / layout.labels / f"{id}{layout.label_suffix}" for id in cls.find_ids(folder)]
            if all(target.exists() for target in targets):
                # All files exist: the JSON file, hundreds of megabytes, need not be read.
                return [Job(target, bytes) for target in (*targets, list_path)]
        maps = folder / "trainval"
        if (folder / JSON.name).is_file():
            rasterizers = _from_json(folder / JSON.name)
        elif maps.is_dir():
            rasterizers = _from_mat(maps, folder / "ImageSets" / "Main" / "val.txt")
        else:
            raise DataError(
                f"{cls.name}: neither {folder / JSON.name} ({JSON.url}) nor the folder {maps} with the .mat files of "
                f"{MAT.url} is there"
            )
        jobs = [
            Job(folder / layout.labels / f"{id}{layout.label_suffix}", compute)
            for id, compute in sorted(rasterizers.items())
        ]
        text = "".join(f"{id}\n" for id in sorted(rasterizers)).encode()
        return [*jobs, Job(list_path, partial(bytes, text))]


class Context59(Context60):
    """PASCAL Context, validation: 59 classes; the background is not scored.

    Args:
        root: ``VOCdevkit/VOC2010``, or the parent folder of ``VOCdevkit``; null takes OVSEG_DATA.
        batch_size: Samples per call of ``predict_step``.
        num_workers: Processes per rank that read images.
        limit: Number of images to use, from the first; null takes all.
        on_error: Whether to ``stop`` at an unreadable image or ``skip`` it.
    """

    name = "context59"
    label_table = REDUCE_ZERO_LABEL

    @classmethod
    def default_vocabulary(cls) -> Vocabulary:
        """The 59 classes."""
        names, palette = metainfo("pascal_context", "PascalContextDataset59")
        return Vocabulary(names, stuff=stuff_names("context"), palette=palette)


def _from_json(path: Path) -> dict[str, partial[bytes]]:
    """Id of a validation image -> function that rasterizes its label map, from PASCAL in Detail's JSON file."""
    try:
        content = json.loads(path.read_bytes())
        images = {image["image_id"]: image for image in content["images"] if image["phase"] == "val"}
        shapes: dict[Any, list[tuple[int, dict[str, Any]]]] = {id: [] for id in images}
        for annotation in content["annos_segmentation"]:
            if annotation["image_id"] in shapes:
                shape = int(annotation["category_id"]), annotation["segmentation"]
                shapes[annotation["image_id"]].append(shape)
        return {
            Path(str(image["file_name"])).stem: partial(
                rasterize, str(path), int(image["height"]), int(image["width"]), shapes[id]
            )
            for id, image in images.items()
        }
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(f"{path} is damaged or not that of {JSON.url}: {error!r}") from error


def rasterize(source: str, height: int, width: int, shapes: Sequence[tuple[int, dict[str, Any]]]) -> bytes:
    """Rasterize the label map of one image, as PNG.

    Args:
        source: The file of the shapes, for messages.
        height: Image height in pixels.
        width: Image width in pixels.
        shapes: Pairs of a category (of 459) and a run-length encoded mask; later masks cover earlier ones.

    Raises:
        ConfigurationError: pycocotools is not installed.
        DataError: A mask is corrupt or of another size.
    """
    masks = pycocotools("mask")
    labels = np.zeros((height, width), dtype=np.uint8)
    for category, shape in shapes:
        try:
            labels[np.asarray(masks.decode(shape)) > 0] = LABEL_TABLE[category]
        except (ValueError, TypeError, KeyError, IndexError) as error:
            raise DataError(f"{source} holds a damaged mask: {error}") from error
    return encode_png(labels)


def _from_mat(maps: Path, split: Path) -> dict[str, partial[bytes]]:
    """Id of a validation image -> function that converts its label map, from the authors' .mat files."""
    try:
        ids = split.read_text(encoding="utf-8").split()
    except OSError:
        raise DataError(f"the list {split} is missing: it is in {DEVKIT}") from None
    paths = {id: maps / f"{id}.mat" for id in ids if (maps / f"{id}.mat").is_file()}
    if not paths:
        raise DataError(f"the folder {maps} holds no .mat file of a validation image: they are in {MAT}")
    return {id: partial(from_mat, path) for id, path in paths.items()}


def from_mat(path: Path) -> bytes:
    """Convert the label map in a .mat file (``LabelMap``, 459 classes) to a PNG of labels 0 to 59.

    Raises:
        DataError: The file is corrupt.
    """
    from scipy.io import loadmat

    try:
        labels = np.asarray(loadmat(path)["LabelMap"])
    except Exception as error:  # scipy raises errors of zlib, struct and its own
        raise DataError(f"{path} is damaged or not one of {MAT.url}: {error!r}") from error
    if labels.ndim != 2 or labels.min(initial=0) < 0 or labels.max(initial=0) >= len(LABEL_TABLE):
        raise DataError(f"{path}: LabelMap is not a map of class numbers")
    return encode_png(LABEL_TABLE[labels.astype(np.int64)])
