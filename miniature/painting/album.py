"""Captioned square pictures for the painter, drawn once and kept on disk as uint8.

A picture is a whole scene drawn small, or a part of a larger drawing: the windows that are later cut from full-size
scenes show things larger than whole scenes do, and the painter has to know both.
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
# Of all pictures: one kind of thing alone, and stuff alone; the rest are scenes of any kind.
THING_SHARE = 0.5
STUFF_SHARE = 0.22
# What a caption names alone has to cover this much of the picture.
STUFF_COVER = 0.4
THING_COVER = 0.05
# A class that a caption names must cover this share of the part that is kept.
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
class Album:
    """Pictures for training.

    Attributes:
        images: uint8 [N, SIDE, SIDE, 3], RGB.
        captions: N texts.
    """

    images: NDArray[np.uint8]
    captions: list[str]


def listing(names: tuple[str, ...]) -> str:
    """Class names as a caption: "a cat, grass and sky"."""
    counted = {name: f"{'an' if name[0] in 'aeiou' else 'a'} {name}" for name in (*THINGS, "road")}
    words = [counted.get(name, name) for name in names]
    return words[0] if len(words) == 1 else ", ".join(words[:-1]) + " and " + words[-1]


def _shrink(image: NDArray[np.uint8], labels: NDArray[np.uint8]) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    size = (SIDE, SIDE)
    return (
        np.asarray(cv2.resize(image, size, interpolation=cv2.INTER_AREA), np.uint8),
        np.asarray(cv2.resize(labels, size, interpolation=cv2.INTER_NEAREST), np.uint8),
    )


def _part(rng: np.random.Generator, scene: Scene, label: int | None) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """A square part of a large scene at SIDE pixels; it holds everything of one label, where that fits."""
    side = int(rng.integers(SIDE, LARGE + 1))
    low = [0, 0]
    high = [LARGE - side, LARGE - side]
    if label is not None:
        for axis in (0, 1):
            found = np.flatnonzero((scene.labels == label).any(1 - axis))
            if found.size and found[-1] - found[0] < side:
                low[axis] = max(0, int(found[-1]) + 1 - side)
                high[axis] = max(low[axis], min(LARGE - side, int(found[0])))
    top, left = (int(rng.integers(a, b + 1)) for a, b in zip(low, high, strict=True))
    window = (slice(top, top + side), slice(left, left + side))
    return _shrink(scene.image[window], scene.labels[window])


def named(caption: str) -> set[str]:
    """The classes that a caption names."""
    words = caption.replace(",", " ").replace(".", " ").split()
    return {name for name in CLASSES if any(word in (name, f"{name}s") for word in words)}


def _holds(labels: NDArray[np.uint8], caption: str) -> bool:
    """Whether every class that the caption names is still to be seen."""
    return named(caption) <= set(tags_of(labels, NAMED_COVER))


def picture(index: int) -> tuple[NDArray[np.uint8], NDArray[np.uint8], str]:
    """Training picture `index`: image uint8 [SIDE, SIDE, 3], labels uint8 [SIDE, SIDE], caption."""
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
            image, labels = _part(rng, scene, label if only in THINGS else None)
        if label is None or np.mean(labels == label) >= cover:
            break
    # A short caption that names one class, as prompts do, or the scene's own.
    if only is not None and (chance(rng, 0.6) or not _holds(labels, scene.caption)):
        return image, labels, pick(rng, OPENINGS).format(only)
    if not _holds(labels, scene.caption):
        return image, labels, pick(rng, ("{}", "a photo of {}")).format(listing(tags_of(labels, NAMED_COVER)))
    return image, labels, scene.caption


def album(count: int, cache: Path, start: int = 0) -> Album:
    """Training pictures `start` to `start + count`, drawn now or read from the cache folder.

    Args:
        count: number of pictures.
        cache: folder for the drawn pictures.
        start: index of the first one.
    """
    pixels, texts = cache / f"album-{start}-{count}.npy", cache / f"album-{start}-{count}.json"
    if not texts.exists():
        cache.mkdir(parents=True, exist_ok=True)
        images, captions = np.empty((count, SIDE, SIDE, 3), np.uint8), list[str]()
        for index in range(count):
            images[index], _, caption = picture(start + index)
            captions.append(caption)
        part = pixels.with_suffix(".part.npy")
        np.save(part, images, allow_pickle=False)
        os.replace(part, pixels)
        texts.write_text(json.dumps(captions), encoding="utf-8")
    return Album(np.load(pixels, allow_pickle=False), json.loads(texts.read_text(encoding="utf-8")))
