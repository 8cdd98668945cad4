"""Colour words and the small random choices that drawing is made of."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

import numpy as np

from miniature.pen import Colour, vary

T = TypeVar("T")

COLOURS: dict[str, Colour] = {
    "red": (206, 44, 42),
    "orange": (236, 132, 38),
    "yellow": (242, 206, 62),
    "green": (84, 164, 64),
    "blue": (54, 98, 204),
    "purple": (138, 74, 176),
    "pink": (240, 152, 182),
    "white": (240, 238, 232),
    "gray": (142, 142, 148),
    "black": (50, 46, 54),
    "brown": (134, 88, 52),
}
BARK: Colour = (112, 74, 44)
LEAF: Colour = (70, 140, 56)
INK: Colour = (34, 30, 36)
CREAM: Colour = (246, 238, 216)
GLASS: Colour = (176, 212, 232)
STEEL: Colour = (196, 200, 206)


def pick(rng: np.random.Generator, options: Sequence[T]) -> T:
    """One of the options, each as likely as the others."""
    return options[int(rng.integers(len(options)))]


def chance(rng: np.random.Generator, share: float) -> bool:
    """True in this share of the draws."""
    return bool(rng.random() < share)


def between(rng: np.random.Generator, low: float, high: float) -> float:
    """A number drawn evenly between two bounds."""
    return low + (high - low) * float(rng.random())


def pick_colour(rng: np.random.Generator, *words: str) -> tuple[str, Colour]:
    """One of the colour names and a random shade of it."""
    word = pick(rng, words)
    return word, vary(rng, COLOURS[word])
