"""A method with two precompute stages that leave a line in a log for every call, so that calls can be counted."""

import os
import signal
import time
from pathlib import Path

import torch

from harness import ArtifactStore, DataError, Stage, WorkItem
from harness.system import distributed
from tinyseg import NearestColour


class Paint(Stage):
    """Noise of a seed, one item per class; slow, failing or deadly where it is told so.

    Args:
        names: The classes.
        log: Where every call leaves ``start RANK NAME`` and ``end RANK NAME``.
        seconds: What an item takes.
        slow: Seconds of some items.
        fail: The item that raises.
        die: The rank that kills itself while it makes its first item.
    """

    name = "paint"

    def __init__(
        self,
        names: list[str],
        log: str | None,
        seconds: float = 0.0,
        slow: dict[str, float] | None = None,
        fail: str | None = None,
        die: int | None = None,
    ) -> None:
        self.names, self.log, self.seconds, self.slow, self.fail, self.die = names, log, seconds, slow or {}, fail, die

    def items(self) -> list[WorkItem]:
        return [WorkItem({"kind": self.name, "name": name, "steps": 2}, name) for name in self.names]

    def compute(self, item: WorkItem, store: ArtifactStore) -> dict[str, torch.Tensor]:
        write(self.log, f"start {distributed.rank()} {item.title}")
        time.sleep(self.slow.get(item.title, self.seconds))
        if self.die == distributed.rank():
            os.kill(os.getpid(), signal.SIGKILL)
        if self.fail == item.title:
            raise DataError("the paint is dry")
        noise = torch.randn(4, 6, device="cpu")
        write(self.log, f"end {distributed.rank()} {item.title}")
        return {"noise": noise.t(), "half": noise.half(), "count": torch.tensor(len(item.title))}


class Mix(Stage):
    """The mean of an earlier stage's noise."""

    name = "mix"

    def __init__(self, paint: Paint) -> None:
        self.paint = paint

    def items(self) -> list[WorkItem]:
        return [WorkItem({"kind": self.name, "of": item.key}, item.title) for item in self.paint.items()]

    def compute(self, item: WorkItem, store: ArtifactStore) -> dict[str, torch.Tensor]:
        return {"mean": store.load(item.spec["of"])["noise"].mean(dim=0)}


class Painted(NearestColour):
    """``NearestColour`` with a bank that it does not look at.

    Args:
        log: As in ``Paint``.
        seconds: Likewise.
        fail: Likewise.
    """

    name = "painted"

    def __init__(self, log: str | None = None, seconds: float = 0.0, fail: str | None = None) -> None:
        super().__init__()
        self.log, self.seconds, self.fail = log, seconds, fail

    def stages(self) -> list[Stage]:
        paint = Paint(list(self.vocabulary.names), self.log, self.seconds, fail=self.fail)
        return [paint, Mix(paint)]

    def assemble(self, store: ArtifactStore) -> dict[str, torch.Tensor]:
        return {"means": torch.stack([store.load(item.key)["mean"] for item in self.stages()[1].items()])}

    def adopt(self, bank: dict[str, torch.Tensor]) -> None:
        self.bank = bank

    def prepare(self) -> None:
        super().prepare()
        assert self.bank["means"].shape == (len(self.vocabulary), 4)


def write(log: str | None, line: str) -> None:
    """One appended write, so that lines of several processes do not mix."""
    if log is not None:
        with Path(log).open("a") as stream:
            stream.write(line + "\n")
