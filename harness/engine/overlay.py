"""Images of results: indexed PNGs, and overlays with a legend."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from harness.data.vocabulary import Vocabulary

if TYPE_CHECKING:
    from harness.method.method import Evidence

OPACITY = 0.6
IGNORED = (224, 224, 192)
TEXT, PAPER = (20, 20, 20), (255, 255, 255)


def _palette(vocabulary: Vocabulary) -> np.ndarray:
    table = np.zeros((256, 3), dtype=np.uint8)
    table[: len(vocabulary)] = vocabulary.palette
    table[255] = IGNORED
    return table


def save_indexed(path: Path, labels: np.ndarray, vocabulary: Vocabulary) -> None:
    """Write a label map, [H, W] uint8, as an indexed PNG in the vocabulary's colours."""
    path.parent.mkdir(parents=True, exist_ok=True)
    image = Image.fromarray(labels).convert("P")
    image.putpalette(_palette(vocabulary).flatten().tolist())
    image.save(path)


def colourise(image: np.ndarray, labels: np.ndarray, vocabulary: Vocabulary) -> np.ndarray:
    """The image, [H, W, 3] uint8, blended with class colours; the background is unchanged."""
    colours = _palette(vocabulary)[labels]
    mixed = (1 - OPACITY) * image + OPACITY * colours
    masked = labels != 0 if vocabulary.background else np.ones_like(labels, dtype=bool)
    return np.where(masked[..., None], mixed + 0.5, image).astype(np.uint8)


def _legend(labels: list[np.ndarray], vocabulary: Vocabulary, width: int, size: int) -> Image.Image:
    """Colour and name of each class that occurs, wrapped to ``width`` pixels."""
    present = sorted({int(value) for each in labels for value in np.unique(each)} - {255})
    font = ImageFont.load_default(size)
    gap, row = size // 2, size + size // 2
    places: list[tuple[int, int, int]] = []
    x, y = gap, gap
    for index in present:
        wide = size + gap + int(font.getlength(vocabulary.names[index])) + 2 * gap
        if x + wide > width and x > gap:
            x, y = gap, y + row
        places.append((index, x, y))
        x += wide
    sheet = Image.new("RGB", (width, y + row), PAPER)
    draw = ImageDraw.Draw(sheet)
    for index, left, top in places:
        draw.rectangle((left, top, left + size, top + size), fill=vocabulary.palette[index], outline=TEXT)
        draw.text((left + size + gap, top + size), vocabulary.names[index], fill=TEXT, font=font, anchor="ls")
    return sheet


def _scale(image: np.ndarray) -> int:
    """The integer factor that enlarges small images, so that the legend stays readable."""
    return max(1, round(384 / max(image.shape[:2])))


def _panel(image: np.ndarray, scale: int, smooth: bool) -> Image.Image:
    size = (image.shape[1] * scale, image.shape[0] * scale)
    return Image.fromarray(image).resize(size, Image.Resampling.BILINEAR if smooth else Image.Resampling.NEAREST)


def save_comparison(path: Path, image: np.ndarray, maps: Mapping[str, np.ndarray], vocabulary: Vocabulary) -> None:
    """Write the image and its overlays side by side, titled, above a legend of the classes that occur.

    Args:
        path: A PNG to write.
        image: [H, W, 3] uint8 RGB.
        maps: Label maps by title, [h, w] uint8; resized (nearest) to the image where their size differs.
        vocabulary: Names and colours.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    scale = _scale(image)
    size = (image.shape[1], image.shape[0])
    fitted = {
        title: np.asarray(Image.fromarray(labels).resize(size, Image.Resampling.NEAREST))
        for title, labels in maps.items()
    }
    panels = {"image": _panel(image, scale, True)}
    panels |= {title: _panel(colourise(image, labels, vocabulary), scale, False) for title, labels in fitted.items()}
    text = max(12, min(20, size[0] * scale // 20))
    wide, high = panels["image"].size
    gap, head = text // 2, text * 2
    width = len(panels) * wide + (len(panels) - 1) * gap
    legend = _legend(list(maps.values()), vocabulary, width, text)
    sheet = Image.new("RGB", (width, head + high + legend.height), PAPER)
    draw = ImageDraw.Draw(sheet)
    font = ImageFont.load_default(text)
    for column, (title, panel) in enumerate(panels.items()):
        left = column * (wide + gap)
        draw.text((left + gap, head // 2), title, fill=TEXT, font=font, anchor="lm")
        sheet.paste(panel, (left, head))
    sheet.paste(legend, (0, head + high))
    sheet.save(path)


def save_explanation(
    path: Path, image: np.ndarray, labels: np.ndarray, evidence: Sequence["Evidence"], vocabulary: Vocabulary
) -> None:
    """Write the image, its segmentation, and one row per class with the regions that decided it.

    Args:
        path: A PNG to write.
        image: [H, W, 3] uint8 RGB.
        labels: [h, w] uint8, its segmentation.
        evidence: The regions that decided the classes.
        vocabulary: Names and colours.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    side, text, gap = 160, 13, 8
    font = ImageFont.load_default(text)
    fitted = np.asarray(Image.fromarray(labels).resize((image.shape[1], image.shape[0]), Image.Resampling.NEAREST))
    rows: list[tuple[str, list[tuple[str, np.ndarray]]]] = [
        ("", [("image", image), ("segmentation", colourise(image, fitted, vocabulary))])
    ]
    for label in sorted({each.label for each in evidence}):
        only = np.where((fitted == label)[..., None], image, image // 4)
        cells = [(vocabulary.names[label], only)]
        # The rest of a support image is darkened, so that the region stands out whatever its colours.
        shown = [each for each in evidence if each.label == label]
        cells += [(each.title, np.where(each.region[..., None], each.image, each.image // 4)) for each in shown]
        rows.append((vocabulary.names[label], cells))
    columns = max(len(cells) for _, cells in rows)
    cell = side + 2 * text + gap
    sheet = Image.new("RGB", (columns * (2 * side) + gap, len(rows) * cell + gap), PAPER)
    draw = ImageDraw.Draw(sheet)
    for row, (_, cells) in enumerate(rows):
        for column, (title, panel) in enumerate(cells):
            left, top = gap + column * 2 * side, gap + row * cell
            draw.text((left, top), _cut(title, font, 2 * side - gap), fill=TEXT, font=font)
            thumbnail = Image.fromarray(panel.astype(np.uint8))
            scale = min(side / thumbnail.height, (2 * side - gap) / thumbnail.width)
            size = (max(1, round(thumbnail.width * scale)), max(1, round(thumbnail.height * scale)))
            sheet.paste(thumbnail.resize(size, Image.Resampling.BILINEAR), (left, top + text + gap // 2))
    sheet.save(path)


def _cut(text: str, font: ImageFont.FreeTypeFont | ImageFont.ImageFont, width: int) -> str:
    """The text, cut with an ellipsis where it would be wider than ``width`` pixels."""
    if font.getlength(text) <= width:
        return text
    while text and font.getlength(text + "…") > width:
        text = text[:-1]
    return text + "…"
