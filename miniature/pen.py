"""Drawing one object: shapes in its own unit coordinates, filled as polygons into a layer, shaded, then stamped.

Everything that decides a pixel is integer arithmetic or a sum and product of float64 (no libm, no BLAS, no FMA),
so a scene is the same on every machine.
"""

from __future__ import annotations

import math

import cv2
import numpy as np
from numpy.typing import NDArray

Points = NDArray[np.float64]
Colour = tuple[int, int, int]

SUBPIXEL_BITS = 4

# Rounded, because the last bit of a libm sine differs between machines.
_SINE = np.array([round(math.sin(math.radians(k / 2)), 6) for k in range(720)])


def sine(degrees: float) -> float:
    """Sine of an angle rounded to half a degree, from a table."""
    return float(_SINE[round(degrees * 2) % 720])


def cosine(degrees: float) -> float:
    """Cosine of an angle rounded to half a degree, from a table."""
    return sine(degrees + 90)


def oval(cx: float, cy: float, rx: float, ry: float, start: float = 0, stop: float = 360, count: int = 28) -> Points:
    """Points [count, 2] on an ellipse (or an arc of it; degrees, clockwise from the right, y pointing down)."""
    angles = [start + (stop - start) * k / count for k in range(count + (stop - start < 360))]
    return np.array([(cx + rx * cosine(a), cy + ry * sine(a)) for a in angles])


def box(left: float, top: float, right: float, bottom: float) -> Points:
    """The four corners [4, 2] of an upright rectangle."""
    return np.array([(left, top), (right, top), (right, bottom), (left, bottom)])


def shape(*points: tuple[float, float]) -> Points:
    """Corners [n, 2] given one by one."""
    return np.array(points, dtype=np.float64)


def smooth(control: Points, steps: int = 5) -> Points:
    """A closed Catmull-Rom curve [n * steps, 2] through the control points [n, 2]."""
    before, after, far = np.roll(control, 1, 0), np.roll(control, -1, 0), np.roll(control, -2, 0)
    parts = []
    for k in range(steps):
        t = k / steps
        parts.append(
            0.5
            * (
                2 * control
                + (after - before) * t
                + (2 * before - 5 * control + 4 * after - far) * (t * t)
                + (3 * control - before - 3 * after + far) * (t * t * t)
            )
        )
    return np.stack(parts, 1).reshape(-1, 2)


def vary(rng: np.random.Generator, colour: Colour, spread: int = 18) -> Colour:
    """The colour with every channel moved by at most `spread`."""
    r, g, b = (min(255, max(0, c + int(rng.integers(-spread, spread + 1)))) for c in colour)
    return (r, g, b)


def tone(colour: Colour, percent: int) -> Colour:
    """The colour made darker (percent < 100) or lighter (percent > 100)."""
    r, g, b = (min(255, c * percent // 100) for c in colour)
    return (r, g, b)


class Pen:
    """A layer for one object. Units: the object lives in about [-1, 1] x [-1, 1], x to the right, y downwards."""

    def __init__(
        self,
        canvas: tuple[int, int],
        centre: tuple[float, float],
        half: float,
        angle: float = 0.0,
        flip: bool = False,
        squeeze: float = 1.0,
    ) -> None:
        """
        Args:
            canvas: (height, width) of the image in pixels.
            centre: (x, y) of the object's origin in pixels.
            half: pixels per unit.
            angle: rotation in degrees, clockwise.
            flip: mirror left and right.
            squeeze: factor on the object's width.
        """
        reach = int(half * 1.7) + 3
        x, y = int(centre[0]), int(centre[1])
        self.top, self.left = max(0, y - reach), max(0, x - reach)
        self.bottom, self.right = min(canvas[0], y + reach), min(canvas[1], x + reach)
        height, width = max(0, self.bottom - self.top), max(0, self.right - self.left)
        self.ink = np.zeros((height, width, 3), np.uint8)
        self.mask = np.zeros((height, width), np.uint8)
        self.half = half
        self._offset = (centre[0] - self.left, centre[1] - self.top)
        self._across = half * squeeze * (-1 if flip else 1)
        self._turn = (cosine(angle), sine(angle))

    def _pixels(self, points: Points) -> NDArray[np.int32]:
        x, y = points[:, 0] * self._across, points[:, 1] * self.half
        c, s = self._turn
        placed = np.stack([x * c - y * s + self._offset[0], x * s + y * c + self._offset[1]], 1)
        return np.rint(placed * (1 << SUBPIXEL_BITS)).astype(np.int32)

    def fill(self, points: Points, colour: Colour) -> None:
        """Fill the polygon `points` [n, 2] with `colour`."""
        if self.mask.size:
            corners = [self._pixels(points)]
            cv2.fillPoly(self.ink, corners, colour, cv2.LINE_8, SUBPIXEL_BITS)
            cv2.fillPoly(self.mask, corners, (255,), cv2.LINE_8, SUBPIXEL_BITS)

    def stroke(self, points: Points, width: float, colour: Colour) -> None:
        """Draw the open polyline `points` [n, 2]; `width` in units, at least two pixels."""
        if self.mask.size:
            corners, pixels = [self._pixels(points)], max(2, round(width * self.half))
            cv2.polylines(self.ink, corners, False, colour, pixels, cv2.LINE_8, SUBPIXEL_BITS)
            cv2.polylines(self.mask, corners, False, (255,), pixels, cv2.LINE_8, SUBPIXEL_BITS)

    def grain(self, rng: np.random.Generator, amount: int) -> None:
        """Make the surface uneven: fur, leaves, peel; `amount` in grey levels."""
        coarse = rng.integers(0, 256, self.mask.shape, dtype=np.uint8)
        field = cv2.blur(coarse, (3, 3)).astype(np.int16) - 127
        self.ink = np.clip(self.ink.astype(np.int16) + (field * amount // 48)[..., None], 0, 255).astype(np.uint8)

    def light(self, across: int, down: int, outline: int) -> None:
        """Shade from one side to the other (256ths of brightness per unit) and darken the rim (percent kept)."""
        height, width = self.mask.shape
        unit = max(1, round(self.half))
        x = (np.arange(width, dtype=np.int32) - int(self._offset[0])) * across // unit
        y = (np.arange(height, dtype=np.int32) - int(self._offset[1])) * down // unit
        gain = np.clip(256 + x[None, :] + y[:, None], 150, 350)
        if outline < 100 and self.mask.size:
            rim = (
                cv2.erode(self.mask, np.ones((3, 3), np.uint8), borderType=cv2.BORDER_CONSTANT, borderValue=(255,)) == 0
            )
            gain = np.where(rim, gain * outline // 100, gain)
        self.ink = np.minimum((self.ink * gain[..., None]) >> 8, 255).astype(np.uint8)

    def stamp(self, image: NDArray[np.uint8], labels: NDArray[np.uint8], label: int) -> None:
        """Composite the object onto the image: `image` [H, W, 3] and `labels` [H, W] change in place."""
        window = (slice(self.top, self.bottom), slice(self.left, self.right))
        np.copyto(image[window], self.ink, where=self.mask[..., None] > 0)
        labels[window][self.mask > 0] = label
