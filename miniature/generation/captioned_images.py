"""Captioned square images for training the diffusion model, drawn once and cached on disk as uint8.

An image is a whole scene drawn small, or a crop of a larger drawing: the windows that are later cut from full-size
scenes show things larger than whole scenes do, and the model has to know both.
"""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from miniature.palette import chance, pick
from miniature.world import CLASSES, STUFF, THINGS, Scene, draw_scene, tags_of

SIDE = 64
LARGE = 96
# Shares of images that show a single kind of thing, and stuff only; the rest are scenes of any kind.
THING_SHARE = 0.5
STUFF_SHARE = 0.22
# Minimum share of the image covered by a class that is the only one in its caption.
STUFF_COVER = 0.4
THING_COVER = 0.05
# Minimum share of the crop covered by each class in its caption.
NAMED_COVER = 0.01
OPENINGS: tuple[str, ...] = (
    "a good picture of a {}",
    "a photo of a {}.",
    "a picture of a {}",
    "a photo of the {}",
    "a {}",
    "{}",
)

_SEED = 1 << 41  # apart from the seeds of both splits


@dataclass(frozen=True)
class CaptionedImages:
    """Training images with captions.

    Attributes:
        images: uint8 [N, SIDE, SIDE, 3], RGB.
        captions: N texts.
    """

    images: NDArray[np.uint8]
    captions: list[str]


def join_names(names: tuple[str, ...]) -> str:
    """Class names as a caption: "a cat, grass and sky"."""
    counted = {name: f"{'an' if name[0] in 'aeiou' else 'a'} {name}" for name in (*THINGS, "road")}
    words = [counted.get(name, name) for name in names]
    return words[0] if len(words) == 1 else ", ".join(words[:-1]) + " and " + words[-1]


def _downscale(image: NDArray[np.uint8], labels: NDArray[np.uint8]) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    size = (SIDE, SIDE)
    return (
        np.asarray(cv2.resize(image, size, interpolation=cv2.INTER_AREA), np.uint8),
        np.asarray(cv2.resize(labels, size, interpolation=cv2.INTER_NEAREST), np.uint8),
    )


def _crop(rng: np.random.Generator, scene: Scene, label: int | None) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """A square crop of a large scene, resized to SIDE pixels; it contains all pixels of ``label`` if they fit."""
    side = int(rng.integers(SIDE, LARGE + 1))
    low = [0, 0]
    high = [LARGE - side, LARGE - side]
    if label is not None:
        for axis in (0, 1):
            occupied = np.flatnonzero((scene.labels == label).any(1 - axis))
            if occupied.size and occupied[-1] - occupied[0] < side:
                low[axis] = max(0, int(occupied[-1]) + 1 - side)
                high[axis] = max(low[axis], min(LARGE - side, int(occupied[0])))
    top, left = (int(rng.integers(a, b + 1)) for a, b in zip(low, high, strict=True))
    window = (slice(top, top + side), slice(left, left + side))
    return _downscale(scene.image[window], scene.labels[window])


def classes_in_caption(caption: str) -> set[str]:
    """The classes that a caption names."""
    words = caption.replace(",", " ").replace(".", " ").split()
    return {name for name in CLASSES if any(word in (name, f"{name}s") for word in words)}


def _shows_all_named(labels: NDArray[np.uint8], caption: str) -> bool:
    """Whether every class in the caption is visible."""
    return classes_in_caption(caption) <= set(tags_of(labels, NAMED_COVER))


def training_image(index: int) -> tuple[NDArray[np.uint8], NDArray[np.uint8], str]:
    """Training image `index`: image uint8 [SIDE, SIDE, 3], labels uint8 [SIDE, SIDE], caption."""
    rng = np.random.default_rng((_SEED, index))
    draw = float(rng.random())
    only = pick(rng, THINGS) if draw < THING_SHARE else pick(rng, STUFF) if draw < THING_SHARE + STUFF_SHARE else None
    label = None if only is None else CLASSES.index(only)
    cover = THING_COVER if only in THINGS else STUFF_COVER
    for attempt in range(6):
        seed = _SEED + index * 8 + attempt
        whole = chance(rng, 0.4)
        scene = draw_scene(seed, (SIDE, SIDE) if whole else (LARGE, LARGE), only)
        if whole:
            image, labels = scene.image, scene.labels
        else:
            image, labels = _crop(rng, scene, label if only in THINGS else None)
        if label is None or np.mean(labels == label) >= cover:
            break
    # A short caption that names one class, as prompts do, or the scene's own.
    if only is not None and (chance(rng, 0.6) or not _shows_all_named(labels, scene.caption)):
        return image, labels, pick(rng, OPENINGS).format(only)
    if not _shows_all_named(labels, scene.caption):
        return image, labels, pick(rng, ("{}", "a photo of {}")).format(join_names(tags_of(labels, NAMED_COVER)))
    return image, labels, scene.caption


def captioned_images(count: int, cache: Path, start: int = 0) -> CaptionedImages:
    """Training images `start` to `start + count`, drawn now or read from the cache folder.

    Args:
        count: number of images.
        cache: folder of cached images.
        start: index of the first one.
    """
    pixels, texts = cache / f"images-{start}-{count}.npy", cache / f"images-{start}-{count}.json"
    if not texts.exists():
        cache.mkdir(parents=True, exist_ok=True)
        images, captions = np.empty((count, SIDE, SIDE, 3), np.uint8), list[str]()
        for index in range(count):
            images[index], _, caption = training_image(start + index)
            captions.append(caption)
        part = pixels.with_suffix(".part.npy")
        np.save(part, images, allow_pickle=False)
        os.replace(part, pixels)
        texts.write_text(json.dumps(captions), encoding="utf-8")
    return CaptionedImages(np.load(pixels, allow_pickle=False), json.loads(texts.read_text(encoding="utf-8")))
