"""Inspection of a benchmark on disk: every file is read and every label checked."""

import hashlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np

from harness.data.benchmark import IGNORE_LABEL, Benchmark, PreparedPart
from harness.data.protocol import FINGERPRINT_LENGTH
from harness.system.errors import DataError
from harness.system.parallel import parallel_map


class Problem(NamedTuple):
    """A problem of a benchmark on disk.

    Attributes:
        kind: ``missing``, ``unreadable``, ``size``, ``labels`` or ``count``.
        message: A sentence that names the file.
    """

    kind: str
    message: str


class ImageCheck(NamedTuple):
    """Result of checking one image and its label map.

    Attributes:
        problem: The first problem; None if there is none.
        pixels: Pixels per label value, including the ignored label.
        digest: SHA-256 over the image file and the decoded labels; empty if there is a problem.
    """

    problem: Problem | None
    pixels: Counter[int]
    digest: bytes


@dataclass
class Inspection:
    """Result of inspecting a benchmark.

    Attributes:
        folder: The benchmark's folder.
        num_images: Number of images on disk.
        problems: All problems, in the order of the images.
        pixels: Pixels per label value over all images.
        fingerprint: The data fingerprint in a run's results: over class names, and ids and sizes of files.
        pixel_fingerprint: 16 hex digits over all image files and all decoded labels; it does not depend on where the
            benchmark was prepared or how its label maps are compressed. None if a file has a problem.
    """

    folder: Path
    num_images: int = 0
    problems: list[Problem] = field(default_factory=list)
    pixels: Counter[int] = field(default_factory=Counter)
    fingerprint: str | None = None
    pixel_fingerprint: str | None = None


def inspect(benchmark: type[Benchmark], root: Path, workers: int) -> Inspection:
    """Check a benchmark's layout, number of images, every file and every label.

    Args:
        benchmark: The benchmark's class.
        root: Its folder, or a folder of data sets.
        workers: Number of processes.
    """
    inspection = Inspection(benchmark.locate(root) or root)
    inspection.problems += layout_problems(benchmark, root)
    if any(problem.kind == "missing" for problem in inspection.problems):
        return inspection
    data = benchmark(str(root))
    num_images, num_published = len(data.ids), benchmark.num_images_published
    inspection.num_images = num_images
    inspection.fingerprint = data.fingerprint
    if num_published is not None and num_images != num_published and num_images not in benchmark.other_splits:
        message = f"found {num_images} images, {num_published} are published ({benchmark.images_source})"
        inspection.problems.append(Problem("count", message))
    digest = hashlib.sha256()
    all_valid = True
    for check in parallel_map(partial(check_image, data), range(num_images), workers, benchmark.name, __name__):
        if check.problem is not None:
            inspection.problems.append(check.problem)
            all_valid = False
        inspection.pixels.update(check.pixels)
        digest.update(check.digest)
    inspection.pixel_fingerprint = digest.hexdigest()[:FINGERPRINT_LENGTH] if all_valid else None
    return inspection


def layout_problems(benchmark: type[Benchmark], root: Path) -> list[Problem]:
    """Missing folders and lists; the messages name where they are published."""
    folder = benchmark.locate(root)
    if folder is None:
        # The same message as in a run.
        try:
            benchmark.find_folder(root)
        except DataError as error:
            return [Problem("missing", str(error))]
    problems = []
    layout = benchmark.layout
    parts: Sequence[tuple[str, PreparedPart, str | None]] = (
        ("folder", "labels", layout.labels),
        ("list", "list", layout.ids),
    )
    for kind, part, path in parts:
        if folder is not None and path is not None and not (folder / path).exists():
            problems.append(
                Problem("missing", f"the {kind} {folder / path} is missing: {benchmark.describe_source(part)}")
            )
    if not problems and folder is not None:
        try:
            benchmark.find_ids(folder)
        except DataError as error:
            problems.append(Problem("missing", str(error)))
    return problems


def check_image(data: Benchmark, index: int) -> ImageCheck:
    """Read one image and its label map, and check their sizes and the label values."""
    image_path, label_path = data.image_path(index), data.label_path(index)
    try:
        image, labels = data.read(index)
        content = image_path.read_bytes()
    except (DataError, OSError) as error:
        kind = "unreadable" if image_path.is_file() and label_path.is_file() else "missing"
        return ImageCheck(Problem(kind, str(error)), Counter(), b"")
    if labels is None or labels.shape != image.shape[:2]:
        (height, width), (rows, columns) = image.shape[:2], (0, 0) if labels is None else labels.shape
        message = f"the label map {label_path} has {columns}x{rows} pixels, its image {width}x{height}"
        return ImageCheck(Problem("size", message), Counter(), b"")
    counts = np.bincount(labels.ravel(), minlength=256)
    pixels = Counter({int(value): int(counts[value]) for value in np.flatnonzero(counts)})
    num_classes = len(data.vocabulary)
    outside = [value for value in pixels if num_classes <= value != IGNORE_LABEL]
    if outside:
        # The value in the file, which the user can look up.
        value = int(np.flatnonzero(data.label_table == min(outside))[0])
        allowed = np.flatnonzero((data.label_table < num_classes) | (data.label_table == IGNORE_LABEL)).tolist()
        message = f"the label map {label_path} holds value {value}, but only {_format_ranges(allowed)} have a meaning"
        return ImageCheck(Problem("labels", message), pixels, b"")
    digest = hashlib.sha256(content + f"{labels.shape}".encode() + labels.tobytes()).digest()
    return ImageCheck(None, pixels, digest)


def _format_ranges(values: Sequence[int]) -> str:
    """Ascending integers as ranges, such as ``0-20, 255``."""
    ranges: list[list[int]] = []
    for value in values:
        if ranges and value == ranges[-1][1] + 1:
            ranges[-1][1] = value
        else:
            ranges.append([value, value])
    return ", ".join(str(first) if first == last else f"{first}-{last}" for first, last in ranges)
