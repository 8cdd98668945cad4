"""COCO-Object: the 80 objects of COCO and the background, from COCO's instances or COCO-Stuff's maps."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from io import BytesIO
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from PIL import Image

from datamodules.coco import CATEGORY_IDS, CLASS_NAME_OVERRIDES, COCO, NUM_THINGS, COCOStuffMaps, coco_layout
from datamodules.label_maps import encode_png, lookup_table, pycocotools
from datamodules.metainfo import metainfo
from datamodules.stuff import stuff_names
from harness.data.benchmark import Job, Layout, Source
from harness.data.images import read_labels
from harness.data.vocabulary import Vocabulary
from harness.system.errors import DataError

INSTANCES = Source(
    "annotations_trainval2017.zip", "http://images.cocodataset.org/annotations/annotations_trainval2017.zip"
)
INSTANCES_FILE = "annotations/instances_val2017.json"
MIN_LABELED_PIXELS = 1000  # of an image that CLIP-DIY's release evaluates


def object_vocabulary() -> Vocabulary:
    """The background and the first 80 classes of COCO-Stuff."""
    names, palette = metainfo("coco_stuff", "COCOStuffDataset")
    return Vocabulary(
        ("background", *names[:NUM_THINGS]),
        background=True,
        stuff=stuff_names("coco_object"),
        palette=((0, 0, 0), *palette[:NUM_THINGS]),
    )


class COCOObject(COCO):
    """COCO-Object, validation, from COCO's instances: 80 objects and the background.

    Where instances overlap, the first one wins; crowds count as their class; no pixel is ignored, as in CLIP-DIY's
    release. ``COCOObjectTCL`` has the labels of the other papers.

    Args:
        root: ``coco_stuff164k``, with ``images`` and ``annotations``, or its parent folder; null takes OVSEG_DATA.
        batch_size: Samples per call of ``predict_step``.
        num_workers: Processes per rank that read images.
        limit: Number of images to use, from the first; null takes all.
        on_error: Whether to ``stop`` at an unreadable image or ``skip`` it.
    """

    name = "coco_object"
    layout: ClassVar[Layout] = coco_layout("_objects.png")
    label_sources = (INSTANCES,)
    # CLIP-DIY's release writes them out (``src/datasets/coco.py``), and they are the same.
    class_name_overrides: ClassVar[Mapping[str, Mapping[str, str]]] = {**CLASS_NAME_OVERRIDES, "clip_diy": {}}

    @classmethod
    def default_vocabulary(cls) -> Vocabulary:
        """The background and 80 objects."""
        return object_vocabulary()

    @classmethod
    def jobs(cls, folder: Path) -> list[Job]:
        """A label map per image, from ``instances_val2017.json``."""
        path = folder / INSTANCES_FILE
        ids = cls.find_ids(folder)
        if not path.is_file():
            raise DataError(f"{cls.name}: {path} is missing: it is in {INSTANCES}")
        rasterizers = _rasterizers(path)
        missing = next((id for id in ids if id not in rasterizers), None)
        if missing is not None:
            raise DataError(f"{path} has no image {missing}: it is not that of {INSTANCES.url}")
        return [Job(folder / cls.layout.labels / f"{id}{cls.layout.label_suffix}", rasterizers[id]) for id in ids]


class COCOObject1K(COCOObject):
    """COCO-Object as CLIP-DIY's release evaluates it: without the images that have fewer than 1,000 object pixels.

    The release drops them when it lists the images (``thirdparty/mscoco.py``, ``_preprocess``): it means to keep the
    validation images whole, but asks for another name of the data set. Its paper does not mention it.

    Args:
        root: ``coco_stuff164k``, with ``images`` and ``annotations``, or its parent folder; null takes OVSEG_DATA.
        batch_size: Samples per call of ``predict_step``.
        num_workers: Processes per rank that read images.
        limit: Number of images to use, from the first; null takes all.
        on_error: Whether to ``stop`` at an unreadable image or ``skip`` it.
    """

    name = "coco_object_1k"
    layout = replace(COCOObject.layout, ids="annotations/val2017_objects_1k.txt")
    num_images_published = None
    prepared_parts = frozenset({"labels", "list"})

    @classmethod
    def jobs(cls, folder: Path) -> list[Job]:
        """The label maps of all images, and the list of those that are evaluated."""
        labels = dict(zip(COCOObject.find_ids(folder), COCOObject.jobs(folder), strict=True))
        return [*labels.values(), Job(folder / str(cls.layout.ids), partial(list_of_large, labels))]


class COCOObjectTCL(COCOStuffMaps):
    """COCO-Object, validation, from COCO-Stuff's maps, as in TCL and GroupViT: 80 objects and the background.

    All pixels outside the 80 objects are background, including unlabelled ones; no pixel is ignored.

    Args:
        root: ``coco_stuff164k``, with ``images`` and ``annotations``, or its parent folder; null takes OVSEG_DATA.
        batch_size: Samples per call of ``predict_step``.
        num_workers: Processes per rank that read images.
        limit: Number of images to use, from the first; null takes all.
        on_error: Whether to ``stop`` at an unreadable image or ``skip`` it.
    """

    name = "coco_object_tcl"
    layout = coco_layout("_instanceTrainIds.png")
    # GroupViT's release writes them out (``segmentation/datasets/coco_object.py``), and they are the same.
    class_name_overrides: ClassVar[Mapping[str, Mapping[str, str]]] = {**CLASS_NAME_OVERRIDES, "group_vit": {}}

    @classmethod
    def default_vocabulary(cls) -> Vocabulary:
        """The background and 80 objects."""
        return object_vocabulary()

    @classmethod
    def stuff_map_table(cls) -> np.ndarray:
        """The 80 things; all other values, including unlabelled pixels, are background."""
        return lookup_table({id - 1: label for label, id in enumerate(CATEGORY_IDS[:NUM_THINGS], 1)}, rest=0)


def list_of_large(labels: Mapping[str, Job]) -> bytes:
    """The list of images with 1,000 pixels of objects or more.

    Args:
        labels: By image the job of its label map, which is read if it is written already.

    Raises:
        DataError: A label map is corrupt.
    """
    lines = []
    for id, job in labels.items():
        written = job.target.is_file()
        values = read_labels(job.target) if written else np.array(Image.open(BytesIO(job.compute())))
        if np.count_nonzero(values) >= MIN_LABELED_PIXELS:
            lines.append(f"{id}\n")
    return "".join(lines).encode()


def _rasterizers(path: Path) -> dict[str, partial[bytes]]:
    """Image id -> function that rasterizes its label map, from COCO's instances."""
    try:
        content = json.loads(path.read_bytes())
        category_ids = sorted(int(category["id"]) for category in content["categories"])
        if category_ids != list(CATEGORY_IDS[:NUM_THINGS]):
            raise DataError(f"{path} does not have the 80 categories of COCO: it is not that of {INSTANCES.url}")
        shapes: dict[int, list[tuple[int, Any]]] = {int(image["id"]): [] for image in content["images"]}
        for annotation in content["annotations"]:
            label = category_ids.index(annotation["category_id"]) + 1
            shapes[int(annotation["image_id"])].append((label, annotation["segmentation"]))
        return {
            Path(str(image["file_name"])).stem: partial(
                rasterize, str(path), int(image["height"]), int(image["width"]), shapes[int(image["id"])]
            )
            for image in content["images"]
        }
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(f"{path} is damaged or not that of {INSTANCES.url}: {error!r}") from error


def rasterize(source: str, height: int, width: int, shapes: Sequence[tuple[int, Any]]) -> bytes:
    """Rasterize the label map of one image, as PNG.

    Args:
        source: The file of the shapes, for messages.
        height: Image height in pixels.
        width: Image width in pixels.
        shapes: Pairs of a label and polygons or a run-length encoded mask, in the order of the annotations.

    Raises:
        ConfigurationError: pycocotools is not installed.
        DataError: A shape is corrupt.
    """
    coco = pycocotools("coco").COCO()
    coco.imgs = {0: {"height": height, "width": width}}
    labels = np.zeros((height, width), dtype=np.uint8)
    # The first one wins, so it is rasterized last.
    for label, shape in reversed(shapes):
        annotation: Mapping[str, Any] = {"image_id": 0, "segmentation": shape}
        try:
            labels[np.asarray(coco.annToMask(annotation)) > 0] = label
        except Exception as error:  # pycocotools raises various errors
            raise DataError(f"{source} holds a damaged shape: {error!r}") from error
    return encode_png(labels)
