"""Benchmarks on disk: the layout of their files, how they are read, and where they are published."""

import os
from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, ClassVar, Literal, NamedTuple

import numpy as np

from harness.data.datamodule import LabeledImage, SegmentationData, file_signature, file_size
from harness.data.images import read_image, read_labels
from harness.data.vocabulary import Vocabulary
from harness.system.errors import ConfigurationError, DataError, did_you_mean

PreparedPart = Literal["labels", "list"]
ROOT_VARIABLE = "OVSEG_DATA"
MMSEG = "mmseg"
IGNORE_LABEL = 255

IDENTITY = np.arange(256, dtype=np.uint8)
# mmsegmentation's reduce_zero_label: 0 becomes the ignored label, all others move down by one, 255 stays.
REDUCE_ZERO_LABEL = np.append(np.array([IGNORE_LABEL]), np.append(np.arange(254), np.array([IGNORE_LABEL]))).astype(
    np.uint8
)


class Source(NamedTuple):
    """A published file.

    Attributes:
        name: The file's name.
        url: The official address.
    """

    name: str
    url: str

    def __str__(self) -> str:
        return f"{self.name}, {self.url}"


@dataclass(frozen=True)
class Layout:
    """The layout of a benchmark's files, relative to its folder.

    Attributes:
        images: Folder of the images; with ``ids`` null, all images in it and its subfolders belong to the benchmark.
        labels: Folder of the label maps; an image and its label map have the same id.
        image_suffix: Follows the id in an image's file name.
        label_suffix: Follows the id in a label map's file name.
        ids: Text file with the ids, one per line; null takes all images.
    """

    images: str
    labels: str
    image_suffix: str = ".jpg"
    label_suffix: str = ".png"
    ids: str | None = None


class Job(NamedTuple):
    """One file to prepare.

    Attributes:
        target: The file to write; an existing file is kept.
        compute: Returns the content; picklable. Raises DataError if a published file is missing or corrupt.
    """

    target: Path
    compute: Callable[[], bytes]


class Benchmark(SegmentationData):
    """A published benchmark; a subclass defines its layout, its vocabulary, and the sources of its files.

    Args:
        root: The benchmark's folder, or a folder of data sets that holds it in one of ``default_folders``; null takes
            the environment variable OVSEG_DATA.
        batch_size: Samples per call of ``predict_step``.
        num_workers: Processes per rank that read images.
        limit: Number of images to use, from the first; null takes all.
        on_error: Whether to ``stop`` at an unreadable image or ``skip`` it.

    Attributes:
        layout: The layout of its files.
        default_folders: Its usual folders in a folder of data sets.
        num_images_published: Number of images; null if unknown.
        other_splits: Number of images of another published split -> what that split is; the check accepts and names it.
        images_source: Where the images are published.
        label_sources: The files that hold the label maps or from which they are prepared; one of them is enough.
        prepared_parts: What ``ovseg data prepare`` generates: ``labels``, ``list``, both or nothing.
        label_table: Label by pixel value, [256] uint8.
        class_name_overrides: List of class names -> name in mmsegmentation -> name in that list, where they differ.

    Raises:
        DataError: The folder, or the list of images, is missing.
    """

    layout: ClassVar[Layout]
    default_folders: ClassVar[tuple[str, ...]]
    num_images_published: ClassVar[int | None]
    other_splits: ClassVar[Mapping[int, str]] = {}
    images_source: ClassVar[Source]
    label_sources: ClassVar[tuple[Source, ...]]
    prepared_parts: ClassVar[frozenset[PreparedPart]] = frozenset()
    label_table: ClassVar[np.ndarray] = IDENTITY
    class_name_overrides: ClassVar[Mapping[str, Mapping[str, str]]] = {}

    def __init_subclass__(cls, **kwargs: Any) -> None:
        # A subclass without a name gets its class name, not its parent's name.
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
        self.root = self.find_folder(root)
        self._ids = self.find_ids(self.root)
        self._vocabulary = self.default_vocabulary()  # cached: it is needed for every image

    @classmethod
    @abstractmethod
    def default_vocabulary(cls) -> Vocabulary:
        """The classes under mmsegmentation's names."""

    @property
    def vocabulary(self) -> Vocabulary:
        """The classes under mmsegmentation's names."""
        return self._vocabulary

    @classmethod
    def vocabulary_for(cls, class_names: str) -> Vocabulary:
        """The classes under the names of a protocol (``Protocol.class_names``).

        Raises:
            ConfigurationError: The benchmark has no such list of class names.
        """
        vocabulary = cls.default_vocabulary()
        if class_names == MMSEG:
            return vocabulary
        if class_names not in cls.class_name_overrides:
            available = (MMSEG, *cls.class_name_overrides)
            raise ConfigurationError(
                f"{cls.name} has class names of {', '.join(available)}, not of '{class_names}'"
                + did_you_mean(class_names, available)
            )
        overrides = cls.class_name_overrides[class_names]
        return Vocabulary(
            tuple(overrides.get(name, name) for name in vocabulary.names),
            vocabulary.background,
            frozenset(overrides.get(name, name) for name in vocabulary.stuff),
            vocabulary.palette,
            vocabulary.members,
        )

    @classmethod
    def locate(cls, root: Path) -> Path | None:
        """The benchmark's folder: ``root`` or one of its default folders; None if none holds its image folder."""
        candidates = [root, *(root / name for name in cls.default_folders)]
        return next((folder for folder in candidates if (folder / cls.layout.images).is_dir()), None)

    @classmethod
    def find_folder(cls, root: str | Path | None) -> Path:
        """The benchmark's folder, see ``locate``; a ``root`` of None takes OVSEG_DATA.

        Raises:
            DataError: The folder is missing; the message names what to download.
        """
        base = data_root(root)
        if base is None:
            raise DataError(
                f"{cls.name}: no root is given and {ROOT_VARIABLE} is not set; it needs {cls.images_source}"
            )
        if not base.is_dir():
            raise DataError(f"{cls.name}: the folder {base} is missing (root or {ROOT_VARIABLE})")
        folder = cls.locate(base)
        if folder is None:
            expected = base / cls.default_folders[0] / cls.layout.images
            raise DataError(f"{cls.name}: the folder {expected} is missing: it is in {cls.images_source}")
        return folder

    @classmethod
    def find_ids(cls, folder: Path) -> list[str]:
        """The ids of all images, in mmsegmentation's order: that of the list, or sorted by file name.

        Raises:
            DataError: The list is missing, or there are no images.
        """
        layout = cls.layout
        ids = _list_files(folder / layout.images, layout.image_suffix) if layout.ids is None else cls._read_list(folder)
        if not ids:
            location = folder / (layout.ids or f"{layout.images}/*{layout.image_suffix}")
            raise DataError(f"{cls.name}: there are no images in {location}: they are in {cls.images_source}")
        return ids

    @classmethod
    def _read_list(cls, folder: Path) -> list[str]:
        path = folder / str(cls.layout.ids)
        try:
            lines = path.read_text(encoding="utf-8").splitlines()
        except FileNotFoundError:
            raise DataError(f"{cls.name}: the list {path} is missing: {cls.describe_source('list')}") from None
        except (OSError, UnicodeDecodeError) as error:
            raise DataError(f"{cls.name}: the list {path} cannot be read: {error}") from error
        ids = [line.strip() for line in lines if line.strip()]
        for id in ids:
            name = PurePosixPath(id)
            if name.is_absolute() or ".." in name.parts:
                raise DataError(f"{cls.name}: the list {path} names '{id}', which is no file below {folder}")
        if len(set(ids)) != len(ids):
            repeated = next(id for id in ids if ids.count(id) > 1)
            raise DataError(f"{cls.name}: the list {path} names '{repeated}' more than once")
        return ids

    @classmethod
    def describe_source(cls, part: PreparedPart) -> str:
        """Where the label maps or the list come from, as the end of a message about a missing one."""
        sources = " or ".join(map(str, cls.label_sources))
        if part in cls.prepared_parts:
            return f"'ovseg data prepare {cls.name}' makes it from {sources}"
        return f"it is in {sources}"

    def all_ids(self) -> Sequence[str]:
        """The ids in the list, or the file names without suffix."""
        return self._ids

    def image_path(self, index: int) -> Path:
        """The image file of ``index``."""
        return self.root / self.layout.images / f"{self._ids[index]}{self.layout.image_suffix}"

    def label_path(self, index: int) -> Path:
        """The label map file of ``index``."""
        return self.root / self.layout.labels / f"{self._ids[index]}{self.layout.label_suffix}"

    def read(self, index: int) -> LabeledImage:
        """See ``SegmentationData.read``; labels are those that mmsegmentation reads."""
        image, labels = self.image_path(index), self.label_path(index)
        for path, kind, source in (
            (image, "image", f"it is in {self.images_source}"),
            (labels, "label map", self.describe_source("labels")),
        ):
            if not path.is_file():
                raise DataError(f"the {kind} {path} is missing: {source}")
        return LabeledImage(read_image(image), self.label_table[read_labels(labels)])

    def content_signature(self, index: int) -> str:
        """The sizes of image and label map in bytes, and what the label map's end says of its labels."""
        return f"{file_size(self.image_path(index))} {file_signature(self.label_path(index))}"

    @classmethod
    def jobs(cls, folder: Path) -> list[Job]:
        """The files that ``ovseg data prepare`` writes, for the benchmark's folder ``folder``.

        Raises:
            DataError: A published file is missing or corrupt.
        """
        return []


def data_root(root: str | Path | None) -> Path | None:
    """``root``, else the folder in OVSEG_DATA, else None."""
    folder = root or os.environ.get(ROOT_VARIABLE)
    return Path(folder).expanduser() if folder else None


def _list_files(folder: Path, suffix: str) -> list[str]:
    """Relative paths without suffix of all files in a folder and its subfolders, sorted; hidden ones are left out."""
    paths = []
    for path, folders, files in os.walk(folder, followlinks=True):
        folders[:] = [name for name in folders if not name.startswith(".")]
        parent = Path(path).relative_to(folder)
        paths += [(parent / name).as_posix() for name in files if name.endswith(suffix) and not name.startswith(".")]
    return [name.removesuffix(suffix) for name in sorted(paths)]
