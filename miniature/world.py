"""Scenes of the small world: an image, its exact labels, a caption and tags, all from a seed.

Things keep to the places where photographs show them: boats and fish in water, cars on roads, sun and balloons in
the sky. A scene depends on the arguments of its function alone, on every machine.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from miniature.captions import caption
from miniature.palette import between, chance
from miniature.pen import Pen
from miniature.stuff import LAYOUTS, STUFF, backdrop
from miniature.things import KINDS, THINGS

__all__ = [
    "CLASSES",
    "SIZES",
    "STUFF",
    "THINGS",
    "TRAIN_IMAGES",
    "VAL_IMAGES",
    "VERSION",
    "VISIBLE",
    "Scene",
    "draw_scene",
    "scene",
    "tags_of",
]

# Raise it when any drawn pixel changes.
VERSION = 1

CLASSES: tuple[str, ...] = THINGS + STUFF
VAL_IMAGES = 200
TRAIN_IMAGES = 1_000_000
# (height, width): landscape, portrait, square.
SIZES: tuple[tuple[int, int], ...] = ((96, 128), (128, 96), (96, 96), (80, 120), (144, 192), (160, 112), (112, 200))
# A class is visible, and so a tag, from this share of the image on.
VISIBLE = 0.003
EMPTY_SHARE = 0.14
CLOSE_SHARE = 0.12

_VAL_SEED = 1 << 40  # beyond every training index
_SAMPLES = 2


@dataclass(frozen=True)
class Scene:
    """One drawn scene.

    Attributes:
        image: uint8 [H, W, 3], RGB.
        labels: uint8 [H, W], index into CLASSES; every pixel has one.
        caption: describes the whole image.
        tags: names of the visible classes in the order of CLASSES (things first).
    """

    image: NDArray[np.uint8]
    labels: NDArray[np.uint8]
    caption: str
    tags: tuple[str, ...]


def tags_of(labels: NDArray[np.uint8], share: float = VISIBLE) -> tuple[str, ...]:
    """Names of the classes that cover at least this share of a label map, in the order of CLASSES."""
    counts = np.bincount(labels.ravel(), minlength=len(CLASSES))
    return tuple(name for name, count in zip(CLASSES, counts, strict=True) if count >= share * labels.size and count)


def _weighted(rng: np.random.Generator, weights: dict[str, int]) -> str:
    """A key, drawn in proportion to its weight."""
    mark = int(rng.integers(sum(weights.values())))
    for name, weight in weights.items():
        mark -= weight
        if mark < 0:
            return name
    raise ValueError("no option has a weight above zero")


def _layout(rng: np.random.Generator, needed: str | None) -> tuple[str, ...]:
    """A layout that holds the needed stuff (any, if None)."""
    options = [layout for layout in LAYOUTS if needed is None or needed in layout]
    mark = int(rng.integers(sum(LAYOUTS[layout] for layout in options)))
    for layout in options:
        mark -= LAYOUTS[layout]
        if mark < 0:
            return layout
    raise ValueError(f"no layout holds {needed!r}")


def _place(
    rng: np.random.Generator, labels: NDArray[np.uint8], taken: list[tuple[float, float, float]], name: str, home: str
) -> tuple[float, float, float] | None:
    """(x, y, half) of a free place for a thing on its home stuff, in canvas pixels; None if there is none."""
    kind, (height, width) = KINDS[name], labels.shape
    rows, columns = np.nonzero(labels[4::8, 4::8] == len(THINGS) + STUFF.index(home))
    if not rows.size:
        return None
    low, high = kind.sizes
    close = 1.4 if chance(rng, CLOSE_SHARE) else 1.0
    for attempt in range(14):
        at = int(rng.integers(rows.size))
        x, foot = 8.0 * columns[at] + 4 + between(rng, -4, 4), 8.0 * rows[at] + 4 + between(rng, -4, 4)
        half = min(height, width) * between(rng, low, high) * close * (1.0 if attempt < 7 else 0.75)
        if kind.stands:
            half *= 0.8 + 0.35 * foot / height  # nearer things are larger
        y = foot - kind.foot * half if kind.stands else foot
        out = max(half - x, x + half - width, half - y, y + half - height)
        if out > half * (0.5 if close > 1 else 0.3):
            continue
        if all(max(abs(x - other[0]), abs(y - other[1])) > 0.78 * (half + other[2]) for other in taken):
            return x, y, half
    return None


def _choose(rng: np.random.Generator, only: str | None) -> tuple[tuple[str, ...], list[tuple[str, str]]]:
    """The layout, and the (thing, home) pairs to be drawn in it."""
    if only in STUFF or (only is None and chance(rng, EMPTY_SHARE)):
        return _layout(rng, only), []
    first = only or THINGS[int(rng.integers(len(THINGS)))]
    home = _weighted(rng, KINDS[first].homes)
    layout, wanted = _layout(rng, home), [(first, home)]
    if only is not None:
        return layout, wanted * (1 + chance(rng, 0.22))
    wanted *= 1 + chance(rng, 0.22) + chance(rng, 0.06)
    for _ in range(int(rng.integers(0, 4))):
        ranges = {name: sum(kind.homes.get(stuff, 0) for stuff in layout) for name, kind in KINDS.items()}
        name = _weighted(rng, {name: 4 + weight for name, weight in ranges.items() if weight})
        home = _weighted(rng, {stuff: weight for stuff, weight in KINDS[name].homes.items() if stuff in layout})
        wanted.append((name, home))
    return layout, wanted


def _shadow(image: NDArray[np.uint8], x: float, y: float, half: float) -> None:
    """Darken the ground under a thing that stands."""
    top, left = max(0, int(y - half / 4)), max(0, int(x - half))
    patch = image[top : int(y + half / 4) + 1, left : int(x + half) + 1]
    rows, columns = np.ogrid[top : top + patch.shape[0], left : left + patch.shape[1]]
    area = 16 * (rows - int(y)) ** 2 + (columns - int(x)) ** 2 < int(half * half * 0.8)
    patch[area] = (patch[area].astype(np.uint16) * 190 >> 8).astype(np.uint8)


def draw_scene(seed: int, size: tuple[int, int] = (96, 128), only: str | None = None) -> Scene:
    """Draw one scene.

    Args:
        seed: any integer from 0 on; another seed is another scene.
        size: (height, width) in pixels, each at least 32.
        only: a class name; a thing then is the only kind of thing in the image (one or two of it), a stuff is
            drawn without any thing. None draws any scene.

    Raises:
        ValueError: if `only` is not a class, the seed is negative or the size too small.
    """
    if only is not None and only not in CLASSES:
        raise ValueError(f"unknown class {only!r}: the small world has {', '.join(CLASSES)}")
    if seed < 0:
        raise ValueError(f"seed must be 0 or more, not {seed}")
    if min(size) < 32:
        raise ValueError(f"size must be at least 32 x 32, not {size[0]} x {size[1]}")
    key = (seed, *size, 0 if only is None else 1 + CLASSES.index(only))
    rng = np.random.Generator(np.random.PCG64(np.random.SeedSequence(key)))
    height, width = size[0] * _SAMPLES, size[1] * _SAMPLES
    layout, wanted = _choose(rng, only)
    image, labels, stuff = backdrop(rng, height, width, layout, len(THINGS))
    ground, taken = labels.copy(), list[tuple[float, float, float]]()
    placed = list[tuple[float, str, str, tuple[float, float, float]]]()
    for name, home in wanted:
        spot = _place(rng, ground, taken, name, home)
        if spot is not None:
            taken.append(spot)
            # What floats is far away or free of the ground: it is drawn first.
            placed.append((spot[1] + spot[2] * KINDS[name].foot if KINDS[name].stands else -1.0, name, home, spot))
    things, homes = dict[str, list[str]](), dict[str, str]()
    for _, name, home, (x, y, half) in sorted(placed, key=lambda entry: entry[0]):
        kind = KINDS[name]
        if kind.stands and home != "water":
            _shadow(image, x, y + half * kind.foot, half)
        pen = Pen(
            (height, width),
            (x, y),
            half,
            between(rng, -kind.tilt, kind.tilt),
            chance(rng, 0.5),
            between(rng, 0.84, 1.12),
        )
        things.setdefault(name, []).append(kind.draw(pen, rng))
        homes[name] = home
        pen.light(int(rng.integers(-46, 47)), int(rng.integers(-40, 6)), int(rng.integers(62, 100)))
        pen.stamp(image, labels, CLASSES.index(name))
    image = _develop(rng, image)
    labels = np.ascontiguousarray(labels[1::_SAMPLES, 1::_SAMPLES])
    tags = tags_of(labels)
    seen = {name: things[name] for name in THINGS if name in tags}
    words = caption(rng, seen, homes, {name: stuff[name] for name in STUFF if name in tags})
    return Scene(image, labels, words, tags)


def _develop(rng: np.random.Generator, image: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Average the samples to pixels and set exposure, contrast and white balance; uint8 [H, W, 3]."""
    wide = image.astype(np.uint16)
    tall = wide[:, ::2] + wide[:, 1::2]
    total = (tall[::2] + tall[1::2]).astype(np.int32)
    gain = int(rng.integers(215, 290)) + rng.integers(-12, 13, 3, dtype=np.int32)
    lift = int(rng.integers(-16, 13))
    return np.clip((total * gain >> 10) + lift, 0, 255).astype(np.uint8)


def scene(split: Literal["train", "val"], index: int) -> Scene:
    """Scene `index` of a split; sizes and aspect ratios vary, and the two splits share no seed.

    Raises:
        ValueError: for another split.
        IndexError: for an index outside the split.
    """
    if split not in ("train", "val"):
        raise ValueError(f"unknown split {split!r}: use 'train' or 'val'")
    images = VAL_IMAGES if split == "val" else TRAIN_IMAGES
    if not 0 <= index < images:
        raise IndexError(f"index {index} is outside the {split} split of {images} images")
    return draw_scene(index + (_VAL_SEED if split == "val" else 0), SIZES[index % len(SIZES)])
