"""A work queue shared by all ranks, on a key-value store of torch.distributed; no rank waits in a collective."""

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

HEARTBEAT_TIMEOUT = 60.0
POLL_INTERVAL = 0.1


class WorkQueue:
    """Assigns numbered items, each to one rank; created, used and closed by all ranks.

    Rank 0 hosts the key-value store. Every rank increments its heartbeat counter there; a rank whose counter does not
    change for ``heartbeat_timeout`` seconds of another rank's clock is lost to that rank, and its unfinished items are
    reassigned. Owners are set by compare-and-set, so no item is assigned twice.

    Args:
        heartbeat_timeout: Seconds without a heartbeat after which a rank counts as lost.
    """

    def __init__(self, heartbeat_timeout: float = HEARTBEAT_TIMEOUT) -> None:
        self.rank, self.world_size = distributed.rank(), distributed.world_size()
        self._heartbeat_timeout = heartbeat_timeout
        self._store = self._connect()
        # Last heartbeat count per rank, and when this rank saw it change.
        self._heartbeats: dict[int, tuple[int, float]] = {}
        self._store_error: BaseException | None = None
        self._stage, self._count, self._closing = "", 0, threading.Event()
        self._reclaimed: list[int] = []
        self._handled_losses: frozenset[int] = frozenset()
        self._heartbeat_thread = threading.Thread(target=self._send_heartbeats, daemon=True, name="work-queue")
        self._heartbeat_thread.start()

    def _connect(self) -> Any:
        # The stores are documented, but missing from the type stubs.
        if self.world_size == 1:
            return dist.HashStore()  # type: ignore[attr-defined]
        hosts = set(distributed.gather(socket.gethostname()))
        # Every launcher sets a host that all ranks can reach.
        host = os.environ.get("MASTER_ADDR") or ("localhost" if len(hosts) == 1 else socket.getfqdn())
        server, address = None, None
        if self.rank == 0:
            server = dist.TCPStore(host, 0, is_master=True, wait_for_workers=False)  # type: ignore[attr-defined]
            address = [host, server.port]
        host, port = distributed.broadcast(address)
        return server or dist.TCPStore(host, port, is_master=False, wait_for_workers=False)  # type: ignore[attr-defined]

    def _send_heartbeats(self) -> None:
        interval = min(1.0, self._heartbeat_timeout / 5)
        while not self._closing.is_set():
            try:
                self._store.add(f"beat/{self.rank}", 1)
                now = time.monotonic()
                for rank in range(self.world_size):
                    # add(0) reads a counter that may not exist yet; a get would wait for it.
                    count = self._store.add(f"beat/{rank}", 0)
                    if rank not in self._heartbeats or self._heartbeats[rank][0] != count:
                        self._heartbeats[rank] = (count, now)
            except RuntimeError as error:
                # The store died with rank 0; the next call of the queue raises it.
                self._store_error = error
                return
            self._closing.wait(interval)

    def lost_ranks(self) -> frozenset[int]:
        """The ranks without a heartbeat for longer than the timeout."""
        now = time.monotonic()
        others = [(rank, changed) for rank, (_, changed) in list(self._heartbeats.items()) if rank != self.rank]
        return frozenset(rank for rank, changed in others if now - changed > self._heartbeat_timeout)

    def start_stage(self, stage: str, count: int) -> None:
        """Fill the queue with items ``0 .. count - 1``; ``stage`` is unique among the stages of this queue."""
        self._stage, self._count = f"stage/{stage}", count
        self._reclaimed, self._handled_losses = [], frozenset()

    def take(self) -> int | None:
        """The number of an item for this rank to compute; None if no item is free now."""
        while not self._reclaimed:
            ticket = self._add("tickets") - 1
            if ticket >= self._count:
                break
            if self._claim(ticket, ""):
                return ticket
        self._reclaim()
        return self._reclaimed.pop(0) if self._reclaimed else None

    def _claim(self, item: int, owner: str) -> bool:
        return self._swap(f"owner/{item}", owner, str(self.rank)) == str(self.rank)

    def _reclaim(self) -> None:
        """Claim unfinished items of lost ranks; every other rank may try, each item goes to one of them."""
        lost = self.lost_ranks()
        if lost <= self._handled_losses:
            return
        self._handled_losses |= lost
        for item in range(self._count):
            if self._read(f"done/{item}"):
                continue
            owner = self._read(f"owner/{item}")
            # A lost rank may have taken a ticket without claiming its item.
            if (not owner or int(owner) in lost) and self._claim(item, owner):
                self._reclaimed.append(item)

    def set_current_item(self, item: int | None) -> None:
        """Publish the item that this rank computes now, for the progress bar; None for none."""
        self._set(f"current/{self.rank}", "" if item is None else str(item))

    def mark_done(self, item: int, computed: bool) -> None:
        """Mark an item as cached in the artifact store.

        Args:
            item: Its number.
            computed: Whether this rank computed it, rather than another run.
        """
        if self._swap(f"done/{item}", "", str(self.rank)) == str(self.rank):
            self._add("num_done")
            if computed:
                self._add(f"computed/{self.rank}")

    def num_done(self) -> int:
        """Number of finished items of the stage."""
        return self._add("num_done", 0)

    def num_computed(self) -> list[int]:
        """Number of items that each rank computed, by rank."""
        return [self._add(f"computed/{rank}", 0) for rank in range(self.world_size)]

    def current_items(self) -> list[int | None]:
        """The item that each rank computes now, by rank."""
        return [int(item) if (item := self._read(f"current/{rank}")) else None for rank in range(self.world_size)]

    def report_failure(self, message: str) -> None:
        """Stop all ranks; all raise the first message that is reported."""
        self._swap("failure", "", message)

    def failure(self) -> str:
        """The message of ``report_failure``, or an empty string."""
        return self._read("failure")

    def wait_for_all(self) -> None:
        """Wait until all ranks have called this, without a timeout for ranks that are alive.

        Raises:
            RunError: A rank failed or was lost.
        """
        self._set(f"arrived/{self.rank}", "1")
        missing = [rank for rank in range(self.world_size) if rank != self.rank]
        while missing := [rank for rank in missing if not self._read(f"arrived/{rank}")]:
            if self.lost_ranks().issuperset(missing):
                break
            time.sleep(POLL_INTERVAL)
        if missing:
            # Also stops ranks that are only slow: their first collective without this rank would hang.
            self.report_failure(
                f"rank {', '.join(map(str, missing))} of {self.world_size} was lost; finished items are in the store: "
                "run the same command again to resume"
            )
        if failure := self.failure():
            raise RunError(failure)

    def close(self) -> None:
        """Leave the queue; rank 0 first waits, 10 seconds at most, until the other ranks have left its store."""
        self._stage = "closed"
        deadline = time.monotonic() + min(self._heartbeat_timeout, 10)
        if self.rank == 0:
            others = set(range(1, self.world_size))
            while others and time.monotonic() < deadline:
                others = {rank for rank in others - self.lost_ranks() if not self._read(str(rank))}
                time.sleep(POLL_INTERVAL / 10)
        self._closing.set()
        self._heartbeat_thread.join(self._heartbeat_timeout)
        if self.rank != 0 and self._store_error is None:
            self._set(str(self.rank), "1")

    # Operations of the key-value store under the stage's name; a lost store raises RunError.

    def _add(self, name: str, amount: int = 1) -> int:
        return self._call(lambda: self._store.add(f"{self._stage}/{name}", amount))

    def _set(self, name: str, value: str) -> None:
        self._call(lambda: self._store.set(f"{self._stage}/{name}", value))

    def _swap(self, name: str, old: str, new: str) -> str:
        return self._call(lambda: self._store.compare_set(f"{self._stage}/{name}", old, new)).decode()

    def _read(self, name: str) -> str:
        key = f"{self._stage}/{name}"
        return self._call(lambda: self._store.get(key).decode() if self._store.check([key]) else "")

    def _call(self, operation: Callable[[], T]) -> T:
        if self._store_error is None:
            try:
                return operation()
            except RuntimeError as error:
                self._store_error = error
        raise RunError(
            "rank 0, which hosts the work queue, was lost; finished items are in the store: "
            "run the same command again to resume"
        ) from self._store_error
