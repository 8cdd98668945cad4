"""A benchmark on disk in a documented layout: where its files lie, how they are read, and where they are published."""

import os
from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, ClassVar, Literal, NamedTuple

import numpy as np

from harness.data.datamodule import Picture, SegmentationData
from harness.data.images import read_image, read_labels
from harness.data.vocabulary import Vocabulary
from harness.system.errors import ConfigurationError, DataError, did_you_mean

Part = Literal["labels", "list"]
VARIABLE = "OVSEG_DATA"
MMSEG = "mmseg"
IGNORED = 255

IDENTITY = np.arange(256, dtype=np.uint8)
# mmsegmentation's reduce_zero_label: 0 becomes the ignored label, all others move down by one, 255 stays.
REDUCED = np.append(np.array([IGNORED]), np.append(np.arange(254), np.array([IGNORED]))).astype(np.uint8)


class Source(NamedTuple):
    """Something that its authors publish.

    Attributes:
        what: The file, or what it is called there.
        where: The official address.
    """

    what: str
    where: str

    def __str__(self) -> str:
        return f"{self.what}, {self.where}"


@dataclass(frozen=True)
class Layout:
    """Where the files of a benchmark lie below its folder.

    Attributes:
        images: Folder of the pictures; with ``ids`` null, all pictures in it and below it belong to the benchmark.
        labels: Folder of the label maps, which have the pictures' names.
        image_suffix: What follows the name of a picture.
        label_suffix: What follows the name of its label map.
        ids: Text file with the names, one a line.
    """

    images: str
    labels: str
    image_suffix: str = ".jpg"
    label_suffix: str = ".png"
    ids: str | None = None


class Job(NamedTuple):
    """One file to prepare.

    Attributes:
        target: What is written; what is there already stays.
        make: Gives the content; it can be pickled, and raises DataError when an original is missing or damaged.
    """

    target: Path
    make: Callable[[], bytes]


class Benchmark(SegmentationData):
    """A published benchmark: a subclass gives its layout, its vocabulary, and where its files come from.

    Args:
        root: The benchmark's folder, or a folder of data sets in which it has its usual place; null takes the
            environment variable OVSEG_DATA.
        batch_size: As in ``SegmentationData``.
        num_workers: Likewise.
        limit: Likewise.
        on_error: Likewise.

    Attributes:
        layout: Where its files lie.
        places: Its usual places in a folder of data sets.
        published: How many pictures it has; null if nobody says.
        images_from: Where the pictures are published.
        labels_from: Where the label maps are published, or what they are prepared from; one of these is enough.
        prepared: What ``ovseg data prepare`` makes: ``labels``, ``list``, both or nothing.
        decode: Label by pixel value, [256] uint8.
        renamed: Per list of class names other than mmsegmentation's: what it calls a class differently.

    Raises:
        DataError: The folder, or the list of its pictures, is missing.
    """

    layout: ClassVar[Layout]
    places: ClassVar[tuple[str, ...]]
    published: ClassVar[int | None]
    images_from: ClassVar[Source]
    labels_from: ClassVar[tuple[Source, ...]]
    prepared: ClassVar[frozenset[Part]] = frozenset()
    decode: ClassVar[np.ndarray] = IDENTITY
    renamed: ClassVar[Mapping[str, Mapping[str, str]]] = {}

    def __init_subclass__(cls, **kwargs: Any) -> None:
        # A subclass without a name has its own class name, not its parent's name.
        cls.name = cls.__dict__.get("name", "")
        super().__init_subclass__(**kwargs)

    def __init__(
        self,
        root: str | None = None,
        batch_size: int = 1,
        num_workers: int = 0,
        limit: int | None = None,
        on_error: Literal["stop", "skip"] = "stop",
    ) -> None:
        super().__init__(batch_size, num_workers, limit, on_error)
        self.root = self.folder(root)
        self._ids = self.find_ids(self.root)
        self._vocabulary = self.named()  # once: it is asked for at every picture

    @classmethod
    @abstractmethod
    def named(cls) -> Vocabulary:
        """The classes under mmsegmentation's names."""

    @property
    def vocabulary(self) -> Vocabulary:
        """The classes under mmsegmentation's names."""
        return self._vocabulary

    @classmethod
    def vocabulary_for(cls, class_names: str) -> Vocabulary:
        """The classes under the names that a protocol asks for (``Protocol.class_names``).

        Raises:
            ConfigurationError: There is no such list of names for this benchmark.
        """
        vocabulary = cls.named()
        if class_names == MMSEG:
            return vocabulary
        if class_names not in cls.renamed:
            known = (MMSEG, *cls.renamed)
            raise ConfigurationError(
                f"{cls.name} has class names of {', '.join(known)}, not of '{class_names}'"
                + did_you_mean(class_names, known)
            )
        words = cls.renamed[class_names]
        return Vocabulary(
            tuple(words.get(name, name) for name in vocabulary.names),
            vocabulary.background,
            frozenset(words.get(name, name) for name in vocabulary.stuff),
            vocabulary.palette,
        )

    @classmethod
    def locate(cls, root: Path) -> Path | None:
        """The benchmark's folder: ``root`` or one of its usual places below; None if no pictures are there."""
        candidates = [root, *(root / place for place in cls.places)]
        return next((folder for folder in candidates if (folder / cls.layout.images).is_dir()), None)

    @classmethod
    def folder(cls, root: str | Path | None) -> Path:
        """The benchmark's folder.

        Raises:
            DataError: It is missing; the message names what to download.
        """
        base = data_root(root)
        if base is None:
            raise DataError(f"{cls.name}: no root is given and {VARIABLE} is not set; it needs {cls.images_from}")
        if not base.is_dir():
            raise DataError(f"{cls.name}: the folder {base} is missing (root or {VARIABLE})")
        found = cls.locate(base)
        if found is None:
            usual = base / cls.places[0] / cls.layout.images
            raise DataError(f"{cls.name}: the folder {usual} is missing: it is in {cls.images_from}")
        return found

    @classmethod
    def find_ids(cls, folder: Path) -> list[str]:
        """The names of all pictures, in mmsegmentation's order: that of the list, or sorted by file.

        Raises:
            DataError: The list is missing, or no pictures are there.
        """
        layout = cls.layout
        ids = _listed(folder / layout.images, layout.image_suffix) if layout.ids is None else cls._read_list(folder)
        if not ids:
            where = folder / (layout.ids or f"{layout.images}/*{layout.image_suffix}")
            raise DataError(f"{cls.name}: there are no pictures in {where}: they are in {cls.images_from}")
        return ids

    @classmethod
    def _read_list(cls, folder: Path) -> list[str]:
        path = folder / str(cls.layout.ids)
        try:
            lines = path.read_text(encoding="utf-8").splitlines()
        except FileNotFoundError:
            raise DataError(f"{cls.name}: the list {path} is missing: {cls.origin('list')}") from None
        except (OSError, UnicodeDecodeError) as error:
            raise DataError(f"{cls.name}: the list {path} cannot be read: {error}") from error
        ids = [line.strip() for line in lines if line.strip()]
        for id in ids:
            name = PurePosixPath(id)
            if name.is_absolute() or ".." in name.parts:
                raise DataError(f"{cls.name}: the list {path} names '{id}', which is no file below {folder}")
        if len(set(ids)) != len(ids):
            twice = next(id for id in ids if ids.count(id) > 1)
            raise DataError(f"{cls.name}: the list {path} names '{twice}' more than once")
        return ids

    @classmethod
    def origin(cls, part: Part) -> str:
        """How its label maps or its list come about, as the second half of a sentence about one that is missing."""
        sources = " or ".join(map(str, cls.labels_from))
        if part in cls.prepared:
            return f"'ovseg data prepare {cls.name}' makes it from {sources}"
        return f"it is in {sources}"

    def all_ids(self) -> Sequence[str]:
        """The names in the list, or of the files, without suffix."""
        return self._ids

    def image_path(self, index: int) -> Path:
        """The file of picture ``index``."""
        return self.root / self.layout.images / f"{self._ids[index]}{self.layout.image_suffix}"

    def label_path(self, index: int) -> Path:
        """The file of its label map."""
        return self.root / self.layout.labels / f"{self._ids[index]}{self.layout.label_suffix}"

    def read(self, index: int) -> Picture:
        """See ``SegmentationData.read``; labels have the values that mmsegmentation would give."""
        image, labels = self.image_path(index), self.label_path(index)
        for path, kind, how in (
            (image, "picture", f"it is in {self.images_from}"),
            (labels, "label map", self.origin("labels")),
        ):
            if not path.is_file():
                raise DataError(f"the {kind} {path} is missing: {how}")
        return Picture(read_image(image), self.decode[read_labels(labels)])

    def content(self, index: int) -> str:
        """The sizes of picture and label map in bytes, -1 for one that is missing."""
        paths = self.image_path(index), self.label_path(index)
        return " ".join(str(path.stat().st_size if path.is_file() else -1) for path in paths)

    @classmethod
    def jobs(cls, folder: Path) -> list[Job]:
        """What ``ovseg data prepare`` has to write in ``folder``, the benchmark's own.

        Raises:
            DataError: What it is made from is missing or damaged.
        """
        return []


def data_root(root: str | Path | None) -> Path | None:
    """``root``, or what OVSEG_DATA names, or None."""
    given = root or os.environ.get(VARIABLE)
    return Path(given).expanduser() if given else None


def _listed(folder: Path, suffix: str) -> list[str]:
    """Files below a folder by name without suffix, in the order of their whole names; hidden ones are left out."""
    found = []
    for path, folders, files in os.walk(folder, followlinks=True):
        folders[:] = [name for name in folders if not name.startswith(".")]
        below = Path(path).relative_to(folder)
        found += [(below / name).as_posix() for name in files if name.endswith(suffix) and not name.startswith(".")]
    return [name.removesuffix(suffix) for name in sorted(found)]
