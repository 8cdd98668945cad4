"""Records: one line of JSON for every finished image, flushed at once, so that nothing done is ever done again."""

import json
import os
import zlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness.results.metric import Areas
from harness.system.errors import RunError

FOLDER = "records"


@dataclass(frozen=True)
class Record:
    """One image's result.

    Attributes:
        index: Its place in the data set.
        id: Its name in the data set.
        seconds: Wall time of its prediction and scoring; 0 when skipped.
        classes: The class indices that are labelled or predicted in it, ascending.
        intersection: Pixels per class of ``classes``, see ``Areas``.
        prediction: Likewise.
        label: Likewise.
        skipped: Why the image could not be read, if it was skipped.
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
        """The record of an image with these areas; classes without a pixel are left out."""
        classes = tuple(c for c, (p, g) in enumerate(zip(areas.prediction, areas.label, strict=True)) if p or g)
        intersection, prediction, label = (
            tuple(row[c] for c in classes) for row in (areas.intersection, areas.prediction, areas.label)
        )
        return cls(index, id, seconds, classes, intersection, prediction, label)

    def areas(self, count: int) -> Areas:
        """The areas over all ``count`` classes of the vocabulary."""
        rows = []
        for values in (self.intersection, self.prediction, self.label):
            row = [0] * count
            for index, value in zip(self.classes, values, strict=True):
                row[index] = value
            rows.append(tuple(row))
        return Areas(*rows)

    @property
    def result(self) -> tuple[object, ...]:
        """All that must be equal when the same image is evaluated again, that is, everything but the time."""
        return (self.index, self.id, self.classes, self.intersection, self.prediction, self.label, self.skipped)

    def to_json(self) -> str:
        """One line of JSON, without the newline, with a checksum of the rest."""
        return _line({**self.__dict__, "checksum": _checksum(self.__dict__)})

    @classmethod
    def from_json(cls, line: str) -> "Record":
        """Read what ``to_json`` wrote.

        Raises:
            ValueError: The line is not a record, or not as it was written.
        """
        fields = json.loads(line)
        if not isinstance(fields, dict) or fields.keys() != {*cls.__dataclass_fields__, "checksum"}:
            raise ValueError("not a record")
        if fields.pop("checksum") != _checksum(fields):
            raise ValueError("a damaged record")
        values: dict[str, Any] = {
            key: tuple(value) if isinstance(value, list) else value for key, value in fields.items()
        }
        return cls(**values)


def _line(fields: dict[str, Any]) -> str:
    # ASCII, since a file name need not be UTF-8.
    return json.dumps(fields, separators=(",", ":"))


def _checksum(fields: dict[str, Any]) -> str:
    return f"{zlib.crc32(_line(fields).encode()):08x}"


class RecordWriter:
    """Appends records to a file of its own; a written record outlives the process, a synced one the machine, too.

    Args:
        path: A file that no other process writes.
    """

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self._stream = path.open("a", encoding="utf-8")

    def write(self, record: Record, sync: bool = True) -> None:
        """Write one record and, unless told otherwise, wait until the disk has it."""
        self._stream.write(record.to_json() + "\n")
        self._stream.flush()
        if sync:
            self.sync()

    def sync(self) -> None:
        """Wait until the disk has all records."""
        os.fsync(self._stream.fileno())

    def close(self) -> None:
        """Close the file."""
        self._stream.close()


def read_lines(path: Path) -> list[Record]:
    """The whole records of a file; a last line cut short by a kill, or a damaged one, counts as not done."""
    records = []
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
        try:
            records.append(Record.from_json(line))
        except (ValueError, TypeError):
            continue
    return records


def merge(groups: Iterable[Sequence[Record]]) -> list[Record]:
    """All records, each image once, by index.

    Raises:
        RunError: One image has two results that differ.
    """
    merged: dict[int, Record] = {}
    for record in (record for group in groups for record in group):
        known = merged.setdefault(record.index, record)
        if known.result != record.result:
            raise RunError(f"image '{record.id}' has two different results in the same run; start a new --run_dir")
    return [merged[index] for index in sorted(merged)]
