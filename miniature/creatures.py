"""Living things that move: fish and cat."""

from __future__ import annotations

import numpy as np

from miniature.palette import CREAM, INK, between, chance, pick, pick_colour
from miniature.pen import Colour, Pen, oval, shape, smooth, tone


def fish(pen: Pen, rng: np.random.Generator) -> str:
    """A body with a tail, fins and an eye; plain, striped or spotted; slim or round."""
    word, scales = pick_colour(rng, "orange", "red", "yellow", "blue", "purple", "green", "pink", "gray")
    tall, fin = between(rng, 0.34, 0.6), tone(scales, pick(rng, (72, 84, 122)))
    fork = between(rng, 0.3, 0.5)
    pen.fill(
        smooth(shape((0.5, 0), (0.78, -fork * 0.8), (1.02, -fork), (0.86, 0), (1.02, fork), (0.78, fork * 0.8)), 3), fin
    )
    pen.fill(smooth(shape((-0.3, -tall * 0.8), (0.05, -tall * 1.45), (0.4, -tall * 1.2), (0.36, -tall * 0.5))), fin)
    pen.fill(smooth(shape((-0.1, tall * 0.8), (0.15, tall * 1.3), (0.36, tall * 1.1), (0.3, tall * 0.5))), fin)
    body = smooth(
        shape(
            (-1, 0.04),
            (-0.7, -tall * 0.72),
            (-0.2, -tall),
            (0.35, -tall * 0.62),
            (0.66, -0.1),
            (0.66, 0.1),
            (0.35, tall * 0.62),
            (-0.2, tall),
            (-0.7, tall * 0.72),
        )
    )
    pen.fill(body, scales)
    pen.fill(
        smooth(shape((-0.86, 0.16), (-0.2, tall * 0.9), (0.4, tall * 0.5), (-0.1, tall * 0.45))), tone(scales, 120)
    )
    dress = pick(rng, ("plain", "stripes", "stripes", "spots"))
    marking: Colour = pick(rng, (CREAM, INK, tone(scales, 60)))
    if dress == "stripes":
        for x in (-0.34, 0.0, 0.32):
            half = tall * (0.86 - abs(x + 0.15) * 0.8)
            pen.fill(
                smooth(
                    shape(
                        (x - 0.07, -half),
                        (x + 0.07, -half),
                        (x + 0.12, 0),
                        (x + 0.07, half),
                        (x - 0.07, half),
                        (x - 0.01, 0),
                    )
                ),
                marking,
            )
    elif dress == "spots":
        for _ in range(6):
            pen.fill(oval(between(rng, -0.4, 0.35), between(rng, -0.5, 0.5) * tall, 0.08, 0.08, count=10), marking)
    pen.fill(smooth(shape((-0.2, 0.02), (0.14, -0.08), (0.2, 0.16), (-0.1, 0.2))), fin)
    pen.fill(oval(-0.66, -tall * 0.24, 0.12, 0.12, count=14), CREAM)
    pen.fill(oval(-0.68, -tall * 0.24, 0.06, 0.06, count=10), INK)
    return word


def _face(pen: Pen, rng: np.random.Generator, x: float, y: float, size: float, fur: Colour, eyes: Colour) -> None:
    """A head with ears, eyes, a nose and whiskers around (x, y)."""
    dark = sum(fur) < 260
    for side in (-1, 1):
        ear = shape(
            (x + side * size * 0.95, y - size * 0.3),
            (x + side * size * 0.82, y - size * 1.3),
            (x + side * size * 0.2, y - size * 0.75),
        )
        pen.fill(ear, fur)
        inner = (ear + ear.mean(0)) / 2
        pen.fill(inner, (226, 150, 150) if not dark else (150, 96, 104))
    pen.fill(oval(x, y, size, size * 0.84), fur)
    pen.fill(oval(x, y + size * 0.42, size * 0.46, size * 0.34, count=18), tone(fur, 122 if not dark else 170))
    for side in (-1, 1):
        pen.fill(oval(x + side * size * 0.42, y - size * 0.08, size * 0.2, size * 0.24, count=14), eyes)
        pen.fill(oval(x + side * size * 0.42, y - size * 0.08, size * 0.08, size * 0.22, count=10), INK)
        whisker = INK if not dark else (210, 206, 206)
        for lift in (-0.12, 0.16):
            pen.stroke(
                shape((x + side * size * 0.3, y + size * 0.4), (x + side * size * 1.15, y + size * (0.34 + lift))),
                0.01,
                whisker,
            )
    pen.fill(
        shape((x - size * 0.13, y + size * 0.26), (x + size * 0.13, y + size * 0.26), (x, y + size * 0.42)),
        (208, 104, 116),
    )


def cat(pen: Pen, rng: np.random.Generator) -> str:
    """A cat that sits, walks or shows its face alone; plain or tabby."""
    word, fur = pick_colour(rng, "black", "white", "gray", "gray", "orange", "orange", "brown")
    eyes = pick(rng, ((120, 190, 90), (226, 190, 70), (120, 176, 220)))
    pose, stripe, tabby = pick(rng, ("sits", "sits", "walks", "face")), tone(fur, 74), chance(rng, 0.5)
    if pose == "face":
        _face(pen, rng, 0, 0.14, 0.84, fur, eyes)
        if tabby:
            for x in (-0.2, 0.0, 0.2):
                pen.stroke(shape((x, -0.54), (x * 0.8, -0.24)), 0.08, stripe)
    elif pose == "sits":
        tail = smooth(shape((0.3, 0.9), (0.8, 0.86), (0.92, 0.4), (0.7, 0.05), (0.84, 0.5), (0.7, 0.7), (0.3, 0.7)))
        pen.fill(tail, tone(fur, 90))
        pen.fill(
            smooth(shape((0, -0.35), (0.36, -0.05), (0.56, 0.6), (0.42, 1), (-0.42, 1), (-0.56, 0.6), (-0.36, -0.05))),
            fur,
        )
        if tabby:
            for y in (0.2, 0.42, 0.64):
                for side in (-1, 1):
                    pen.stroke(shape((side * 0.48, y), (side * 0.24, y + 0.06)), 0.08, stripe)
        pen.fill(oval(0, 0.42, 0.2, 0.34, count=18), tone(fur, 120))
        for x in (-0.2, 0.2):
            pen.fill(oval(x, 0.94, 0.16, 0.1, count=14), tone(fur, 112))
        _face(pen, rng, 0, -0.42, 0.5, fur, eyes)
    else:
        pen.stroke(shape((0.7, 0.1), (0.92, -0.3), (0.84, -0.72)), 0.15, tone(fur, 92))
        for x in (-0.5, -0.28, 0.42, 0.64):
            pen.fill(
                smooth(shape((x - 0.13, 0.2), (x + 0.13, 0.2), (x + 0.1, 0.96), (x - 0.14, 0.96))),
                tone(fur, 92 if x in (-0.28, 0.42) else 104),
            )
        pen.fill(
            smooth(
                shape((-0.72, 0.0), (-0.2, -0.16), (0.5, -0.14), (0.84, 0.1), (0.8, 0.42), (0.2, 0.52), (-0.6, 0.46))
            ),
            fur,
        )
        if tabby:
            for x in (-0.1, 0.14, 0.38, 0.6):
                pen.stroke(shape((x, -0.1), (x + 0.04, 0.18)), 0.08, stripe)
        _face(pen, rng, -0.66, -0.3, 0.44, fur, eyes)
    pen.grain(rng, 22)
    return word
