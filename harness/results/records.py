"""Records: one line of JSON per finished image, flushed at once, so that a resumed run repeats no image."""

import json
import os
import zlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness.results.metric import Areas
from harness.system.errors import RunError

RECORDS = "records"


@dataclass(frozen=True)
class Record:
    """One image's result.

    Attributes:
        index: The image's index in the data set.
        id: The image's name in the data set.
        seconds: Wall time of prediction and scoring; 0 if skipped.
        classes: Indices of the classes that are labelled or predicted in the image, ascending.
        intersection: Pixels labelled and predicted as the class, per class of ``classes``.
        prediction: Scored pixels predicted as the class, per class of ``classes``.
        label: Pixels labelled as the class, per class of ``classes``.
        skipped: Why the image could not be read; None if it was scored.
    """

    index: int
    id: str
    seconds: float = 0.0
    classes: tuple[int, ...] = ()
    intersection: tuple[int, ...] = ()
    prediction: tuple[int, ...] = ()
    label: tuple[int, ...] = ()
    skipped: str | None = None

    @classmethod
    def of(cls, index: int, id: str, areas: Areas, seconds: float) -> "Record":
        """The record of an image with these areas; classes without pixels are left out."""
        classes = tuple(c for c, (p, g) in enumerate(zip(areas.prediction, areas.label, strict=True)) if p or g)
        intersection, prediction, label = (
            tuple(row[c] for c in classes) for row in (areas.intersection, areas.prediction, areas.label)
        )
        return cls(index, id, seconds, classes, intersection, prediction, label)

    def areas(self, num_classes: int) -> Areas:
        """The areas of all ``num_classes`` classes of the vocabulary."""
        rows = []
        for values in (self.intersection, self.prediction, self.label):
            row = [0] * num_classes
            for index, value in zip(self.classes, values, strict=True):
                row[index] = value
            rows.append(tuple(row))
        return Areas(*rows)

    @property
    def result(self) -> tuple[object, ...]:
        """Everything but the time: equal whenever the same image is evaluated again."""
        return (self.index, self.id, self.classes, self.intersection, self.prediction, self.label, self.skipped)

    def to_json(self) -> str:
        """One line of JSON without the newline, with a checksum of the other fields."""
        return _line({**self.__dict__, "checksum": _checksum(self.__dict__)})

    @classmethod
    def from_json(cls, line: str) -> "Record":
        """Parse a line of ``to_json``.

        Raises:
            ValueError: The line is not a record, or its checksum differs.
        """
        fields = json.loads(line)
        if not isinstance(fields, dict) or fields.keys() != {*cls.__dataclass_fields__, "checksum"}:
            raise ValueError("not a record")
        if fields.pop("checksum") != _checksum(fields):
            raise ValueError("a corrupt record")
        values: dict[str, Any] = {
            key: tuple(value) if isinstance(value, list) else value for key, value in fields.items()
        }
        return cls(**values)


def _line(fields: dict[str, Any]) -> str:
    # ASCII, since file names need not be UTF-8.
    return json.dumps(fields, separators=(",", ":"))


def _checksum(fields: dict[str, Any]) -> str:
    return f"{zlib.crc32(_line(fields).encode()):08x}"


class RecordWriter:
    """Appends records to a file; a written record survives a killed process, a synced one also a power failure.

    Args:
        path: A file that no other process writes to.
    """

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self._stream = path.open("a", encoding="utf-8")

    def write(self, record: Record, sync: bool = True) -> None:
        """Write one record; with ``sync``, wait until it is on disk."""
        self._stream.write(record.to_json() + "\n")
        self._stream.flush()
        if sync:
            self.sync()

    def sync(self) -> None:
        """Wait until all records are on disk."""
        os.fsync(self._stream.fileno())

    def close(self) -> None:
        """Close the file."""
        self._stream.close()


def read_lines(path: Path) -> list[Record]:
    """The valid records of a file; truncated or corrupt lines are left out, so their images count as not done."""
    records = []
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
        try:
            records.append(Record.from_json(line))
        except (ValueError, TypeError):
            continue
    return records


def merge(groups: Iterable[Sequence[Record]]) -> list[Record]:
    """All records, one per image, ordered by index; an image that was skipped once and scored later is scored.

    Raises:
        RunError: An image has two different results.
    """
    merged: dict[int, Record] = {}
    for record in (record for group in groups for record in group):
        first = merged.setdefault(record.index, record)
        if (first.skipped is None) != (record.skipped is None) and first.id == record.id:
            merged[record.index] = first if first.skipped is None else record
        elif first.result != record.result:
            raise RunError(f"image '{record.id}' has two different results in the same run; start a new --run_dir")
    return [merged[index] for index in sorted(merged)]
