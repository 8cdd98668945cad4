"""Small file trees in the published layouts of the benchmarks: three images each, generated from a seed."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import scipy.io
from PIL import Image
from pycocotools import mask

from datamodules.coco import CATEGORY_IDS, NUM_THINGS
from datamodules.coco_object import INSTANCES_FILE
from harness.data.vocabulary import voc_palette

HEIGHT, WIDTH = 60, 80
COUNT = 3


def write_image(path: Path, seed: int, height: int = HEIGHT, width: int = WIDTH) -> Path:
    """Write an image of coloured blocks."""
    path.parent.mkdir(parents=True, exist_ok=True)
    colours = np.random.default_rng(seed).integers(0, 256, (3, 4, 3), dtype=np.uint8)
    Image.fromarray(colours).resize((width, height), Image.Resampling.NEAREST).save(path)
    return path


def blocks(values: list[int], seed: int) -> np.ndarray:
    """A label map of blocks: each of the values if there are at most 48 of them, else 48 of them, HW int64."""
    random = np.random.default_rng(seed)
    chosen = random.permutation(values)[:48]
    grid = np.resize(chosen, 48).reshape(6, 8)
    return grid.repeat(HEIGHT // 6, axis=0).repeat(WIDTH // 8, axis=1)


def grey(path: Path, labels: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(labels.astype(np.uint8)).save(path)


def deep(path: Path, labels: np.ndarray) -> None:
    """Write a 16-bit label map."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(labels.astype(np.uint16)).save(path)


def indexed(path: Path, labels: np.ndarray) -> None:
    """Write an indexed label map with VOC's palette."""
    path.parent.mkdir(parents=True, exist_ok=True)
    image = Image.fromarray(labels.astype(np.uint8), mode="P")
    image.putpalette([value for colour in voc_palette(256) for value in colour])
    image.save(path)


def write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def voc(root: Path) -> None:
    """``VOCdevkit/VOC2012``; the images have 21 classes, one class, and the border."""
    folder = root / "VOCdevkit" / "VOC2012"
    values = [[*range(21), 255], [0, 7, 255], [0, 3, 4]]
    for index, id in enumerate(("2007_000033", "2008_000042", "2007_000061")):
        write_image(folder / "JPEGImages" / f"{id}.jpg", index)
        indexed(folder / "SegmentationClass" / f"{id}.png", blocks(values[index], index))
    write_image(folder / "JPEGImages" / "2009_000001.jpg", 9)
    write(folder / "ImageSets" / "Segmentation" / "val.txt", "2007_000033\n2008_000042\n2007_000061\n")


def context(root: Path) -> Path:
    """``VOCdevkit/VOC2010`` without label maps."""
    folder = root / "VOCdevkit" / "VOC2010"
    for index, id in enumerate(context_ids()):
        write_image(folder / "JPEGImages" / f"{id}.jpg", index)
    write_image(folder / "JPEGImages" / "2008_000001.jpg", 9)
    return folder


def context_ids() -> list[str]:
    return ["2008_000009", "2008_000002", "2010_000123"]


def context_labels(index: int) -> np.ndarray:
    """A map of class numbers of the 459, and 0, HW."""
    return blocks(list(range(460)), index)


def context_mat(root: Path) -> None:
    """PASCAL Context with the authors' .mat files."""
    folder = context(root)
    ids = [*context_ids(), "2008_000001"]
    for index, id in enumerate(ids):
        (folder / "trainval").mkdir(exist_ok=True)
        scipy.io.savemat(folder / "trainval" / f"{id}.mat", {"LabelMap": context_labels(index).astype(np.uint16)})
    write(folder / "ImageSets" / "Main" / "val.txt", "2007_000001\n" + "".join(f"{id}\n" for id in context_ids()))


def context_json(root: Path) -> None:
    """PASCAL Context with the JSON file of PASCAL in Detail."""
    folder = context(root)
    images: list[dict[str, Any]] = []
    shapes: list[dict[str, Any]] = []
    for index, id in enumerate([*context_ids(), "2008_000001"]):
        phase = "train" if id == "2008_000001" else "val"
        size = {"height": HEIGHT, "width": WIDTH}
        images.append({"image_id": 100 + index, "file_name": f"{id}.jpg", "phase": phase, **size})
        labels = context_labels(index)
        for number in np.unique(labels[labels > 0]):
            encoded = mask.encode(np.asfortranarray(labels == number, dtype=np.uint8))
            encoded["counts"] = encoded["counts"].decode()
            category = {"image_id": 100 + index, "category_id": int(number), "id": len(shapes), "iscrowd": 0}
            shapes.append({**category, "segmentation": encoded})
    write(folder / "trainval_merged.json", json.dumps({"images": images, "annos_segmentation": shapes}))


def ade20k(root: Path) -> None:
    """``ade/ADEChallengeData2016``; one map has 16 bits."""
    folder = root / "ade" / "ADEChallengeData2016"
    for index in range(COUNT):
        name = f"ADE_val_0000000{index + 1}"
        write_image(folder / "images" / "validation" / f"{name}.jpg", index)
        save = deep if index == 1 else grey
        save(folder / "annotations" / "validation" / f"{name}.png", blocks(list(range(151)), index))


def cityscapes(root: Path) -> None:
    """``cityscapes``, as it is published: without the labels that are scored."""
    folder = root / "cityscapes"
    cities = ("munster", "frankfurt", "lindau")
    for index, city in enumerate(cities):
        name = f"{city}/{city}_000000_00000{index}"
        write_image(folder / "leftImg8bit" / "val" / f"{name}_leftImg8bit.png", index)
        grey(folder / "gtFine" / "val" / f"{name}_gtFine_labelIds.png", blocks(list(range(34)), index))


def coco(root: Path) -> None:
    """``coco_stuff164k``, as it is published: the maps of COCO-Stuff, and the instances."""
    folder = root / "coco_stuff164k"
    images, annotations = [], []
    for index, number in enumerate((139, 285, 632)):
        name = f"{number:012d}"
        write_image(folder / "images" / "val2017" / f"{name}.jpg", index)
        grey(folder / "annotations" / "val2017" / f"{name}.png", blocks([n - 1 for n in CATEGORY_IDS] + [255], index))
        images.append({"id": number, "file_name": f"{name}.jpg", "height": HEIGHT, "width": WIDTH})
        for order, shape in enumerate(instances(index)):
            annotations.append({"id": len(annotations), "image_id": number, "iscrowd": int(order == 2), **shape})
    categories = [{"id": number, "name": str(number)} for number in CATEGORY_IDS[:NUM_THINGS]]
    content = {"images": images, "annotations": annotations, "categories": categories}
    write(folder / INSTANCES_FILE, json.dumps(content))


def instances(index: int) -> list[dict[str, Any]]:
    """A person over a dog, partly, as polygons, and a crowd of toothbrushes; the third image has none."""
    if index == 2:
        return []
    crowd = np.zeros((HEIGHT, WIDTH), dtype=np.uint8)
    crowd[50:, :] = 1
    counts = mask.encode(np.asfortranarray(crowd))["counts"].decode()
    return [
        {"category_id": 1, "segmentation": [[10, 10, 40, 10, 40, 40, 10, 40]]},
        {"category_id": 18, "segmentation": [[20, 20, 70, 20, 70, 55, 20, 55]]},
        {"category_id": 90, "segmentation": {"size": [HEIGHT, WIDTH], "counts": counts}},
    ]


# Per benchmark what makes its tree.
TREES: dict[str, Callable[[Path], None]] = {
    "VOC20": voc,
    "VOC21": voc,
    "VOCC": voc,
    "VOCCRelease": voc,
    "Context59": context_json,
    "Context60": context_mat,
    "COCOObject": coco,
    "COCOObject1K": coco,
    "COCOObjectTCL": coco,
    "COCOStuff": coco,
    "COCO27": coco,
    "ADE20K": ade20k,
    "Cityscapes": cityscapes,
}
