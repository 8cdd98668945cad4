"""Label maps made from others: tables of values, and the PNG that is written."""

import io
from collections.abc import Mapping
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from harness.data.benchmark import IGNORED, Source
from harness.data.images import read_labels
from harness.system.errors import ConfigurationError, DataError


def table(values: Mapping[int, int], rest: int = IGNORED) -> np.ndarray:
    """``[256]`` uint8: the new value of every old one; those not named become ``rest``."""
    made = np.full(256, rest, dtype=np.uint8)
    for old, new in values.items():
        made[old] = new
    return made


def encode(labels: np.ndarray) -> bytes:
    """A label map, HW uint8, as a grey PNG of 8 bits."""
    stream = io.BytesIO()
    Image.fromarray(labels).save(stream, format="PNG")
    return stream.getvalue()


def published(path: Path, source: Source) -> np.ndarray:
    """The values of a label map as its authors publish it, HW uint8.

    Raises:
        DataError: The file is missing or damaged; one that is missing is said with its source.
    """
    if not path.is_file():
        raise DataError(f"the label map {path} is missing: it is in {source}")
    return read_labels(path)


def translated(path: Path, source: Source, values: np.ndarray) -> bytes:
    """A published label map with its values looked up in ``values``, as PNG.

    Raises:
        DataError: See ``published``.
    """
    return encode(values[published(path, source)])


def pycocotools(module: str) -> Any:
    """A module of pycocotools.

    Raises:
        ConfigurationError: It is not installed.
    """
    try:
        return import_module(f"pycocotools.{module}")
    except ImportError:
        raise ConfigurationError("this needs pycocotools: pip install pycocotools") from None
