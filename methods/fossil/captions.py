"""Captions, read as a stream, and their shards: what is made of a few dozen captions at once is one entry."""

import hashlib
import json
from array import array
from collections.abc import Iterable, Iterator
from importlib import import_module
from itertools import islice
from pathlib import Path
from tempfile import TemporaryFile
from typing import IO, Any, NamedTuple

from harness.method.part import Part, Requirement, required_file
from harness.system.errors import ConfigurationError, DataError


class Caption(NamedTuple):
    """One caption.

    Attributes:
        id: Its number in its file, which stays when others are appended: the annotation's ``id`` in COCO's JSON, the
            line, counted from 1, in a text file.
        text: Its words, single spaces between them.
    """

    id: int
    text: str


class Captions(Part):
    """A file of captions: a text file with one a line, or COCO Captions' JSON as published (``annotations``).

    Iterating reads the file from its beginning; no more than one caption is held. Empty captions are left out.

    Args:
        path: The file; JSON if its name ends in ``.json``.
        limit: Take no more than the first so many.

    Raises:
        ConfigurationError: The limit is not positive.
    """

    not_identity = frozenset({"path"})

    def __init__(self, path: str | Path, limit: int | None = None) -> None:
        super().__init__()
        if limit is not None and limit < 1:
            raise ConfigurationError(f"captions: limit must be at least 1, not {limit}")
        self.path = Path(path)
        self.limit = limit

    def requirements(self, flag: str) -> Iterable[Requirement]:
        """See ``Part.requirements``."""
        yield required_file(self.arguments["path"], f"{flag}.path")

    def __iter__(self) -> Iterator[Caption]:
        """The captions, in the file's order.

        Raises:
            DataError: The file is missing or damaged, or has no captions.
        """
        read = self._annotations if self.path.suffix.lower() == ".json" else self._lines
        found = False
        for caption in islice(_tidy(read()), self.limit):
            found = True
            yield caption
        if not found:
            raise DataError(f"the file '{self.path}' has no captions")

    def _lines(self) -> Iterator[Caption]:
        try:
            with self.path.open(encoding="utf-8-sig") as lines:
                for number, line in enumerate(lines, start=1):
                    yield Caption(number, line)
        except OSError as error:
            raise DataError(f"the captions '{self.path}' cannot be read: {error.strerror}") from error
        except UnicodeDecodeError as error:
            raise DataError(f"the captions '{self.path}' are not text in UTF-8: {error}") from error

    def _annotations(self) -> Iterator[Caption]:
        ijson: Any = import_module("ijson")  # it has no type hints
        try:
            with self.path.open("rb") as content:
                for number, entry in enumerate(ijson.items(content, "annotations.item")):
                    yield self._annotation(number, entry)
        except OSError as error:
            raise DataError(f"the captions '{self.path}' cannot be read: {error.strerror}") from error
        except (ijson.JSONError, UnicodeDecodeError) as error:
            raise DataError(f"the captions '{self.path}' are not sound JSON: {' '.join(str(error).split())}") from error

    def _annotation(self, number: int, entry: Any) -> Caption:
        name, text = (entry.get("id"), entry.get("caption")) if isinstance(entry, dict) else (None, None)
        if type(name) is not int or name < 0 or not isinstance(text, str):
            raise DataError(f"annotation {number} of '{self.path}' has no numeric 'id' or no 'caption' that is text")
        return Caption(name, text)


def _tidy(captions: Iterable[Caption]) -> Iterator[Caption]:
    for caption in captions:
        text = " ".join(caption.text.split())
        if text:
            yield Caption(caption.id, text)


def fingerprint(captions: Iterable[Caption]) -> str:
    """64 hex digits of the SHA-256 over ids and texts, in their order."""
    digest = hashlib.sha256()
    for caption in captions:
        digest.update(_line(caption))
    return digest.hexdigest()


def _line(caption: Caption) -> bytes:
    return json.dumps(caption, ensure_ascii=False).encode("utf-8", "surrogatepass") + b"\n"


class CaptionShards:
    """Captions in shards of consecutive ones.

    One pass over the captions copies them to an unnamed temporary file, from which any shard is then read; in memory
    are 8 bytes and a fingerprint per shard. A shard's fingerprint is that of its captions, so that appending captions
    changes none but the last, unless that was full.

    Args:
        captions: Read once.
        size: Captions in a shard.

    Raises:
        ConfigurationError: The size is not positive.
        DataError: The captions cannot be read.

    Attributes:
        size: Captions in a shard.
        total: Captions in all shards.
        fingerprints: One per shard.
    """

    def __init__(self, captions: Iterable[Caption], size: int) -> None:
        if size < 1:
            raise ConfigurationError(f"captions: a shard has at least 1 caption, not {size}")
        self.size = size
        self.total = 0
        # It lives as long as this object and is gone with its process, however that dies.
        self._copy: IO[bytes] = TemporaryFile(prefix="captions-")  # noqa: SIM115
        self._starts = array("q")
        self.fingerprints: list[str] = []
        stream = iter(captions)
        while shard := list(islice(stream, size)):
            self._starts.append(self._copy.tell())
            self._copy.writelines(_line(caption) for caption in shard)
            self.fingerprints.append(fingerprint(shard))
            self.total += len(shard)
        self._numbers = {found: number for number, found in enumerate(self.fingerprints)}

    def __len__(self) -> int:
        return len(self.fingerprints)

    def number(self, found: str) -> int:
        """Which shard has this fingerprint.

        Raises:
            DataError: None has.
        """
        if found not in self._numbers:
            raise DataError(f"there is no shard of captions with the fingerprint {found[:12]}")
        return self._numbers[found]

    def read(self, number: int) -> list[Caption]:
        """The captions of a shard."""
        self._copy.seek(self._starts[number])
        held = min(self.size, self.total - number * self.size)
        lines = (self._copy.readline() for _ in range(held))
        return [Caption(*json.loads(line.decode("utf-8", "surrogatepass"))) for line in lines]
