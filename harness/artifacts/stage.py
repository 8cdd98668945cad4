"""Stages: work that a method needs done once before its first image, and reports of that work."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from harness.artifacts.store import ArtifactStore
from harness.artifacts.work_item import WorkItem


class Stage(ABC):
    """One kind of work, such as OVDiff's support sets; the items of a stage do not depend on each other.

    Attributes:
        name: Its name in messages and reports.
    """

    name: str

    @abstractmethod
    def items(self) -> Sequence[WorkItem]:
        """The work items that the method needs; equal on all ranks."""

    @abstractmethod
    def compute(self, item: WorkItem, store: ArtifactStore) -> dict[str, Tensor]:
        """Compute an item's value on this rank's device.

        The random generators of PyTorch, NumPy and Python are seeded with the item's key before the call and restored
        after it.

        Args:
            item: One of ``items()``.
            store: Holds all items of the stages before this one.

        Returns:
            Named tensors, on any device.
        """


@dataclass(frozen=True)
class StageReport:
    """Statistics of one stage.

    Attributes:
        name: The stage's name.
        num_items: Number of items.
        computed_per_rank: Number of items that each rank computed; a concurrent run may have computed others.
        num_copied: Number of items that were sent to ranks whose store lacked them.
        seconds: Wall time.
    """

    name: str
    num_items: int
    computed_per_rank: tuple[int, ...]
    num_copied: int
    seconds: float

    @property
    def num_cached(self) -> int:
        """Number of items that no rank of this run computed."""
        return self.num_items - sum(self.computed_per_rank)


@dataclass(frozen=True)
class PrecomputeReport:
    """Result of precompute.

    Attributes:
        stages: A report per stage.
        bank: SHA-256 of the bank, equal on all ranks; None for a method without a bank.
    """

    stages: tuple[StageReport, ...] = ()
    bank: str | None = None
