"""Data: what a benchmark must say about itself, and how its pictures reach a rank, each exactly once."""

from abc import abstractmethod
from collections.abc import Sequence
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from lightning.pytorch import LightningDataModule
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from harness.data.protocol import Protocol, fingerprint
from harness.data.vocabulary import Vocabulary
from harness.system.errors import ConfigurationError, DataError


class Picture(NamedTuple):
    """A picture as it lies on disk.

    Attributes:
        image: [H, W, 3] uint8 RGB in [0, 255].
        labels: [H, W] uint8 class indices or the ignored label; None without ground truth.
    """

    image: np.ndarray
    labels: np.ndarray | None


class Sample(NamedTuple):
    """A picture ready for a method. A NamedTuple, because Lightning moves its tensors to the device.

    Attributes:
        number: Its place in the data set.
        id: Its name in the data set.
        image: [3, h, w] uint8 RGB after the protocol's resize; empty when ``error`` is set.
        original: [3, H, W] uint8 RGB as read.
        labels: [H', W'] uint8 at the size at which it is scored, or None without ground truth.
        size: (H', W'), the size of the label map to predict, in pixels.
        error: Why it could not be read.
    """

    number: int
    id: str
    image: Tensor
    original: Tensor
    labels: Tensor | None
    size: tuple[int, int]
    error: str | None = None


class SegmentationData(LightningDataModule):
    """A benchmark: its vocabulary, its picture ids, and how one picture is read.

    A new benchmark subclasses this and fills in ``vocabulary``, ``all_ids``, ``read`` and ``content``.

    Args:
        batch_size: Samples handed to ``predict_step`` at once; results do not depend on it.
        num_workers: Processes per rank that read and resize pictures; 0 reads in the rank itself.
        limit: Only the first so many pictures; null takes all.
        on_error: A picture that cannot be read: ``stop`` ends the run with a sentence that names the file, ``skip``
            goes on and counts it.
    """

    name: str = ""

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        # Results and run directories need a name, also of a benchmark whose author gave none.
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
        """What worker processes get: all but the Trainer, which cannot be pickled (where workers are not forked)."""
        return {**self.__dict__, "trainer": None}

    @property
    @abstractmethod
    def vocabulary(self) -> Vocabulary:
        """The classes of this benchmark."""

    def vocabulary_for(self, class_names: str) -> Vocabulary:
        """The classes under the names that a protocol asks for; a benchmark has its own alone unless it says more.

        Args:
            class_names: As in ``Protocol``.

        Raises:
            ConfigurationError: The benchmark has several lists of names, and not this one.
        """
        return self.vocabulary

    @abstractmethod
    def all_ids(self) -> Sequence[str]:
        """Unique names of all pictures, in their fixed order."""

    @abstractmethod
    def read(self, index: int) -> Picture:
        """Read picture ``index``.

        Raises:
            DataError: It is missing, damaged, or its labels do not fit; the message names the file.
        """

    @abstractmethod
    def content(self, index: int) -> str:
        """What tells the content of picture ``index`` cheaply, such as file sizes; part of the fingerprint."""

    @property
    def ids(self) -> Sequence[str]:
        """The ids under ``limit``."""
        return self.all_ids()[: self.limit]

    @property
    def fingerprint(self) -> str:
        """16 hex digits over the vocabulary's names and every picture's id and content, in order."""
        pictures = [[id, self.content(index)] for index, id in enumerate(self.ids)]
        return fingerprint([self.vocabulary.names, self.vocabulary.background, pictures])

    def plan(self, protocol: Protocol, indices: Sequence[int]) -> None:
        """Say which pictures are to be predicted by this rank, and under which protocol."""
        self._protocol = protocol
        self._indices = indices

    def predict_dataloader(self) -> DataLoader[Sample]:
        """The planned pictures in batches, each a list of samples of their own sizes.

        A rank without pictures gets one empty batch: Lightning would skip the loop, and with it the hooks in which
        ranks meet.
        """
        if self._protocol is None:
            raise RuntimeError("plan() comes before predict_dataloader()")
        if not self._indices:
            return DataLoader(_NoSamples(), collate_fn=_nothing)
        return DataLoader(
            _Samples(self, self._protocol, self._indices),
            batch_size=self.batch_size,
            num_workers=self.num_workers,
            collate_fn=list,
            pin_memory=torch.cuda.is_available(),
        )


def shard(indices: Sequence[int], rank: int, world_size: int) -> Sequence[int]:
    """Every ``world_size``-th index from ``rank`` on: no padding, each once, possibly none.

    Lightning's own predict sampler does the same but asserts that no rank stays empty.
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
            picture = self._data.read(index)
            _check(picture, self._ids[index], len(self._data.vocabulary), self._protocol.ignore_label)
        except DataError as error:
            # Carried as a value: a worker's exception would reach the user as a traceback.
            nothing = torch.empty(0, dtype=torch.uint8)
            return Sample(index, self._ids[index], nothing, nothing, None, (0, 0), str(error))
        labels = None if picture.labels is None else self._protocol.resize_labels(picture.labels)
        return Sample(
            index,
            self._ids[index],
            _to_tensor(self._protocol.resize_image(picture.image)),
            _to_tensor(picture.image),
            None if labels is None else torch.from_numpy(np.array(labels)),
            picture.image.shape[:2] if labels is None else labels.shape,
        )


class _NoSamples(Dataset[Sample]):
    def __len__(self) -> int:
        return 1

    def __getitem__(self, position: int) -> None:  # type: ignore[override]
        return None


def _nothing(batch: list[None]) -> list[Sample]:
    return []


def _to_tensor(image: np.ndarray) -> Tensor:
    return torch.from_numpy(np.array(image).transpose(2, 0, 1)).contiguous()


def _check(picture: Picture, id: str, classes: int, ignore_label: int) -> None:
    image, labels = picture
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3 or 0 in image.shape:
        raise DataError(f"'{id}': the picture is not an RGB image of 8 bits: {image.shape} {image.dtype}")
    if labels is None:
        return
    if labels.shape != image.shape[:2]:
        (height, width), (rows, columns) = image.shape[:2], labels.shape
        raise DataError(f"'{id}': the label map is {columns}x{rows} pixels, its picture {width}x{height}")
    outside = labels[(labels >= classes) & (labels != ignore_label)]
    if outside.size:
        raise DataError(f"'{id}': the label map holds label {outside.min()}, but the vocabulary has {classes} classes")
