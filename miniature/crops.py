"""Training samples: crops of scenes with texts and tags of the visible classes, without their location."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from miniature import world
from miniature.captions import plural
from miniature.palette import COLOURS, between, chance, pick
from miniature.tokenizer import TEMPLATES
from miniature.world import CLASSES, STUFF, THINGS, Scene

# A class is visible in a crop from the first share on, and not visible below the second; shares in between are ignored.
SEEN, UNSEEN = 0.06, 0.008


@dataclass(frozen=True)
class Sample:
    """One crop with its text and tags.

    Attributes:
        image: uint8 [h, w, 3].
        text: a caption of what is visible.
        named: float32 [C], 1 for the classes that the text names.
        seen: float32 [C], 1 for the classes that are visible.
        unsure: float32 [C], 1 for the classes of which too little is visible to decide.
        particular: the text says more than class names (a colour, a number), so it fits few images.
    """

    image: NDArray[np.uint8]
    text: str
    named: NDArray[np.float32]
    seen: NDArray[np.float32]
    unsure: NDArray[np.float32]
    particular: bool


def draw_scenes(count: int, start: int = 0, split: Literal["train", "val"] = "train") -> list[Scene]:
    """Scenes `start` to `start + count` of a split, kept in memory."""
    return [world.scene(split, start + index) for index in range(count)]


def _article(name: str) -> str:
    return f"{'an' if name[0] in 'aeio' else 'a'} {name}"


def describe(rng: np.random.Generator, seen: Sequence[str], main: str | None) -> tuple[str, tuple[str, ...]]:
    """A text about visible classes.

    Args:
        rng: the source of randomness.
        seen: names of the visible classes.
        main: the thing that fills most of the crop; None if there is no thing.

    Returns:
        The text and the classes that it names; a text about the background names none.
    """
    if main is None:
        if chance(rng, 0.4):
            name = pick(rng, seen)
            form = pick(
                rng,
                (
                    "background",
                    "background",
                    "background",
                    f"background of {name}",
                    f"{name} background",
                    f"empty {name} background",
                ),
            )
            return pick(rng, TEMPLATES).format(form).replace("backgrounds.", "background."), ()
        names = tuple(seen) if len(seen) > 1 and chance(rng, 0.4) else (pick(rng, seen),)
        if len(names) == 1:
            return pick(rng, TEMPLATES).format(names[0]), names
        return " and ".join(names), names
    things = [name for name in seen if name in THINGS]
    stuff = [name for name in seen if name in STUFF]
    if len(things) == 1 or chance(rng, 0.55):
        template = pick(rng, TEMPLATES)
        text = template.format(plural(main) if "many {}" in template else main)
        if chance(rng, 0.4):
            text = text.replace(f" a {main}", f" {_article(main)}")
        if stuff and chance(rng, 0.15):
            place = pick(rng, stuff)
            return f"{_article(main)} {pick(rng, ('on', 'in', 'and'))} {place}", (main, place)
        return text, (main,)
    order = [things[int(k)] for k in rng.permutation(len(things))]
    text = " and ".join(_article(name) for name in order)
    return ("a photo of " if chance(rng, 0.5) else "") + text, tuple(order)


def _vector(names: Sequence[str]) -> NDArray[np.float32]:
    vector = np.zeros(len(CLASSES), np.float32)
    vector[[CLASSES.index(name) for name in names]] = 1
    return vector


def visible(labels: NDArray[np.uint8], whole: NDArray[np.int64]) -> tuple[list[str], list[str], str | None]:
    """Classes seen in a crop, classes of which too little is visible, and the main thing.

    Args:
        labels: uint8 [h, w], the crop's part of the scene's labels; used for the words alone.
        whole: int64 [C], pixels of each class in the whole scene.
    """
    counts = np.bincount(labels.ravel(), minlength=len(CLASSES))
    seen, unsure, main, most = [], [], None, 0
    for index in np.flatnonzero(counts):
        share, name = counts[index] / labels.size, CLASSES[index]
        complete = index < len(THINGS) and counts[index] >= 0.6 * whole[index] and share > UNSEEN
        if share >= SEEN or complete:
            seen.append(name)
            if index < len(THINGS) and counts[index] > most:
                main, most = name, int(counts[index])
        elif share > UNSEEN or (index < len(THINGS) and counts[index] > 6):
            unsure.append(name)
    return seen, unsure, main


def cut(rng: np.random.Generator, scene: Scene, short: float, aspect: float = 1.0, want_thing: bool = False) -> Sample:
    """A crop of a scene, mirrored half of the time.

    Args:
        rng: the source of randomness.
        scene: the scene.
        short: short side of the crop as a share of the scene's short side.
        aspect: width / height of the crop.
        want_thing: look at up to six places for one where a thing is visible.
    """
    height, width = scene.labels.shape
    side = short * min(height, width)
    rows = max(6, min(height, round(side / min(1.0, aspect))))
    columns = max(6, min(width, round(side * max(1.0, aspect))))
    whole = np.bincount(scene.labels.ravel(), minlength=len(CLASSES))
    for _ in range(6):
        top, left = int(rng.integers(height - rows + 1)), int(rng.integers(width - columns + 1))
        window = (slice(top, top + rows), slice(left, left + columns))
        seen, unsure, main = visible(scene.labels[window], whole)
        if main is not None or not want_thing:
            break
    if rows == height and columns == width and chance(rng, 0.6):
        text, named = (
            scene.caption,
            tuple(name for name in CLASSES if name in scene.caption.replace("background", "")),
        )
        particular = any(word in COLOURS or word in ("two", "three", "many") for word in text.split())
    else:
        (text, named), particular = describe(rng, seen or [CLASSES[int(scene.labels[window][0, 0])]], main), False
    image = scene.image[window]
    if chance(rng, 0.5):
        image = image[:, ::-1]
    return Sample(np.ascontiguousarray(image), text, _vector(named), _vector(seen), _vector(unsure), particular)


def resized(image: NDArray[np.uint8], height: int, width: int) -> NDArray[np.uint8]:
    """The image at another size, by the same bicubic filter as CLIP's preprocessing."""
    if image.shape[:2] == (height, width):
        return image
    return np.asarray(Image.fromarray(image).resize((width, height), Image.Resampling.BICUBIC))


def clip_sample(rng: np.random.Generator, scenes: Sequence[Scene], side: int) -> Sample:
    """A crop at a random scale as CLIP sees it: squashed to `side` x `side`; one in eight is a whole scene."""
    scene = scenes[int(rng.integers(len(scenes)))]
    if chance(rng, 0.125):
        height, width = scene.labels.shape
        sample = cut(rng, scene, 1.0, width / height)
    else:
        short = 0.2 * 5.0 ** float(rng.random())
        sample = cut(rng, scene, short, between(rng, 0.8, 1.25), want_thing=chance(rng, 0.6))
    return Sample(
        resized(sample.image, side, side), sample.text, sample.named, sample.seen, sample.unsure, sample.particular
    )
