"""A queue of work shared by all ranks, on a key-value store of torch.distributed; no rank waits in a collective."""

import os
import socket
import threading
import time
from collections.abc import Callable
from typing import Any, TypeVar

import torch.distributed as dist

from harness.system import distributed
from harness.system.errors import RunError

T = TypeVar("T")

PATIENCE = 60.0
POLL = 0.1


class WorkQueue:
    """Hands out numbered items, each to one rank; opened, used and closed by all ranks together.

    Rank 0 holds the store. Every rank's heartbeat counts up in it; a rank whose count stands still for ``patience``
    seconds by another rank's own clock is dead to that rank, and its unfinished items are handed out again. Whoever
    owns an item is decided by compare-and-set, so that no race gives it to two.

    Args:
        patience: Seconds without a sign of life after which a rank counts as dead.
    """

    def __init__(self, patience: float = PATIENCE) -> None:
        self.rank, self.world_size = distributed.rank(), distributed.world_size()
        self._patience = patience
        self._store = self._connect()
        self._last: dict[int, tuple[int, float]] = {}
        self._lost: BaseException | None = None
        self._stage, self._count, self._closing = "", 0, threading.Event()
        self._reclaimed: list[int] = []
        self._mourned: frozenset[int] = frozenset()
        self._heart = threading.Thread(target=self._beat, daemon=True, name="work-queue")
        self._heart.start()

    def _connect(self) -> Any:
        # The stores are documented, but the type stubs leave them out.
        if self.world_size == 1:
            return dist.HashStore()  # type: ignore[attr-defined]
        hosts = set(distributed.gather(socket.gethostname()))
        # Every launcher names a host that all ranks can reach.
        host = os.environ.get("MASTER_ADDR") or ("localhost" if len(hosts) == 1 else socket.getfqdn())
        server, place = None, None
        if self.rank == 0:
            server = dist.TCPStore(host, 0, is_master=True, wait_for_workers=False)  # type: ignore[attr-defined]
            place = [host, server.port]
        host, port = distributed.broadcast(place)
        return server or dist.TCPStore(host, port, is_master=False, wait_for_workers=False)  # type: ignore[attr-defined]

    def _beat(self) -> None:
        interval = min(1.0, self._patience / 5)
        while not self._closing.is_set():
            try:
                self._store.add(f"beat/{self.rank}", 1)
                now = time.monotonic()
                for rank in range(self.world_size):
                    # Adding nothing reads a count that may not be there yet; a get would wait for it.
                    beat = self._store.add(f"beat/{rank}", 0)
                    if rank not in self._last or self._last[rank][0] != beat:
                        self._last[rank] = (beat, now)
            except RuntimeError as error:
                # The store went with rank 0; whoever uses the queue next says so.
                self._lost = error
                return
            self._closing.wait(interval)

    def dead(self) -> frozenset[int]:
        """The ranks that gave no sign of life for too long."""
        now = time.monotonic()
        others = [(rank, seen) for rank, (_, seen) in list(self._last.items()) if rank != self.rank]
        return frozenset(rank for rank, seen in others if now - seen > self._patience)

    def begin(self, stage: str, count: int) -> None:
        """Fill the queue with items ``0 .. count - 1``; ``stage`` names them among all that the queue ever held."""
        self._stage, self._count = f"stage/{stage}", count
        self._reclaimed, self._mourned = [], frozenset()

    def take(self) -> int | None:
        """An item that is this rank's to make, or None when none is free now."""
        while not self._reclaimed:
            ticket = self._add("tickets") - 1
            if ticket >= self._count:
                break
            if self._own(ticket, ""):
                return ticket
        self._reclaim()
        return self._reclaimed.pop(0) if self._reclaimed else None

    def _own(self, item: int, of: str) -> bool:
        return self._swap(f"owner/{item}", of, str(self.rank)) == str(self.rank)

    def _reclaim(self) -> None:
        """Take over what the dead left unfinished; all living ranks may try, each item goes to one."""
        dead = self.dead()
        if dead <= self._mourned:
            return
        self._mourned |= dead
        for item in range(self._count):
            if self._read(f"done/{item}"):
                continue
            owner = self._read(f"owner/{item}")
            # A dead rank may have taken a ticket without getting as far as to own its item.
            if (not owner or int(owner) in dead) and self._own(item, owner):
                self._reclaimed.append(item)

    def hold(self, item: int | None) -> None:
        """Show what is in this rank's hands."""
        self._set(f"hand/{self.rank}", "" if item is None else str(item))

    def finish(self, item: int, made: bool) -> None:
        """The entry of an item is in the artifact store; ``made``: by this rank, not by another run."""
        if self._swap(f"done/{item}", "", str(self.rank)) == str(self.rank):
            self._add("finished")
            if made:
                self._add(f"made/{self.rank}")

    def finished(self) -> int:
        """How many items are done."""
        return self._add("finished", 0)

    def made(self) -> list[int]:
        """How many items each rank made."""
        return [self._add(f"made/{rank}", 0) for rank in range(self.world_size)]

    def hands(self) -> list[int | None]:
        """The item in each rank's hands."""
        return [int(item) if (item := self._read(f"hand/{rank}")) else None for rank in range(self.world_size)]

    def fail(self, message: str) -> None:
        """Tell all ranks to stop; the first message is the one that all will raise."""
        self._swap("failed", "", message)

    def failure(self) -> str:
        """What ``fail`` was told, or an empty string."""
        return self._read("failed")

    def meet(self) -> None:
        """Wait until all ranks are here, however long that takes.

        Raises:
            RunError: A rank failed or died.
        """
        self._set(f"here/{self.rank}", "1")
        missing = [rank for rank in range(self.world_size) if rank != self.rank]
        while missing := [rank for rank in missing if not self._read(f"here/{rank}")]:
            dead = self.dead()
            if dead.issuperset(missing):
                break
            time.sleep(POLL)
        if missing:
            # Also for those that are only slow: the first collective without this rank would hang.
            self.fail(
                f"rank {', '.join(map(str, missing))} of {self.world_size} died; what the others made is in the store: "
                "start the same command again"
            )
        if failure := self.failure():
            raise RunError(failure)

    def close(self) -> None:
        """Leave. Rank 0 waits, for as long as is decent, until no other rank asks its store any more."""
        self._stage = "closed"
        end = time.monotonic() + min(self._patience, 10)
        if self.rank == 0:
            others = set(range(1, self.world_size))
            while others and time.monotonic() < end:
                others = {rank for rank in others - self.dead() if not self._read(str(rank))}
                time.sleep(POLL / 10)
        self._closing.set()
        self._heart.join(self._patience)
        if self.rank != 0 and self._lost is None:
            self._set(str(self.rank), "1")

    # The store's operations under the stage's name; a lost store becomes one sentence.

    def _add(self, name: str, amount: int = 1) -> int:
        return self._ask(lambda: self._store.add(f"{self._stage}/{name}", amount))

    def _set(self, name: str, value: str) -> None:
        self._ask(lambda: self._store.set(f"{self._stage}/{name}", value))

    def _swap(self, name: str, old: str, new: str) -> str:
        return self._ask(lambda: self._store.compare_set(f"{self._stage}/{name}", old, new)).decode()

    def _read(self, name: str) -> str:
        key = f"{self._stage}/{name}"
        return self._ask(lambda: self._store.get(key).decode() if self._store.check([key]) else "")

    def _ask(self, act: Callable[[], T]) -> T:
        if self._lost is None:
            try:
                return act()
            except RuntimeError as error:
                self._lost = error
        raise RunError(
            "rank 0, which holds the work queue, died; what was made is in the store: start the same command again"
        ) from self._lost
