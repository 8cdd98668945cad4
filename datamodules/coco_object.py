"""COCO-Object: the 80 objects of COCO and a background, from the instances or from the maps of COCO-Stuff."""

import json
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from datamodules.coco import COCO, NUMBERS, THINGS, FromMaps, labelled
from datamodules.label_maps import encode, pycocotools, table
from datamodules.metainfo import metainfo
from datamodules.stuff import stuff_names
from harness.data.benchmark import Job, Source
from harness.data.vocabulary import Vocabulary
from harness.system.errors import DataError

INSTANCES = Source(
    "annotations_trainval2017.zip", "http://images.cocodataset.org/annotations/annotations_trainval2017.zip"
)
FILE = "annotations/instances_val2017.json"


def objects() -> Vocabulary:
    """The background and the first 80 classes of COCO-Stuff."""
    names, palette = metainfo("coco_stuff", "COCOStuffDataset")
    return Vocabulary(
        ("background", *names[:THINGS]),
        background=True,
        stuff=stuff_names("coco_object"),
        palette=((0, 0, 0), *palette[:THINGS]),
    )


class COCOObject(COCO):
    """COCO-Object, validation, from COCO's instances: 80 objects and the background.

    Where instances overlap the first one wins, crowds count as their class, and nothing is ignored, as in the release
    of CLIP-DIY. ``COCOObjectTCL`` has the labels of the other papers.

    Args:
        root: ``coco_stuff164k``, with ``images`` and ``annotations`` in it, or the folder in which it lies; null takes
            OVSEG_DATA.
        batch_size: As in ``SegmentationData``.
        num_workers: Likewise.
        limit: Likewise.
        on_error: Likewise.
    """

    name = "coco_object"
    layout = labelled("_objects.png")
    labels_from = (INSTANCES,)

    @classmethod
    def named(cls) -> Vocabulary:
        """The background and 80 objects."""
        return objects()

    @classmethod
    def jobs(cls, folder: Path) -> list[Job]:
        """A label map per picture, from ``instances_val2017.json``."""
        path = folder / FILE
        ids = cls.find_ids(folder)
        if not path.is_file():
            raise DataError(f"{cls.name}: {path} is missing: it is in {INSTANCES}")
        made = _painters(path)
        missing = next((id for id in ids if id not in made), None)
        if missing is not None:
            raise DataError(f"{path} has no picture {missing}: it is not that of {INSTANCES.where}")
        return [Job(folder / cls.layout.labels / f"{id}{cls.layout.label_suffix}", made[id]) for id in ids]


class COCOObjectTCL(FromMaps):
    """COCO-Object, validation, from COCO-Stuff's maps, as in TCL and GroupViT: 80 objects and the background.

    Whatever is not one of the 80 objects is background, unlabelled pixels too: nothing is ignored.

    Args:
        root: ``coco_stuff164k``, with ``images`` and ``annotations`` in it, or the folder in which it lies; null takes
            OVSEG_DATA.
        batch_size: As in ``SegmentationData``.
        num_workers: Likewise.
        limit: Likewise.
        on_error: Likewise.
    """

    name = "coco_object_tcl"
    layout = labelled("_instanceTrainIds.png")

    @classmethod
    def named(cls) -> Vocabulary:
        """The background and 80 objects."""
        return objects()

    @classmethod
    def values(cls) -> np.ndarray:
        """The 80 things; all else, unlabelled pixels among it, is background."""
        return table({number - 1: label for label, number in enumerate(NUMBERS[:THINGS], 1)}, rest=0)


def _painters(path: Path) -> dict[str, partial[bytes]]:
    """Per picture what makes its label map from COCO's instances."""
    try:
        content = json.loads(path.read_bytes())
        numbers = sorted(int(category["id"]) for category in content["categories"])
        if numbers != list(NUMBERS[:THINGS]):
            raise DataError(f"{path} does not have the 80 categories of COCO: it is not that of {INSTANCES.where}")
        shapes: dict[int, list[tuple[int, Any]]] = {int(image["id"]): [] for image in content["images"]}
        for annotation in content["annotations"]:
            label = numbers.index(annotation["category_id"]) + 1
            shapes[int(annotation["image_id"])].append((label, annotation["segmentation"]))
        return {
            Path(str(image["file_name"])).stem: partial(
                paint, str(path), int(image["height"]), int(image["width"]), shapes[int(image["id"])]
            )
            for image in content["images"]
        }
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(f"{path} is damaged or not that of {INSTANCES.where}: {error!r}") from error


def paint(source: str, height: int, width: int, shapes: Sequence[tuple[int, Any]]) -> bytes:
    """The label map of one picture, as PNG.

    Args:
        source: Where the shapes stand, for messages.
        height: Of the picture, in pixels.
        width: Likewise.
        shapes: Label, and polygons or run-length encoded mask, in the order of the annotations.

    Raises:
        ConfigurationError: pycocotools is not installed.
        DataError: A shape is damaged.
    """
    coco = pycocotools("coco").COCO()
    coco.imgs = {0: {"height": height, "width": width}}
    labels = np.zeros((height, width), dtype=np.uint8)
    # The first one wins, so it is painted last.
    for label, shape in reversed(shapes):
        annotation: Mapping[str, Any] = {"image_id": 0, "segmentation": shape}
        try:
            labels[np.asarray(coco.annToMask(annotation)) > 0] = label
        except Exception as error:  # what pycocotools raises depends on what it is given
            raise DataError(f"{source} holds a damaged shape: {error!r}") from error
    return encode(labels)
