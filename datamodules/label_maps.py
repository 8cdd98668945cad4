"""Conversion of label maps: look-up tables, published maps, PNG encoding."""

import io
from collections.abc import Mapping
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from harness.data.benchmark import IGNORE_LABEL, Source
from harness.data.images import read_labels
from harness.system.errors import ConfigurationError, DataError


def lookup_table(values: Mapping[int, int], rest: int = IGNORE_LABEL) -> np.ndarray:
    """[256] uint8 look-up table of ``values`` (old -> new); all other old values become ``rest``."""
    table = np.full(256, rest, dtype=np.uint8)
    for old, new in values.items():
        table[old] = new
    return table


def encode_png(labels: np.ndarray) -> bytes:
    """A label map, HW uint8, as an 8-bit grey PNG."""
    stream = io.BytesIO()
    Image.fromarray(labels).save(stream, format="PNG")
    return stream.getvalue()


def read_published_labels(path: Path, source: Source) -> np.ndarray:
    """Read the values of a published label map, HW uint8.

    Raises:
        DataError: The file is missing (the message names its source) or corrupt.
    """
    if not path.is_file():
        raise DataError(f"the label map {path} is missing: it is in {source}")
    return read_labels(path)


def remap_labels(path: Path, source: Source, table: np.ndarray) -> bytes:
    """A published label map with its values looked up in ``table``, as PNG.

    Raises:
        DataError: The file is missing or corrupt.
    """
    return encode_png(table[read_published_labels(path, source)])


def pycocotools(module: str) -> Any:
    """Import a module of pycocotools.

    Raises:
        ConfigurationError: It is not installed.
    """
    try:
        return import_module(f"pycocotools.{module}")
    except ImportError:
        raise ConfigurationError("this needs pycocotools: pip install pycocotools") from None
