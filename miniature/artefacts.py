"""Things that people make: house, car, boat, balloon."""

from __future__ import annotations

import numpy as np

from miniature.palette import BARK, COLOURS, CREAM, GLASS, INK, STEEL, between, chance, pick, pick_colour
from miniature.pen import Pen, box, oval, shape, smooth, tone, vary


def _window(pen: Pen, x: float, y: float, size: float, lit: bool) -> None:
    """A square window with a cross, its middle at (x, y)."""
    pane = (250, 226, 130) if lit else GLASS
    pen.fill(box(x - size * 1.25, y - size * 1.25, x + size * 1.25, y + size * 1.25), CREAM)
    pen.fill(box(x - size, y - size, x + size, y + size), pane)
    pen.fill(box(x - size * 0.12, y - size, x + size * 0.12, y + size), CREAM)
    pen.fill(box(x - size, y - size * 0.12, x + size, y + size * 0.12), CREAM)


def house(pen: Pen, rng: np.random.Generator) -> str:
    """Walls with a gabled, hipped or flat roof, a door, windows, sometimes a chimney; low or with two floors."""
    word, wall = pick_colour(rng, "white", "white", "red", "yellow", "blue", "orange", "brown", "gray", "pink")
    roof = vary(rng, COLOURS[pick(rng, tuple(c for c in ("red", "brown", "gray", "blue", "black") if c != word))])
    wide, eaves = between(rng, 0.68, 0.92), between(rng, -0.3, 0.05)
    form, peak = pick(rng, ("gable", "gable", "hip", "flat")), between(rng, -1.0, -0.75)
    if chance(rng, 0.5) and form != "flat":
        pen.fill(box(wide * 0.4, peak, wide * 0.64, eaves), tone(COLOURS["brown"], 95))
    pen.fill(box(-wide, eaves - 0.02, wide, 1), wall)
    if chance(rng, 0.4):
        for y in np.arange(eaves + 0.14, 1, 0.16):
            pen.stroke(shape((-wide, y), (wide, y)), 0.03, tone(wall, 86))
    if form == "gable":
        pen.fill(shape((-wide - 0.1, eaves), (wide + 0.1, eaves), (0, peak)), roof)
    elif form == "hip":
        pen.fill(
            shape((-wide - 0.1, eaves), (wide + 0.1, eaves), (wide * 0.6, peak + 0.1), (-wide * 0.6, peak + 0.1)), roof
        )
    else:
        pen.fill(box(-wide - 0.06, eaves - 0.14, wide + 0.06, eaves + 0.04), roof)
    pen.fill(box(-wide - 0.08, eaves - 0.02, wide + 0.08, eaves + 0.06), tone(roof, 80))
    door, lit = between(rng, -0.5, 0.5) * wide, chance(rng, 0.3)
    pen.fill(box(door - 0.15, 0.44, door + 0.15, 1), vary(rng, COLOURS[pick(rng, ("brown", "red", "green", "blue"))]))
    pen.fill(oval(door + 0.08, 0.74, 0.03, 0.03, count=8), STEEL)
    for x in (-0.6 * wide, 0.0, 0.6 * wide):
        if abs(x - door) > 0.3:
            _window(pen, x, between(rng, 0.5, 0.56), 0.12, lit)
        if eaves < -0.12:
            _window(pen, x, eaves + 0.3, 0.1, lit)
    return word


def car(pen: Pen, rng: np.random.Generator) -> str:
    """A saloon, a van, a small round car or a pick-up, seen from the side."""
    word, body = pick_colour(rng, "red", "blue", "yellow", "white", "green", "black", "purple", "orange", "gray")
    form, glass = pick(rng, ("saloon", "saloon", "van", "round", "pickup")), tone(GLASS, int(rng.integers(70, 105)))
    if form == "saloon":
        pen.fill(smooth(shape((-0.6, 0.02), (-0.36, -0.38), (0.3, -0.4), (0.62, 0.02)), 3), body)
        pen.fill(shape((-0.5, 0), (-0.3, -0.32), (-0.04, -0.34), (-0.04, 0)), glass)
        pen.fill(shape((0.04, 0), (0.04, -0.34), (0.26, -0.33), (0.5, 0)), glass)
        pen.fill(smooth(shape((-1, 0.06), (-0.6, -0.04), (0.6, -0.04), (0.98, 0.06), (1, 0.38), (-1, 0.38)), 3), body)
    elif form == "van":
        pen.fill(smooth(shape((-1, 0.0), (-0.72, -0.5), (0.9, -0.54), (1, -0.4), (1, 0.38), (-1, 0.38)), 3), body)
        pen.fill(shape((-0.86, 0), (-0.66, -0.38), (-0.4, -0.38), (-0.4, 0)), glass)
        for x in (-0.3, 0.08, 0.46):
            pen.fill(box(x, -0.38, x + 0.3, -0.06), glass)
    elif form == "round":
        pen.fill(oval(0, 0.14, 0.72, 0.62, 180, 359.5, 18), body)
        pen.fill(oval(0, 0.04, 0.5, 0.4, 180, 359.5, 16), glass)
        pen.fill(box(-0.05, -0.4, 0.05, 0.1), body)
        pen.fill(
            smooth(shape((-0.96, 0.16), (-0.6, -0.02), (0.6, -0.02), (0.96, 0.16), (0.96, 0.4), (-0.96, 0.4))), body
        )
    else:
        pen.fill(shape((-0.5, 0.05), (-0.3, -0.4), (0.16, -0.4), (0.16, 0.05)), body)
        pen.fill(shape((-0.4, 0), (-0.24, -0.32), (0.08, -0.32), (0.08, 0)), glass)
        pen.fill(
            shape((-1, 0.06), (-0.5, -0.02), (0.16, -0.02), (0.16, 0.08), (0.96, 0.08), (0.96, 0.38), (-1, 0.38)), body
        )
    pen.fill(box(-0.98, 0.26, 0.98, 0.36), tone(body, 76))
    pen.fill(oval(-0.92, 0.12, 0.07, 0.08, count=10), (252, 240, 170))
    pen.fill(oval(0.93, 0.13, 0.05, 0.07, count=10), (214, 50, 46))
    wheel = between(rng, 0.2, 0.27)
    for x in (-0.56, 0.56):
        pen.fill(oval(x, 0.4, wheel, wheel, count=18), INK)
        pen.fill(oval(x, 0.4, wheel * 0.5, wheel * 0.5, count=12), STEEL)
    return word


def boat(pen: Pen, rng: np.random.Generator) -> str:
    """A sailing boat with one or two sails, or a motor boat with a cabin."""
    word, hull = pick_colour(rng, "red", "blue", "white", "green", "yellow", "brown", "black", "orange")
    deck = between(rng, 0.4, 0.5)
    if chance(rng, 0.68):
        sail = vary(rng, COLOURS[pick(rng, ("white", "white", "white", "red", "yellow", "orange", "pink"))], 10)
        mast = between(rng, -0.1, 0.15)
        pen.fill(box(mast - 0.04, -1, mast + 0.04, deck), BARK)
        pen.fill(
            smooth(
                shape((mast + 0.07, -0.94), (mast + 0.4, -0.3), (mast + 0.78, deck - 0.14), (mast + 0.07, deck - 0.1)),
                3,
            ),
            sail,
        )
        if chance(rng, 0.65):
            pen.fill(
                shape((mast - 0.08, -0.74), (mast - 0.08, deck - 0.12), (mast - 0.66, deck - 0.12)), tone(sail, 88)
            )
        if chance(rng, 0.4):
            pen.fill(shape((mast, -1), (mast + 0.26, -0.92), (mast, -0.84)), COLOURS["red"])
    else:
        cabin = vary(rng, COLOURS[pick(rng, ("white", "white", "yellow", "brown"))], 10)
        pen.fill(box(0.1, -0.36, 0.3, 0.1), vary(rng, COLOURS["red"]))
        pen.fill(box(0.1, -0.26, 0.3, -0.14), CREAM)
        pen.fill(shape((-0.42, deck), (-0.36, -0.02), (0.56, -0.02), (0.6, deck)), cabin)
        for x in (-0.22, 0.08, 0.38):
            pen.fill(oval(x, 0.2, 0.09, 0.09, count=12), GLASS)
    pen.fill(
        smooth(
            shape(
                (-1, deck - 0.02), (-0.5, deck + 0.03), (0.5, deck + 0.03), (1, deck - 0.08), (0.66, 0.92), (-0.6, 0.92)
            ),
            3,
        ),
        hull,
    )
    pen.fill(
        shape((-0.86, deck + 0.1), (0.88, deck + 0.06), (0.84, deck + 0.16), (-0.8, deck + 0.2)),
        tone(hull, 130 if word != "white" else 70),
    )
    return word


def balloon(pen: Pen, rng: np.random.Generator) -> str:
    """A toy balloon on a string, round or long; some carry stripes or a basket."""
    word, skin = pick_colour(rng, "red", "blue", "yellow", "green", "pink", "purple", "orange", "white")
    wide, tall = between(rng, 0.5, 0.64), between(rng, 0.62, 0.7)
    basket = chance(rng, 0.3)
    if basket:
        for x in (-0.16, 0.16):
            pen.stroke(shape((x * 1.8, 0.2), (x, 0.74)), 0.05, BARK)
        pen.fill(box(-0.2, 0.7, 0.2, 1), tone(BARK, 125))
    else:
        sway = between(rng, -0.2, 0.2)
        pen.stroke(shape((0, 0.4), (sway, 0.6), (-sway / 2, 0.8), (sway / 2, 1)), 0.06, tone(INK, 150))
    skin_shape = smooth(
        shape(
            (0, -1),
            (wide * 0.74, -0.84),
            (wide, -1 + tall),
            (wide * 0.6, 0.12),
            (0.08, 0.4),
            (-0.08, 0.4),
            (-wide * 0.6, 0.12),
            (-wide, -1 + tall),
            (-wide * 0.74, -0.84),
        )
    )
    pen.fill(skin_shape, skin)
    if basket or chance(rng, 0.2):
        stripe = vary(rng, COLOURS[pick(rng, tuple(c for c in ("white", "yellow", "red", "blue") if c != word))])
        for x in (-0.56, 0.0, 0.56):
            pen.fill(
                smooth(
                    shape(
                        (x * 0.3 * wide, -0.96),
                        ((x + 0.2) * wide, -0.4),
                        (x * 0.3 + 0.02, 0.3),
                        ((x - 0.2) * wide, -0.4),
                    )
                ),
                stripe,
            )
    else:
        pen.fill(oval(-wide * 0.42, -0.62, wide * 0.2, 0.2, count=14), tone(skin, 145))
    pen.fill(shape((-0.1, 0.48), (0.1, 0.48), (0, 0.34)), tone(skin, 74))
    return word
