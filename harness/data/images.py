"""Reading of images and label maps, with errors that name the file."""

from pathlib import Path

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from harness.system.errors import DataError

EXTENSIONS = frozenset({".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff"})


def read_image(path: Path) -> np.ndarray:
    """Read an image with its EXIF orientation applied, [H, W, 3] uint8 RGB in [0, 255].

    Raises:
        DataError: The file is missing or corrupt.
    """
    try:
        with Image.open(path) as file:
            return np.array(ImageOps.exif_transpose(file).convert("RGB"))
    except FileNotFoundError:
        raise DataError(f"the image {path} is missing") from None
    except (OSError, UnidentifiedImageError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise DataError(f"the image {path} is damaged or not an image: {error}") from error


def read_labels(path: Path) -> np.ndarray:
    """Read the label values of an indexed, 8-bit grey or 16-bit grey PNG, [H, W] uint8.

    Raises:
        DataError: The file is missing, corrupt, a colour image, or holds values over 255.
    """
    try:
        with Image.open(path) as file:
            if file.mode not in ("P", "L", "1", "I", "I;16", "I;16B"):
                raise DataError(f"the label map {path} is a {file.mode} image, not an indexed or grey one")
            values = np.array(file)
    except FileNotFoundError:
        raise DataError(f"the label map {path} is missing") from None
    except (OSError, UnidentifiedImageError, ValueError, SyntaxError) as error:
        raise DataError(f"the label map {path} is damaged or not an image: {error}") from error
    if values.max(initial=0) > 255:
        raise DataError(f"the label map {path} holds label {values.max()}, but labels end at 255")
    return values.astype(np.uint8)
