"""Data modules: the interface of a benchmark, and the loading of its images, each on exactly one rank."""

import hashlib
import os
from abc import abstractmethod
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path, PurePath
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from lightning.pytorch import LightningDataModule
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from harness.data.protocol import Protocol, fingerprint
from harness.data.vocabulary import Vocabulary
from harness.system.configured import Configured, as_json
from harness.system.errors import ConfigurationError, DataError

SIGNED_BYTES = 64


def file_size(path: Path) -> int:
    """A file's size in bytes, -1 if it is missing."""
    return path.stat().st_size if path.is_file() else -1


def file_signature(path: Path | None) -> str:
    """A file's size in bytes and a hash of its last 64, -1 if it is missing.

    The last bytes of a PNG hold the checksum of all its pixels, so that one changed label shows.
    """
    if path is None or not path.is_file():
        return "-1"
    with path.open("rb") as content:
        size = content.seek(0, os.SEEK_END)
        content.seek(max(0, size - SIGNED_BYTES))
        return f"{size}:{hashlib.sha256(content.read()).hexdigest()[:16]}"


class LabeledImage(NamedTuple):
    """An image and its label map as read from disk.

    Attributes:
        image: [H, W, 3] uint8 RGB in [0, 255].
        labels: [H, W] uint8 class indices or the ignored label; None without ground truth.
    """

    image: np.ndarray
    labels: np.ndarray | None


class Sample(NamedTuple):
    """An image prepared for a method. A NamedTuple, because Lightning moves its tensors to the device.

    Attributes:
        number: The image's index in the data set.
        id: The image's name in the data set.
        image: [3, h, w] uint8 RGB after the protocol's resize; empty if ``error`` is set.
        original: [3, H, W] uint8 RGB as read; empty if ``error`` is set.
        labels: [H', W'] uint8 at the size at which it is scored; None without ground truth.
        size: (H', W'), the size of the label map to predict, in pixels.
        error: Why the image could not be read; None if it could.
    """

    number: int
    id: str
    image: Tensor
    original: Tensor
    labels: Tensor | None
    size: tuple[int, int]
    error: str | None = None


class SegmentationData(Configured, LightningDataModule):
    """A data set: its vocabulary, its image ids, and how an image is read.

    Its constructor's arguments are settings of a run, like a method's; those that change no value, such as where the
    files lie, are named in ``not_identity``. A subclass implements ``vocabulary``, ``all_ids``, ``read`` and
    ``content_signature``.

    Args:
        batch_size: Samples per call of ``predict_step``; results do not depend on it.
        num_workers: Processes per rank that read and resize images; 0 reads in the rank's own process.
        limit: Number of images to use, from the first; null takes all.
        on_error: For an image that cannot be read: ``stop`` ends the run with a message that names the file, ``skip``
            continues and counts the image as skipped.
    """

    name: str = ""
    # Which images there are, and that all were read, is in the fingerprint and in the records.
    not_identity = frozenset({"root", "batch_size", "num_workers", "limit", "on_error"})

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        # Results and run directories need a name, even if the subclass does not set one.
        cls.name = cls.name or cls.__name__

    def __init__(
        self,
        batch_size: int = 1,
        num_workers: int = 0,
        limit: int | None = None,
        on_error: Literal["stop", "skip"] = "stop",
    ) -> None:
        super().__init__()
        if batch_size < 1 or num_workers < 0:
            raise ConfigurationError("data: batch_size must be at least 1 and num_workers at least 0")
        if limit is not None and limit < 1:
            raise ConfigurationError(f"data: limit must be at least 1, not {limit}")
        self.batch_size = batch_size
        self.num_workers = num_workers
        self.limit = limit
        self.on_error = on_error
        self._protocol: Protocol | None = None
        self._indices: Sequence[int] = ()

    def __getstate__(self) -> dict[str, Any]:
        """The state for worker processes that are not forked: all but the Trainer, which cannot be pickled."""
        return {**self.__dict__, "trainer": None}

    @property
    @abstractmethod
    def vocabulary(self) -> Vocabulary:
        """The classes of this benchmark."""

    def vocabulary_for(self, class_names: str) -> Vocabulary:
        """The classes under the names of a protocol; by default ``vocabulary``, whatever the protocol.

        Args:
            class_names: ``Protocol.class_names``.

        Raises:
            ConfigurationError: The benchmark has several lists of class names, but not this one.
        """
        return self.vocabulary

    @abstractmethod
    def all_ids(self) -> Sequence[str]:
        """Unique ids of all images, in a fixed order."""

    @abstractmethod
    def read(self, index: int) -> LabeledImage:
        """Read image ``index`` and its labels.

        Raises:
            DataError: A file is missing or corrupt, or the labels are invalid; the message names the file.
        """

    @abstractmethod
    def content_signature(self, index: int) -> str:
        """A cheap signature of image ``index`` and its labels, such as file sizes; part of the fingerprint."""

    @property
    def ids(self) -> Sequence[str]:
        """The ids of the images in use, see ``limit``."""
        return self.all_ids()[: self.limit]

    @property
    def fingerprint(self) -> str:
        """16 hex digits over the vocabulary's names and members, and every image's id and content signature."""
        images = [[id, self.content_signature(index)] for index, id in enumerate(self.ids)]
        vocabulary = self.vocabulary
        # A benchmark without members keeps the fingerprint that it had before there were any.
        members = [vocabulary.members] if vocabulary.members else []
        return fingerprint([vocabulary.names, vocabulary.background, images, *members])

    def identity(self) -> dict[str, Any]:
        """The settings that can change a score, as JSON; the files' paths and what is no setting are left out.

        What the files hold is in the ``fingerprint``.
        """
        found = {}
        for name, value in self.arguments.items():
            if name not in self.not_identity and not isinstance(value, PurePath):
                with suppress(ConfigurationError):  # images that were given as arrays
                    found[name] = as_json(value)
        return found

    def plan(self, protocol: Protocol, indices: Sequence[int]) -> None:
        """Set the images that this rank predicts and the protocol; called before ``predict_dataloader``.

        Args:
            protocol: Its resize and labels apply to the samples.
            indices: Indices of the images in the data set.
        """
        self._protocol = protocol
        self._indices = indices

    def predict_dataloader(self) -> DataLoader[Sample]:
        """The planned images in batches, each a list of samples of different sizes.

        A rank without images gets one empty batch: with none, Lightning would skip the loop, and with it the hooks in
        which ranks synchronize.

        Raises:
            RuntimeError: ``plan`` was not called.
        """
        if self._protocol is None:
            raise RuntimeError("plan() comes before predict_dataloader()")
        if not self._indices:
            return DataLoader(_NoSamples(), collate_fn=_empty_batch)
        return DataLoader(
            _Samples(self, self._protocol, self._indices),
            batch_size=self.batch_size,
            num_workers=self.num_workers,
            collate_fn=list,
            pin_memory=torch.cuda.is_available(),
        )


def shard(indices: Sequence[int], rank: int, world_size: int) -> Sequence[int]:
    """Every ``world_size``-th index, starting at ``rank``: no padding, no repetition, possibly none.

    Lightning's predict sampler does the same but asserts that no rank is empty.
    """
    return indices[rank::world_size]


class _Samples(Dataset[Sample]):
    def __init__(self, data: SegmentationData, protocol: Protocol, indices: Sequence[int]) -> None:
        self._data = data
        self._protocol = protocol
        self._indices = indices
        self._ids = data.ids

    def __len__(self) -> int:
        return len(self._indices)

    def __getitem__(self, position: int) -> Sample:
        index = self._indices[position]
        try:
            image, original_labels = labeled = self._data.read(index)
            _check(labeled, self._ids[index], len(self._data.vocabulary), self._protocol.ignore_label)
        except DataError as error:
            # Returned as a value: a worker's exception would reach the user as a traceback.
            empty = torch.empty(0, dtype=torch.uint8)
            return Sample(index, self._ids[index], empty, empty, None, (0, 0), str(error))
        labels = None if original_labels is None else self._protocol.resize_labels(original_labels)
        return Sample(
            index,
            self._ids[index],
            _to_tensor(self._protocol.resize_image(image)),
            _to_tensor(image),
            None if labels is None else torch.from_numpy(np.array(labels)),
            image.shape[:2] if labels is None else labels.shape,
        )


class _NoSamples(Dataset[Sample]):
    def __len__(self) -> int:
        return 1

    def __getitem__(self, position: int) -> None:  # type: ignore[override]
        return None


def _empty_batch(batch: list[None]) -> list[Sample]:
    return []


def _to_tensor(image: np.ndarray) -> Tensor:
    """[H, W, 3] uint8 to [3, H, W] uint8."""
    return torch.from_numpy(np.array(image).transpose(2, 0, 1)).contiguous()


def _check(labeled: LabeledImage, id: str, num_classes: int, ignore_label: int) -> None:
    """Check shapes, dtypes and label values.

    Raises:
        DataError: The image is not [H, W, 3] uint8, or the labels do not fit it or the vocabulary.
    """
    image, labels = labeled
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3 or 0 in image.shape:
        raise DataError(f"'{id}': not an 8-bit RGB image: {image.shape} {image.dtype}")
    if labels is None:
        return
    if labels.shape != image.shape[:2]:
        (height, width), (rows, columns) = image.shape[:2], labels.shape
        raise DataError(f"'{id}': the label map is {columns}x{rows} pixels, its image {width}x{height}")
    outside = labels[(labels >= num_classes) & (labels != ignore_label)]
    if outside.size:
        smallest = outside.min()
        raise DataError(f"'{id}': the label map holds label {smallest}, but the vocabulary has {num_classes} classes")
