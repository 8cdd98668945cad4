"""Things that grow or shine: apple, banana, tree, sun, flower, mushroom.

Every function draws one object with a pen and returns the word for its colour. Shapes, parts, poses and colours vary;
most colours are shared by several kinds, so that colour alone does not say what a thing is.
"""

from __future__ import annotations

import numpy as np

from miniature.palette import BARK, COLOURS, CREAM, INK, LEAF, between, chance, pick, pick_colour
from miniature.pen import Pen, Points, box, cosine, oval, shape, sine, smooth, tone, vary


def apple(pen: Pen, rng: np.random.Generator) -> str:
    """A round body with a dip at the top, a stalk, sometimes a leaf, a blush or a bite."""
    word, skin = pick_colour(rng, "red", "red", "green", "yellow", "pink")
    wide, low = between(rng, 0.8, 0.95), between(rng, 0.8, 0.92)
    body = smooth(
        shape(
            (0, -0.52),
            (0.42 * wide, -0.74),
            (0.95 * wide, -0.4),
            (0.98 * wide, 0.15),
            (0.66 * wide, low),
            (0.28, low + 0.08),
            (0, low - 0.02),
            (-0.28, low + 0.08),
            (-0.66 * wide, low),
            (-0.98 * wide, 0.15),
            (-0.95 * wide, -0.4),
            (-0.42 * wide, -0.74),
        )
    )
    pen.fill(body, skin)
    if chance(rng, 0.4):
        blush = COLOURS["red"] if word != "red" else COLOURS["yellow"]
        mixed = ((2 * skin[0] + blush[0]) // 3, (2 * skin[1] + blush[1]) // 3, (2 * skin[2] + blush[2]) // 3)
        pen.fill(oval(0.4 * wide, 0.2, 0.36, 0.5), mixed)
    pen.fill(oval(-0.44 * wide, -0.28, 0.16, 0.24), tone(skin, 140))
    pen.fill(oval(0, -0.56, 0.26, 0.09), tone(skin, 60))
    lean = between(rng, -0.2, 0.2)
    pen.stroke(shape((0, -0.54), (lean / 2, -0.78), (lean, -1.0)), 0.11, BARK)
    if chance(rng, 0.65):
        pen.fill(smooth(shape((0.04, -0.76), (0.34, -1.02), (0.66, -0.94), (0.4, -0.72))), vary(rng, LEAF))
    if chance(rng, 0.12):
        pen.fill(oval(0.86 * wide, 0.02, 0.26, 0.3), CREAM)
    return word


def banana(pen: Pen, rng: np.random.Generator) -> str:
    """One to three crescents that meet in a stalk."""
    word, skin = pick_colour(rng, "yellow", "yellow", "yellow", "green", "brown")
    bend, thick = between(rng, 0.55, 0.85), between(rng, 0.3, 0.42)
    for k in range(pick(rng, (1, 1, 2, 3))):
        flesh, drop = tone(vary(rng, skin, 8), 100 - 7 * k), 0.2 * k
        fat = 1.0 - 0.12 * k
        outer = [(fat * cosine(a), bend * fat * sine(a) - 0.2 + drop) for a in range(8, 173, 15)]
        inner = [(0.9 * fat * cosine(a), (bend - thick) * fat * sine(a) - 0.26 + drop) for a in range(168, 7, -16)]
        pen.fill(np.array(outer + inner), flesh)
        ridge = [
            (0.95 * fat * cosine(a), (bend - thick * 0.45) * fat * sine(a) - 0.22 + drop) for a in range(24, 157, 12)
        ]
        pen.stroke(np.array(ridge), 0.05, tone(flesh, 84))
        pen.fill(oval(-0.95 * fat, -0.18 + drop, 0.09, 0.1, count=10), INK)
    pen.fill(shape((0.84, -0.14), (1.0, -0.1), (1.06, -0.44), (0.92, -0.46)), tone(BARK, 110))
    return word


def _crown(pen: Pen, rng: np.random.Generator, leaf: tuple[int, int, int]) -> None:
    """Overlapping rounds of leaves, lighter towards the top."""
    count = int(rng.integers(5, 9))
    for k in range(count):
        around = 360 * k / count + between(rng, -15, 15)
        x, y = 0.44 * cosine(around), -0.36 + 0.3 * sine(around)
        pen.fill(
            oval(x, y, between(rng, 0.32, 0.44), between(rng, 0.28, 0.38)), tone(leaf, round(92 - 14 * sine(around)))
        )
    pen.fill(oval(-0.06, -0.42, 0.5, 0.4), leaf)
    for _ in range(5):
        pen.fill(oval(between(rng, -0.5, 0.5), between(rng, -0.75, -0.1), 0.14, 0.1), tone(leaf, pick(rng, (84, 118))))


def tree(pen: Pen, rng: np.random.Generator) -> str:
    """A round tree, a fir, a slim cypress or a palm."""
    word, leaf = pick_colour(rng, "green", "green", "green", "orange", "yellow", "red", "pink")
    leaf = tone(leaf, int(rng.integers(70, 105)))
    bark, girth = vary(rng, BARK), between(rng, 0.09, 0.16)
    form = pick(rng, ("round", "round", "fir", "fir", "slim", "palm"))
    if form == "palm":
        lean = between(rng, -0.3, 0.3)
        pen.fill(shape((-girth, 1), (girth, 1), (lean + 0.07, -0.5), (lean - 0.07, -0.5)), bark)
        for a in range(0, 360, 45):
            tip = (lean + 0.85 * cosine(a), -0.5 + 0.4 * sine(a) + 0.22)
            pen.fill(
                smooth(
                    shape(
                        (lean, -0.56),
                        (lean + 0.4 * cosine(a), -0.78 + 0.3 * sine(a)),
                        tip,
                        (lean + 0.36 * cosine(a), -0.5 + 0.28 * sine(a)),
                    )
                ),
                tone(leaf, 90 + a // 18),
            )
        return word
    pen.fill(shape((-girth * 1.4, 1), (girth * 1.4, 1), (girth, -0.1), (-girth, -0.1)), bark)
    if form == "round":
        pen.stroke(shape((0, 0.3), (0.3, -0.1)), 0.08, bark)
        _crown(pen, rng, leaf)
    elif form == "fir":
        tiers = int(rng.integers(2, 5))
        for k in range(tiers):
            low, wide = 0.62 - 1.1 * k / tiers, 0.72 * (1 - 0.62 * k / tiers)
            peak = low - 1.0 + 0.12 * tiers
            pen.fill(
                shape(
                    (-wide, low), (-wide * 0.4, low + 0.07), (wide * 0.4, low + 0.07), (wide, low), (0, max(-1, peak))
                ),
                tone(leaf, 82 + 9 * k),
            )
    else:
        pen.fill(
            smooth(shape((0, -1.05), (0.3, -0.5), (0.36, 0.2), (0.16, 0.6), (-0.16, 0.6), (-0.36, 0.2), (-0.3, -0.5))),
            leaf,
        )
        pen.fill(oval(-0.1, -0.2, 0.12, 0.4), tone(leaf, 115))
    pen.grain(rng, 34)
    return word


def sun(pen: Pen, rng: np.random.Generator) -> str:
    """A disc with rays: spikes, sticks or flames; sometimes a face."""
    word, disc = pick_colour(rng, "yellow", "yellow", "orange", "red")
    rays, inner = int(rng.integers(8, 15)), between(rng, 0.5, 0.62)
    form, beam = pick(rng, ("spikes", "spikes", "sticks", "flames")), tone(disc, pick(rng, (88, 100, 112)))
    for k in range(rays):
        a, step = 360 * k / rays, 180 / rays
        foot = inner * 0.96
        left, right = (
            (foot * cosine(a - step * 0.8), foot * sine(a - step * 0.8)),
            (foot * cosine(a + step * 0.8), foot * sine(a + step * 0.8)),
        )
        turn = step if form == "flames" else 0
        tip = (cosine(a + turn), sine(a + turn))
        if form == "sticks":
            pen.stroke(shape((inner * 0.9 * cosine(a), inner * 0.9 * sine(a)), tip), 0.11, beam)
        else:
            pen.fill(shape(left, right, tip), beam)
    pen.fill(oval(0, 0, inner, inner), disc)
    pen.fill(oval(-0.06, -0.08, inner * 0.72, inner * 0.72), tone(disc, 108))
    if chance(rng, 0.25):
        for x in (-0.2, 0.2):
            pen.fill(oval(x, -0.1, 0.06, 0.09, count=10), INK)
        pen.stroke(oval(0, 0.05, 0.24, 0.2, 20, 160, 8), 0.06, INK)
    return word


def _petals(pen: Pen, count: int, reach: float, width: float, colour: tuple[int, int, int], turn: float) -> None:
    """Petals around (0, -0.4)."""
    for k in range(count):
        a = 360 * k / count + turn
        middle = np.array([reach * 0.55 * cosine(a), reach * 0.55 * sine(a) - 0.4])
        along, side = np.array([cosine(a), sine(a)]), np.array([-sine(a), cosine(a)])
        outline: Points = np.stack(
            [middle - along * reach * 0.5, middle + side * width, middle + along * reach * 0.45, middle - side * width]
        )
        pen.fill(smooth(outline), tone(colour, 92 if k % 2 else 104))


def flower(pen: Pen, rng: np.random.Generator) -> str:
    """A daisy or a tulip on a stem with leaves."""
    word, petal = pick_colour(rng, "red", "pink", "yellow", "white", "purple", "blue", "orange")
    stem, lean = vary(rng, LEAF), between(rng, -0.15, 0.15)
    pen.stroke(shape((0, -0.4), (lean, 0.3), (lean / 2, 1)), 0.12, stem)
    for side in (-1, 1):
        if chance(rng, 0.8):
            y = between(rng, 0.2, 0.6)
            pen.fill(
                smooth(
                    shape(
                        (lean, y + 0.24),
                        (side * 0.3 + lean, y - 0.12),
                        (side * 0.56 + lean, y - 0.18),
                        (side * 0.34 + lean, y + 0.14),
                    )
                ),
                tone(stem, 112),
            )
    if chance(rng, 0.3):
        cup = smooth(
            shape(
                (-0.46, -0.5),
                (-0.4, -0.1),
                (0, 0.06),
                (0.4, -0.1),
                (0.46, -0.5),
                (0.4, -0.98),
                (0.2, -0.66),
                (0, -1.02),
                (-0.2, -0.66),
                (-0.4, -0.98),
            ),
            3,
        )
        pen.fill(cup, petal)
        pen.fill(smooth(shape((0, -0.98), (0.2, -0.5), (0, 0), (-0.2, -0.5))), tone(petal, 114))
        return word
    count = int(rng.integers(5, 10))
    _petals(pen, count, 0.62, between(rng, 0.17, 0.24) * 6 / max(count, 6) + 0.04, petal, between(rng, 0, 60))
    heart = COLOURS["yellow"] if word not in ("yellow", "orange") else COLOURS["brown"]
    pen.fill(oval(0, -0.4, 0.2, 0.2, count=16), vary(rng, heart))
    return word


def mushroom(pen: Pen, rng: np.random.Generator) -> str:
    """A cap, flat or domed, with or without spots, on a pale stem."""
    word, cap = pick_colour(rng, "red", "red", "brown", "orange", "white", "purple")
    girth, low = between(rng, 0.2, 0.34), between(rng, -0.05, 0.12)
    stem = vary(rng, CREAM, 10) if word != "white" else vary(rng, (214, 196, 168), 10)
    pen.fill(
        smooth(
            shape(
                (-girth, low - 0.1),
                (-girth * 0.85, 0.5),
                (-girth * 1.2, 0.98),
                (girth * 1.2, 0.98),
                (girth * 0.85, 0.5),
                (girth, low - 0.1),
            )
        ),
        stem,
    )
    pen.fill(box(girth * 0.3, low, girth * 0.7, 0.85), tone(stem, 90))
    peak = between(rng, 0.75, 1.0)
    dome = oval(0, low, between(rng, 0.82, 0.98), peak + low, 180, 359.5, 20)
    pen.fill(oval(0, low, 0.8, 0.16), tone(stem, 80))
    pen.fill(dome, cap)
    if chance(rng, 0.65):
        spot = CREAM if word != "white" else (206, 170, 130)
        for x, y, size in (
            (-0.5, -0.22, 0.14),
            (0.02, -0.62, 0.15),
            (0.46, -0.3, 0.16),
            (-0.14, -0.24, 0.12),
            (0.74, -0.08, 0.08),
        ):
            grown = size * between(rng, 0.6, 1.1)
            pen.fill(oval(x, y * peak + low, grown, grown * 0.8, count=12), spot)
    return word
