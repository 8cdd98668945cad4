"""PASCAL Context: 59 frequent classes of objects and stuff, with and without a background for all others."""

import json
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from datamodules.label_maps import encode, pycocotools
from datamodules.metainfo import metainfo
from datamodules.stuff import stuff_names
from harness.data.benchmark import REDUCED, Benchmark, Job, Layout, Source
from harness.data.vocabulary import Vocabulary
from harness.system.errors import DataError

DEVKIT = Source(
    "VOCtrainval_03-May-2010.tar", "http://host.robots.ox.ac.uk/pascal/VOC/voc2010/VOCtrainval_03-May-2010.tar"
)
JSON = Source("trainval_merged.json", "https://codalabuser.blob.core.windows.net/public/trainval_merged.json")
MAT = Source("trainval.tar.gz", "https://cs.stanford.edu/~roozbeh/pascal-context/trainval.tar.gz")

# Of the annotators' 459 classes (labels.txt of PASCAL Context), the 59 that are scored, in the order of their labels.
SCORED = (
    2, 9, 18, 19, 22, 23, 25, 31, 33, 34, 44, 45, 46, 59, 65, 68, 72, 80, 85, 98, 104, 105, 113, 115, 144, 158, 159,
    162, 187, 189, 207, 220, 232, 258, 259, 260, 284, 295, 296, 308, 324, 326, 347, 349, 354, 355, 360, 366, 368, 397,
    415, 416, 420, 424, 427, 440, 445, 454, 458,
)  # fmt: skip
# 16-bit values are looked up; all but the 59 are background.
LABELS = np.zeros(1 << 16, dtype=np.uint8)
LABELS[list(SCORED)] = np.arange(1, len(SCORED) + 1)


class Context60(Benchmark):
    """PASCAL Context, validation: 59 classes and the background.

    Args:
        root: ``VOCdevkit/VOC2010``, or the folder in which ``VOCdevkit`` lies; null takes OVSEG_DATA.
        batch_size: As in ``SegmentationData``.
        num_workers: Likewise.
        limit: Likewise.
        on_error: Likewise.
    """

    name = "context60"
    layout: ClassVar[Layout] = Layout(
        "JPEGImages", "SegmentationClassContext", ids="ImageSets/SegmentationContext/val.txt"
    )
    places = ("VOCdevkit/VOC2010", "VOC2010")
    published = 5105
    images_from = DEVKIT
    labels_from = (JSON, MAT)
    prepared = frozenset({"labels", "list"})

    @classmethod
    def named(cls) -> Vocabulary:
        """The background and 59 classes."""
        names, palette = metainfo("pascal_context", "PascalContextDataset")
        return Vocabulary(names, background=True, stuff=stuff_names("context"), palette=palette)

    @classmethod
    def jobs(cls, folder: Path) -> list[Job]:
        """The validation list and a label map for each picture in it, from the JSON file or the .mat files."""
        layout = cls.layout
        listed = folder / str(layout.ids)
        if listed.is_file():
            targets = [folder / layout.labels / f"{id}{layout.label_suffix}" for id in cls.find_ids(folder)]
            if all(target.exists() for target in targets):
                # Done: the JSON file, of hundreds of megabytes, need not be read.
                return [Job(target, bytes) for target in (*targets, listed)]
        maps = folder / "trainval"
        if (folder / JSON.what).is_file():
            made = _from_json(folder / JSON.what)
        elif maps.is_dir():
            made = _from_mat(maps, folder / "ImageSets" / "Main" / "val.txt")
        else:
            raise DataError(
                f"{cls.name}: neither {folder / JSON.what} ({JSON.where}) nor the folder {maps} with the .mat files of "
                f"{MAT.where} is there"
            )
        jobs = [Job(folder / layout.labels / f"{id}{layout.label_suffix}", make) for id, make in sorted(made.items())]
        text = "".join(f"{id}\n" for id in sorted(made)).encode()
        return [*jobs, Job(listed, partial(bytes, text))]


class Context59(Context60):
    """PASCAL Context, validation: 59 classes; the background is not scored.

    Args:
        root: ``VOCdevkit/VOC2010``, or the folder in which ``VOCdevkit`` lies; null takes OVSEG_DATA.
        batch_size: As in ``SegmentationData``.
        num_workers: Likewise.
        limit: Likewise.
        on_error: Likewise.
    """

    name = "context59"
    decode = REDUCED

    @classmethod
    def named(cls) -> Vocabulary:
        """The 59 classes."""
        names, palette = metainfo("pascal_context", "PascalContextDataset59")
        return Vocabulary(names, stuff=stuff_names("context"), palette=palette)


def _from_json(path: Path) -> dict[str, partial[bytes]]:
    """Per validation picture what makes its label map from ``trainval_merged.json`` of PASCAL in Detail."""
    try:
        content = json.loads(path.read_bytes())
        pictures = {image["image_id"]: image for image in content["images"] if image["phase"] == "val"}
        shapes: dict[Any, list[tuple[int, dict[str, Any]]]] = {id: [] for id in pictures}
        for annotation in content["annos_segmentation"]:
            if annotation["image_id"] in shapes:
                pair = int(annotation["category_id"]), annotation["segmentation"]
                shapes[annotation["image_id"]].append(pair)
        return {
            Path(str(image["file_name"])).stem: partial(
                paint, str(path), int(image["height"]), int(image["width"]), shapes[id]
            )
            for id, image in pictures.items()
        }
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(f"{path} is damaged or not that of {JSON.where}: {error!r}") from error


def paint(source: str, height: int, width: int, shapes: Sequence[tuple[int, dict[str, Any]]]) -> bytes:
    """The label map of one picture, as PNG.

    Args:
        source: Where the shapes stand, for messages.
        height: Of the picture, in pixels.
        width: Likewise.
        shapes: Category among the 459 and run-length encoded mask; a later one lies over an earlier one.

    Raises:
        ConfigurationError: pycocotools is not installed.
        DataError: A mask is damaged or of another size.
    """
    masks = pycocotools("mask")
    labels = np.zeros((height, width), dtype=np.uint8)
    for category, shape in shapes:
        try:
            labels[np.asarray(masks.decode(shape)) > 0] = LABELS[category]
        except (ValueError, TypeError, KeyError, IndexError) as error:
            raise DataError(f"{source} holds a damaged mask: {error}") from error
    return encode(labels)


def _from_mat(maps: Path, split: Path) -> dict[str, partial[bytes]]:
    """Per validation picture what makes its label map from the .mat files of the authors."""
    try:
        validation = split.read_text(encoding="utf-8").split()
    except OSError:
        raise DataError(f"the list {split} is missing: it is in {DEVKIT}") from None
    found = {id: maps / f"{id}.mat" for id in validation if (maps / f"{id}.mat").is_file()}
    if not found:
        raise DataError(f"the folder {maps} holds no .mat file of a validation picture: they are in {MAT}")
    return {id: partial(from_mat, path) for id, path in found.items()}


def from_mat(path: Path) -> bytes:
    """The label map in a .mat file (``LabelMap``, the 459 classes), as PNG of labels 0 to 59.

    Raises:
        DataError: The file is damaged.
    """
    from scipy.io import loadmat

    try:
        labels = np.asarray(loadmat(path)["LabelMap"])
    except Exception as error:  # scipy raises what its parsers raise: zlib's, struct's and its own errors
        raise DataError(f"{path} is damaged or not one of {MAT.where}: {error!r}") from error
    if labels.ndim != 2 or labels.min(initial=0) < 0 or labels.max(initial=0) >= len(LABELS):
        raise DataError(f"{path}: LabelMap is no map of class numbers")
    return encode(LABELS[labels.astype(np.int64)])
