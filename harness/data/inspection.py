"""Is a benchmark on disk what it should be? Every file is opened, every label looked at."""

import hashlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np

from harness.data.benchmark import IGNORED, Benchmark, Part
from harness.data.protocol import FINGERPRINT_LENGTH
from harness.system.errors import DataError
from harness.system.parallel import each


class Problem(NamedTuple):
    """Something wrong.

    Attributes:
        kind: ``missing``, ``unreadable``, ``size``, ``labels`` or ``count``.
        why: A sentence that names the file.
    """

    kind: str
    why: str


class Examined(NamedTuple):
    """What was seen of one picture.

    Attributes:
        problem: What is wrong with it, if anything.
        pixels: Pixels per label value, the ignored one among them.
        digest: SHA-256 over the picture's file and its decoded labels; empty when there is a problem.
    """

    problem: Problem | None
    pixels: Counter[int]
    digest: bytes


@dataclass
class Inspection:
    """What was found out about a benchmark.

    Attributes:
        folder: Where it is.
        pictures: How many pictures it has here.
        problems: What is wrong, in the order of the pictures.
        pixels: Pixels per label value over all pictures.
        fingerprint: The one that stands in a run's results: names, and ids and sizes of files.
        pixel_fingerprint: 16 hex digits over all files of pictures and all decoded labels; the same wherever the
            benchmark was prepared, however its label maps are compressed. None when a file is wrong.
    """

    folder: Path
    pictures: int = 0
    problems: list[Problem] = field(default_factory=list)
    pixels: Counter[int] = field(default_factory=Counter)
    fingerprint: str | None = None
    pixel_fingerprint: str | None = None


def inspect(benchmark: type[Benchmark], root: Path, workers: int) -> Inspection:
    """Look at a benchmark: layout, number of pictures, every file, every label.

    Args:
        benchmark: Which one.
        root: Its folder, or a folder of data sets.
        workers: Processes.
    """
    found = Inspection(benchmark.locate(root) or root)
    found.problems += layout_problems(benchmark, root)
    if any(problem.kind == "missing" for problem in found.problems):
        return found
    data = benchmark(str(root))
    found.pictures = len(data.ids)
    found.fingerprint = data.fingerprint
    if benchmark.published is not None and found.pictures != benchmark.published:
        why = f"{found.pictures} pictures are here, {benchmark.published} are published ({benchmark.images_from})"
        found.problems.append(Problem("count", why))
    digest = hashlib.sha256()
    whole = True
    for seen in each(partial(examine, data), range(found.pictures), workers, benchmark.name, __name__):
        if seen.problem is not None:
            found.problems.append(seen.problem)
            whole = False
        found.pixels.update(seen.pixels)
        digest.update(seen.digest)
    found.pixel_fingerprint = digest.hexdigest()[:FINGERPRINT_LENGTH] if whole else None
    return found


def layout_problems(benchmark: type[Benchmark], root: Path) -> list[Problem]:
    """Folders and lists that are missing, each with where it is published."""
    folder = benchmark.locate(root)
    if folder is None:
        # The sentence that a run would end with.
        try:
            benchmark.folder(root)
        except DataError as error:
            return [Problem("missing", str(error))]
    problems = []
    layout = benchmark.layout
    parts: Sequence[tuple[str, Part, str | None]] = (("folder", "labels", layout.labels), ("list", "list", layout.ids))
    for kind, part, path in parts:
        if folder is not None and path is not None and not (folder / path).exists():
            problems.append(Problem("missing", f"the {kind} {folder / path} is missing: {benchmark.origin(part)}"))
    if not problems and folder is not None:
        try:
            benchmark.find_ids(folder)
        except DataError as error:
            problems.append(Problem("missing", str(error)))
    return problems


def examine(data: Benchmark, index: int) -> Examined:
    """Read one picture and its label map, and look at the labels."""
    image_path, label_path = data.image_path(index), data.label_path(index)
    try:
        image, labels = data.read(index)
        content = image_path.read_bytes()
    except (DataError, OSError) as error:
        there = image_path.is_file() and label_path.is_file()
        return Examined(Problem("unreadable" if there else "missing", str(error)), Counter(), b"")
    if labels is None or labels.shape != image.shape[:2]:
        (height, width), (rows, columns) = image.shape[:2], (0, 0) if labels is None else labels.shape
        why = f"the label map {label_path} has {columns}x{rows} pixels, its picture {width}x{height}"
        return Examined(Problem("size", why), Counter(), b"")
    counts = np.bincount(labels.ravel(), minlength=256)
    pixels = Counter({int(value): int(counts[value]) for value in np.flatnonzero(counts)})
    classes = len(data.vocabulary)
    outside = [value for value in pixels if classes <= value != IGNORED]
    if outside:
        # As it stands in the file, where a person will look for it.
        value = int(np.flatnonzero(data.decode == min(outside))[0])
        allowed = np.flatnonzero((data.decode < classes) | (data.decode == IGNORED))
        spans = _spans([int(each) for each in allowed])
        why = f"the label map {label_path} holds value {value}, but only {spans} have a meaning"
        return Examined(Problem("labels", why), pixels, b"")
    digest = hashlib.sha256(content + f"{labels.shape}".encode() + labels.tobytes()).digest()
    return Examined(None, pixels, digest)


def _spans(values: Sequence[int]) -> str:
    """``0-20, 255`` for ascending numbers."""
    spans: list[list[int]] = []
    for value in values:
        if spans and value == spans[-1][1] + 1:
            spans[-1][1] = value
        else:
            spans.append([value, value])
    return ", ".join(str(first) if first == last else f"{first}-{last}" for first, last in spans)
