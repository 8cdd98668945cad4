"""The precompute stage: what a method needs before its first image is made once, over all ranks, and kept."""

import logging
import os
import random
import socket
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Protocol

import numpy as np
import safetensors.torch
import torch
from torch import Tensor

from harness.artifacts.progress import StageProgress
from harness.artifacts.queue import PATIENCE, POLL, WorkQueue
from harness.artifacts.stage import Precomputed, Stage, StageReport
from harness.artifacts.store import ArtifactStore, serialize
from harness.artifacts.work_item import WorkItem, key_of
from harness.system import distributed
from harness.system.errors import OvsegError, RunError
from harness.system.provenance import hash_tensors

_log = logging.getLogger(__name__)


class Precomputable(Protocol):
    """What precompute asks of a method; see ``SegmentationMethod``."""

    name: str

    def stages(self) -> Sequence[Stage]:
        """What is computed once, over all ranks; a later stage reads the earlier ones."""

    def assemble(self, store: ArtifactStore) -> dict[str, Tensor]:
        """The bank, on rank 0."""

    def adopt(self, bank: dict[str, Tensor]) -> None:
        """Take over the bank, on every rank."""


def precompute(method: Precomputable, store: ArtifactStore, patience: float = PATIENCE) -> Precomputed:
    """Make what is missing, then give every rank the same bank; called by all ranks.

    Ranks wait for each other by polling a queue, so that an item may take longer than the process group's timeout.

    Args:
        method: Loaded, on its device.
        store: This rank's store; ranks may share its folder or have one each.
        patience: Seconds without a sign of life after which a rank's work is given to the others.

    Raises:
        OvsegError: On every rank that lives: an item could not be made, a rank died, or the banks differ.
    """
    return precompute_all([method], store, patience)[0]


def precompute_all(
    methods: Sequence[Precomputable], store: ArtifactStore, patience: float = PATIENCE
) -> list[Precomputed]:
    """``precompute`` for each of some methods in turn; what several of them need is made, and looked for, once."""
    staged = [(method, method.stages()) for method in methods]
    if not any(stages for _, stages in staged):
        return [Precomputed()] * len(staged)
    queue, settled = WorkQueue(patience), set[str]()
    try:
        done = [
            _one(method, stages, f"{number}", store, queue, settled) if stages else Precomputed()
            for number, (method, stages) in enumerate(staged)
        ]
    except OvsegError:
        queue.close()
        raise
    except BaseException as error:
        _report(queue, f"rank {queue.rank} ended: {type(error).__name__}")
        raise
    queue.close()
    return done


def _one(
    method: Precomputable,
    stages: Sequence[Stage],
    name: str,
    store: ArtifactStore,
    queue: WorkQueue,
    settled: set[str],
) -> Precomputed:
    """One method's stages and bank; ``name`` tells it in the queue, ``settled`` has the items known to be there."""
    reports = tuple(_run(stage, f"{name}-{i}-{stage.name}", store, queue, settled) for i, stage in enumerate(stages))
    content = _assemble(method, f"{name}-assemble", store, queue)
    bank = safetensors.torch.load(distributed.broadcast_bytes(content))
    mine = hash_tensors(bank)
    hashes = distributed.gather(mine)
    if len(set(hashes)) != 1:
        wrong = [rank for rank, found in enumerate(hashes) if found != hashes[0]]
        raise RunError(f"rank {wrong[0]} holds another bank than rank 0 ({hashes[wrong[0]][:12]}, {hashes[0][:12]})")
    method.adopt(bank)
    return Precomputed(reports, mine if bank else None)


def _report(queue: WorkQueue, message: str) -> None:
    """Tell the other ranks, unless there is nothing left to tell it with."""
    try:
        queue.fail(message)
    except RunError:
        _log.debug("the queue is gone", exc_info=True)


def _run(stage: Stage, namespace: str, store: ArtifactStore, queue: WorkQueue, settled: set[str]) -> StageReport:
    """One stage, from what the stores have to every store having all."""
    began = time.perf_counter()
    every = {item.key: item for item in stage.items()}
    if len(set(distributed.gather(key_of({"keys": list(every)})))) != 1:
        raise RunError(f"the ranks do not agree on the items of stage '{stage.name}'")
    items = [item for key, item in every.items() if key not in settled]
    if not items:
        return StageReport(stage.name, len(every), (0,) * queue.world_size, 0, time.perf_counter() - began)
    sound = _sound(items, store)
    missing = [item for number, item in enumerate(items) if not any(number in numbers for numbers in sound)]
    queue.begin(namespace, len(missing))
    if missing:
        with StageProgress(stage.name, missing, queue):
            _work(stage, missing, store, queue)
            queue.meet()
    made = queue.made()
    copied = _spread(items, sound[queue.rank], store)
    settled.update(every)
    return StageReport(stage.name, len(every), tuple(made), copied, time.perf_counter() - began)


def _sound(items: Sequence[WorkItem], store: ArtifactStore) -> list[set[int]]:
    """Which items each rank's store has, sound; damaged ones are named and removed.

    Ranks that share a folder share the reading, too.
    """
    folders = distributed.gather(_identity(store.root))
    mates = [rank for rank, folder in enumerate(folders) if folder == folders[distributed.rank()]]
    share = range(mates.index(distributed.rank()), len(items), len(mates))
    found: list[int] = []

    def look() -> None:
        found.extend(number for number in share if store.mend(items[number].key, items[number].title))

    distributed.together(look)
    shares = distributed.gather(found)
    by_folder: dict[str, set[int]] = {}
    for folder, numbers in zip(folders, shares, strict=True):
        by_folder.setdefault(folder, set()).update(numbers)
    return [by_folder[folder] for folder in folders]


def _identity(root: Path) -> str:
    """Equal for two processes only if they see the same folder on the same machine; a shared disk may go unseen."""
    boot = Path("/proc/sys/kernel/random/boot_id")
    machine = boot.read_text().strip() if boot.exists() else socket.gethostname()
    try:
        root.mkdir(parents=True, exist_ok=True)
        state = root.stat()
    except OSError:
        return f"{machine} {root} {os.getpid()}"
    return f"{machine} {state.st_dev} {state.st_ino}"


def _work(stage: Stage, items: Sequence[WorkItem], store: ArtifactStore, queue: WorkQueue) -> None:
    """Take items until all are done, by whomever."""
    deferred: list[int] = []
    while queue.finished() < len(items) and not queue.failure():
        taken = queue.take()
        number = taken if taken is not None else deferred.pop(0) if deferred else None
        if number is None:
            time.sleep(POLL)
            continue
        queue.hold(number)
        item = items[number]
        try:
            made = _make(stage, item, store)
        except Exception as error:
            why = str(error) if isinstance(error, OvsegError) else f"{type(error).__name__}: {error}"
            _log.debug("rank %d could not make %s", queue.rank, item, exc_info=True)
            queue.fail(f"{stage.name}: '{item.title}' could not be made on rank {queue.rank}: {' '.join(why.split())}")
            return
        finally:
            _letting_go(queue)
        if made is None:
            # Another run makes it now; it stays this rank's to look after.
            deferred.append(number)
            if taken is None:
                time.sleep(POLL)
        else:
            queue.finish(number, made)


def _letting_go(queue: WorkQueue) -> None:
    try:
        queue.hold(None)
    except RunError:
        # The next question to the queue raises it again, after the entry is safe.
        _log.debug("the queue is gone", exc_info=True)


def _make(stage: Stage, item: WorkItem, store: ArtifactStore) -> bool | None:
    """Make an item if nobody has; True if it was made here, False if it was there, None while another run is at it."""
    with store.lock(item.key) as held:
        if not held:
            return None
        if store.mend_held(item.key, item.title):
            return False
        began = time.perf_counter()
        with _seeded(item.key):
            tensors = stage.make(item, store)
        store.put(item, tensors, time.perf_counter() - began)
    return True


@contextmanager
def _seeded(key: str) -> Iterator[None]:
    """Randomness that depends on the item alone and leaves no trace: a run that reads goes on like one that made."""
    devices = [torch.cuda.current_device()] if torch.cuda.is_available() and torch.cuda.is_initialized() else []
    python, numpy = random.getstate(), np.random.get_state()
    with torch.random.fork_rng(devices):
        seed = int(key[:8], 16)
        torch.manual_seed(seed)
        np.random.seed(seed)
        random.seed(seed)
        try:
            yield
        finally:
            random.setstate(python)
            np.random.set_state(numpy)


def _spread(items: Sequence[WorkItem], sound: set[int], store: ArtifactStore) -> int:
    """Send entries to the ranks whose store lacks them, each from the lowest rank that has it; returns how many."""
    lacking = [number for number, item in enumerate(items) if number not in sound and not store.has(item.key)]
    lists = distributed.gather(lacking)
    wanted = sorted({number for numbers in lists for number in numbers})
    for number in wanted:
        item = items[number]
        source = next((rank for rank, numbers in enumerate(lists) if number not in numbers), None)
        if source is None:
            raise RunError(f"{item} is in no rank's store; was it removed meanwhile? Start the same command again")
        mine = distributed.rank() == source
        pair = distributed.together(partial(store.export, item.key) if mine else None) or (b"", b"")
        manifest, tensors = (distributed.broadcast_bytes(content, source) for content in pair)
        needy = number in lists[distributed.rank()]
        distributed.together(partial(_receive, store, item.key, manifest, tensors) if needy else None)
    return len(wanted)


def _receive(store: ArtifactStore, key: str, manifest: bytes, tensors: bytes) -> None:
    with store.lock(key, wait=True):
        # Of ranks that share a folder the first has written it.
        if not store.has(key):
            store.receive(key, manifest, tensors)


def _assemble(method: Precomputable, namespace: str, store: ArtifactStore, queue: WorkQueue) -> bytes:
    """The bank's bytes on rank 0; the other ranks wait by polling, since it may take long."""
    queue.begin(namespace, 0)
    content = b""
    if queue.rank == 0:
        try:
            content = serialize(method.assemble(store))
        except Exception as error:
            why = str(error) if isinstance(error, OvsegError) else f"{type(error).__name__}: {error}"
            _log.debug("the bank could not be assembled", exc_info=True)
            queue.fail(f"{method.name}: the bank could not be assembled: {why}")
    queue.meet()
    return content
