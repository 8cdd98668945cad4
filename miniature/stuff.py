"""The five kinds of stuff as textures, and the layouts in which they meet."""

from __future__ import annotations

from collections.abc import Callable

import cv2
import numpy as np
from numpy.typing import NDArray

from miniature.palette import between, chance, pick
from miniature.pen import Colour, vary

Picture = NDArray[np.uint8]
Field = NDArray[np.int16]

STUFF: tuple[str, ...] = ("sky", "grass", "water", "sand", "road")

# Which stuff a layout holds, from top to bottom, and how often it is drawn.
LAYOUTS: dict[tuple[str, ...], int] = {
    ("sky", "grass"): 7,
    ("sky", "water"): 5,
    ("sky", "sand"): 2,
    ("sky", "water", "sand"): 4,
    ("sky", "grass", "water"): 3,
    ("sky", "grass", "road"): 5,
    ("sky", "road"): 2,
    ("sky",): 2,
    ("grass",): 3,
    ("water",): 3,
    ("sand",): 2,
    ("road",): 2,
    ("water", "sand"): 2,
    ("grass", "road"): 2,
    ("grass", "water"): 1,
}


def _noise(rng: np.random.Generator, height: int, width: int, tall: int, wide: int) -> Field:
    """Smooth noise int16 [height, width] in 0..255; one random value every `tall` x `wide` pixels."""
    grid = rng.integers(0, 256, (height // tall + 2, width // wide + 2), dtype=np.uint8)
    # The exact variant rounds in the same way on every machine.
    grown = cv2.resize(grid, (grid.shape[1] * wide, grid.shape[0] * tall), interpolation=cv2.INTER_LINEAR_EXACT)
    return grown[tall // 2 : tall // 2 + height, wide // 2 : wide // 2 + width].astype(np.int16)


def _mix(first: Colour, second: Colour, share: Field) -> Picture:
    """From the first colour (share 0) to the second (share 255), uint8 [H, W, 3]."""
    steps = np.arange(256, dtype=np.int32)[:, None]
    ramp = (np.array(first) * (255 - steps) + np.array(second) * steps) // 255
    return ramp.astype(np.uint8)[np.clip(share, 0, 255)]


def _rows(height: int) -> NDArray[np.int16]:
    """0 at the top row to 255 at the bottom row, int16 [height, 1]."""
    return (np.arange(height, dtype=np.int32) * 255 // max(1, height - 1)).astype(np.int16)[:, None]


def sky(rng: np.random.Generator, height: int, width: int) -> tuple[str, Picture]:
    """A gradient, often with clouds."""
    word, top, low = pick(
        rng,
        (
            ("blue", (66, 128, 214), (176, 212, 240)),
            ("blue", (88, 152, 224), (206, 228, 244)),
            ("blue", (40, 92, 176), (132, 186, 230)),
            ("pink", (150, 140, 206), (246, 190, 180)),
            ("orange", (206, 130, 96), (250, 206, 140)),
            ("gray", (150, 158, 168), (204, 208, 212)),
        ),
    )
    image = _mix(vary(rng, top, 14), vary(rng, low, 12), np.broadcast_to(_rows(height), (height, width)))
    if chance(rng, 0.7):
        cloud = (
            _noise(rng, height, width, 28, 52) * 4
            + _noise(rng, height, width, 12, 22) * 3
            + _noise(rng, height, width, 5, 9)
        ) // 8
        share = np.clip((cloud - int(rng.integers(126, 160))) * 5, 0, 225)
        white = np.array(pick(rng, ((252, 252, 252), (250, 244, 238), (232, 234, 238))), np.int16)
        image = (image + (white - image.astype(np.int16)) * share[..., None].astype(np.int32) // 255).astype(np.uint8)
    return word, image


def grass(rng: np.random.Generator, height: int, width: int) -> tuple[str, Picture]:
    """Upright blades over lighter and darker patches."""
    word, dark, light = pick(
        rng,
        (
            ("green", (42, 104, 36), (110, 176, 70)),
            ("green", (58, 126, 48), (142, 196, 84)),
            ("green", (34, 86, 44), (88, 146, 72)),
            ("yellow", (128, 132, 52), (206, 196, 98)),
            ("brown", (104, 98, 50), (170, 150, 86)),
        ),
    )
    share = (
        _noise(rng, height, width, 7, 2) * 5 + _noise(rng, height, width, 30, 40) * 2 + _noise(rng, height, width, 3, 2)
    ) // 8
    return word, _mix(vary(rng, dark, 10), vary(rng, light, 12), share)


def water(rng: np.random.Generator, height: int, width: int) -> tuple[str, Picture]:
    """Waves that run across, with a few glints."""
    word, dark, light = pick(
        rng,
        (
            ("blue", (24, 74, 148), (74, 142, 206)),
            ("blue", (34, 100, 170), (110, 176, 222)),
            ("blue", (20, 52, 104), (62, 104, 160)),
            ("green", (26, 112, 118), (92, 186, 176)),
            ("gray", (84, 104, 122), (150, 168, 180)),
        ),
    )
    period, sway = int(rng.integers(9, 17)), _noise(rng, height, width, 14, 34)
    phase = (np.arange(height, dtype=np.int16)[:, None] * (512 // period) + sway * 2) % 512
    waves = np.abs(phase - 256)
    share = (waves * 3 + _noise(rng, height, width, 3, 16) * 3 + sway * 2) // 8
    image = _mix(vary(rng, dark, 10), vary(rng, light, 12), share)
    glint = _noise(rng, height, width, 2, 9) > 246
    image[glint] = np.minimum(image[glint].astype(np.int16) + 60, 255).astype(np.uint8)
    return word, image


def sand(rng: np.random.Generator, height: int, width: int) -> tuple[str, Picture]:
    """Fine grains over soft dunes."""
    word, dark, light = pick(
        rng,
        (
            ("yellow", (206, 178, 122), (240, 218, 168)),
            ("yellow", (214, 190, 140), (246, 230, 188)),
            ("white", (208, 200, 184), (244, 240, 228)),
            ("brown", (164, 128, 84), (206, 170, 122)),
            ("orange", (196, 134, 86), (232, 178, 126)),
        ),
    )
    share = (
        _noise(rng, height, width, 1, 1) * 3 + _noise(rng, height, width, 16, 44) * 4 + _noise(rng, height, width, 4, 6)
    ) // 8
    return word, _mix(vary(rng, dark, 8), vary(rng, light, 8), share)


def road(rng: np.random.Generator, height: int, width: int) -> tuple[str, Picture]:
    """Speckled tarmac, without its markings."""
    word, dark, light = pick(
        rng,
        (
            ("gray", (84, 84, 90), (128, 128, 132)),
            ("gray", (108, 108, 110), (158, 156, 154)),
            ("black", (52, 52, 58), (92, 92, 96)),
            ("brown", (110, 96, 84), (156, 140, 122)),
        ),
    )
    share = (
        _noise(rng, height, width, 2, 2) * 3
        + _noise(rng, height, width, 1, 1) * 2
        + _noise(rng, height, width, 24, 60) * 3
    ) // 8
    return word, _mix(vary(rng, dark, 8), vary(rng, light, 8), share)


TEXTURES: dict[str, Callable[[np.random.Generator, int, int], tuple[str, Picture]]] = {
    "sky": sky,
    "grass": grass,
    "water": water,
    "sand": sand,
    "road": road,
}


def _edge(rng: np.random.Generator, width: int, level: int, swing: int) -> NDArray[np.int32]:
    """The row at which a lower stuff begins, per column, int32 [width]."""
    hills = _noise(rng, 1, width, 1, 48)[0].astype(np.int32) - 128
    return (
        level + hills * swing // 128 + (np.arange(width) - width // 2) * int(rng.integers(-swing, swing + 1)) // width
    )


def _markings(rng: np.random.Generator, image: Picture, area: NDArray[np.bool_], top: int, bottom: int) -> None:
    """A dashed line, sometimes with solid edges, along a road that runs across."""
    marking: Colour = pick(rng, ((236, 234, 226), (236, 234, 226), (232, 196, 84)))
    width, middle = image.shape[1], (top + bottom) // 2
    thick, dash = max(2, (bottom - top) // 26), int(rng.integers(14, 30))
    line = np.zeros(image.shape[:2], bool)
    along = (np.arange(width) + int(rng.integers(dash))) // dash % 2 == 0
    line[max(0, middle - thick // 2) : middle + (thick + 1) // 2] = along
    if chance(rng, 0.4):
        rim = max(2, (bottom - top) // 10)
        line[top + rim : top + rim + thick] = True
        line[bottom - rim - thick : bottom - rim] = True
    image[line & area] = marking


def _avenue(rng: np.random.Generator, image: Picture, labels: Picture, top: int, bottom: int, label: int) -> str:
    """A road that runs away from the eye, drawn over the existing image, with a dashed middle line."""
    height, width = labels.shape
    word, tarmac = road(rng, height, width)
    far, near = width * between(rng, 0.3, 0.7), width * between(rng, 0.35, 0.65)
    narrow, broad = width * between(rng, 0.02, 0.05), width * between(rng, 0.3, 0.5)
    area = np.zeros((height, width), np.uint8)
    outline = np.array([(far - narrow, top), (far + narrow, top), (near + broad, bottom), (near - broad, bottom)])
    cv2.fillPoly(area, [np.rint(outline).astype(np.int32)], (1,))
    np.copyto(image, tarmac, where=area[..., None] > 0)
    labels[area > 0] = label
    marking: Colour = pick(rng, ((236, 234, 226), (232, 196, 84)))
    for start, stop in ((0.08, 0.16), (0.24, 0.36), (0.48, 0.66), (0.8, 1.0)):
        corners = []
        for t, side in ((start, -1), (start, 1), (stop, 1), (stop, -1)):
            half = (narrow + (broad - narrow) * t) * 0.07
            corners.append((far + (near - far) * t + side * half, top + (bottom - top) * t))
        cv2.fillPoly(image, [np.rint(np.array(corners)).astype(np.int32)], marking)
    return word


def backdrop(
    rng: np.random.Generator, height: int, width: int, layout: tuple[str, ...], first_label: int
) -> tuple[Picture, Picture, dict[str, str]]:
    """Draw the stuff of a layout.

    Args:
        rng: the scene's source of randomness.
        height: rows of the canvas.
        width: columns of the canvas.
        layout: stuff from top to bottom, a key of LAYOUTS.
        first_label: label of STUFF[0].

    Returns:
        Image uint8 [H, W, 3], labels uint8 [H, W], and the colour word of each stuff.
    """
    words, labels = {}, np.full((height, width), first_label + STUFF.index(layout[0]), np.uint8)
    words[layout[0]], image = TEXTURES[layout[0]](rng, height, width)
    image = np.ascontiguousarray(image)
    rows, level, horizon = np.arange(height, dtype=np.int32)[:, None], 0, 0
    away = layout[-1] == "road" and len(layout) > 1 and layout[-2] == "grass" and chance(rng, 0.4)
    for position, name in enumerate(layout[1:], 1):
        left = height - level
        level += round(left * between(rng, 0.3, 0.62) if position == 1 else left * between(rng, 0.25, 0.6))
        if name == "road" and away:
            words[name] = _avenue(rng, image, labels, horizon, height, first_label + STUFF.index(name))
            break
        horizon = level
        swing = {"water": 0, "road": 1, "sand": 5, "grass": 9}[name] + (
            4 if layout[position - 1] in ("grass", "sand") else 0
        )
        words[name], texture = TEXTURES[name](rng, height, width)
        edge = _edge(rng, width, level, swing)
        area = rows >= edge[None, :]
        if name == "road" and chance(rng, 0.35):
            area &= rows < level + (height - level) * 3 // 4
        np.copyto(image, texture, where=area[..., None])
        labels[area] = first_label + STUFF.index(name)
        if name == "road":
            under = np.flatnonzero(area[:, width // 2])
            _markings(rng, image, area, level, int(under[-1]) if under.size else height)
    if layout == ("road",) and chance(rng, 0.6):
        _markings(rng, image, np.ones((height, width), bool), 0, height)
    return image, labels, words
