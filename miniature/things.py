"""The registry of things: how each is drawn, where it is at home, how large it is."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from miniature import artefacts, creatures, nature
from miniature.pen import Pen


@dataclass(frozen=True)
class Kind:
    """One kind of thing.

    Attributes:
        draw: draws it with a pen and returns the word for its colour.
        homes: how often it is found on each stuff, as weights.
        sizes: half its extent, as a share of the image's short side, smallest and largest.
        stands: True if its foot is on the stuff, False if it floats in it.
        tilt: largest rotation in degrees.
        foot: where it touches the ground, in units below its middle.
    """

    draw: Callable[[Pen, np.random.Generator], str]
    homes: dict[str, int]
    sizes: tuple[float, float]
    stands: bool = True
    tilt: int = 6
    foot: float = 0.95


KINDS: dict[str, Kind] = {
    "apple": Kind(nature.apple, {"grass": 6, "sand": 4, "road": 1}, (0.12, 0.26), tilt=20, foot=0.84),
    "banana": Kind(nature.banana, {"sand": 5, "grass": 5, "road": 1}, (0.14, 0.28), tilt=40, foot=0.6),
    "tree": Kind(nature.tree, {"grass": 9, "sand": 2}, (0.2, 0.36), tilt=3),
    "house": Kind(artefacts.house, {"grass": 8, "sand": 2, "road": 1}, (0.18, 0.34), tilt=2),
    "car": Kind(artefacts.car, {"road": 10, "grass": 1, "sand": 1}, (0.17, 0.32), tilt=3, foot=0.62),
    "boat": Kind(artefacts.boat, {"water": 12, "sand": 1}, (0.17, 0.32), tilt=9, foot=0.8),
    "fish": Kind(creatures.fish, {"water": 14, "sand": 1}, (0.14, 0.28), stands=False, tilt=28),
    "sun": Kind(nature.sun, {"sky": 1}, (0.13, 0.25), stands=False, tilt=180),
    "flower": Kind(nature.flower, {"grass": 10, "sand": 1}, (0.15, 0.3), tilt=10),
    "cat": Kind(creatures.cat, {"grass": 4, "road": 3, "sand": 3}, (0.17, 0.34), tilt=5),
    "balloon": Kind(
        artefacts.balloon, {"sky": 8, "grass": 2, "water": 1, "road": 1}, (0.16, 0.3), stands=False, tilt=14
    ),
    "mushroom": Kind(nature.mushroom, {"grass": 10, "sand": 1}, (0.14, 0.3), tilt=8),
}
THINGS: tuple[str, ...] = tuple(KINDS)
