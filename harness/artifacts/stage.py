"""What a method says about work to be done once, before its first image; and what came of it."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from harness.artifacts.store import ArtifactStore
from harness.artifacts.work_item import WorkItem


class Stage(ABC):
    """One kind of work, such as OVDiff's support sets; the items of a stage do not depend on each other.

    Attributes:
        name: What a person calls it.
    """

    name: str

    @abstractmethod
    def items(self) -> Sequence[WorkItem]:
        """What is needed, the same on all ranks."""

    @abstractmethod
    def make(self, item: WorkItem, store: ArtifactStore) -> dict[str, Tensor]:
        """Compute an item's value on this rank's device.

        Torch's, NumPy's and Python's generators are seeded with the item's key around the call, and restored after it.

        Args:
            item: One of ``items()``.
            store: Has all items of the stages before this one.
        """


@dataclass(frozen=True)
class StageReport:
    """What became of a stage's items.

    Attributes:
        name: The stage's.
        items: How many there are.
        made: How many each rank made; another run may have made more at the same time.
        copied: How many of them were sent to ranks whose store lacked them.
        seconds: Wall time.
    """

    name: str
    items: int
    made: tuple[int, ...]
    copied: int
    seconds: float

    @property
    def there(self) -> int:
        """How many no rank of this run had to make."""
        return self.items - sum(self.made)


@dataclass(frozen=True)
class Precomputed:
    """What the precompute stage did.

    Attributes:
        stages: A report per stage.
        bank: SHA-256 of the bank that all ranks hold; None for a method without one.
    """

    stages: tuple[StageReport, ...] = ()
    bank: str | None = None
