"""A contact sheet of scenes and their label maps."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from miniature.world import Scene, scene

# One colour per class for label maps, RGB: things strong, stuff pale.
PALETTE: tuple[tuple[int, int, int], ...] = (
    (220, 50, 47),
    (250, 210, 50),
    (20, 120, 50),
    (150, 75, 20),
    (120, 60, 180),
    (20, 60, 160),
    (250, 130, 30),
    (255, 235, 130),
    (230, 80, 170),
    (60, 60, 60),
    (0, 170, 170),
    (140, 20, 60),
    (180, 215, 245),
    (170, 215, 150),
    (110, 160, 215),
    (235, 215, 170),
    (185, 185, 185),
)


def fit(image: NDArray[np.uint8], height: int, width: int) -> NDArray[np.uint8]:
    """The image inside a white cell [height, width, 3], as large as it fits and in the middle."""
    scale = min(height / image.shape[0], width / image.shape[1])
    size = (round(image.shape[1] * scale), round(image.shape[0] * scale))
    small = cv2.resize(image, size, interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_CUBIC)
    cell = np.full((height, width, 3), 255, np.uint8)
    top, left = (height - size[1]) // 2, (width - size[0]) // 2
    cell[top : top + size[1], left : left + size[0]] = small
    return cell


def draw(
    scenes: list[Scene], columns: int = 7, cell: tuple[int, int] = (84, 120), labels: bool = False
) -> NDArray[np.uint8]:
    """A grid of scenes, uint8 [H, W, 3]; with `labels`, each row is followed by its label maps."""
    palette = np.array(PALETTE, np.uint8)
    rows = []
    for start in range(0, len(scenes), columns):
        part = scenes[start : start + columns]
        images = [[one.image for one in part]] + ([[palette[one.labels] for one in part]] if labels else [])
        for row in images:
            cells = [np.pad(fit(image, *cell), ((2, 2), (2, 2), (0, 0)), constant_values=255) for image in row]
            cells += [np.full_like(cells[0], 255)] * (columns - len(cells))
            rows.append(np.concatenate(cells, 1))
    return np.concatenate(rows)


def write(path: Path, count: int = 28, labels: bool = False) -> None:
    """Write a sheet of the first scenes of the validation split as a PNG."""
    path.parent.mkdir(parents=True, exist_ok=True)
    sheet = Image.fromarray(draw([scene("val", index) for index in range(count)], labels=labels))
    sheet.save(path, optimize=True)
