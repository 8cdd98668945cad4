"""Precompute: a method's stages are computed once, over all ranks, and cached; then all ranks get the same bank."""

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
from harness.artifacts.queue import HEARTBEAT_TIMEOUT, POLL_INTERVAL, WorkQueue
from harness.artifacts.stage import PrecomputeReport, Stage, StageReport
from harness.artifacts.store import ArtifactStore, serialize
from harness.artifacts.work_item import WorkItem, key_of
from harness.system import distributed
from harness.system.errors import OvsegError, RunError
from harness.system.provenance import hash_tensors

_log = logging.getLogger(__name__)


class Precomputable(Protocol):
    """The part of ``SegmentationMethod`` that precompute needs."""

    name: str

    def stages(self) -> Sequence[Stage]:
        """The stages, in order; a later stage reads the items of earlier ones."""

    def assemble(self, store: ArtifactStore) -> dict[str, Tensor]:
        """Assemble the bank from the store, on rank 0."""

    def adopt(self, bank: dict[str, Tensor]) -> None:
        """Receive the bank, on every rank."""


def precompute(
    method: Precomputable, store: ArtifactStore, heartbeat_timeout: float = HEARTBEAT_TIMEOUT
) -> PrecomputeReport:
    """Compute missing items, then give every rank the same bank; called by all ranks.

    Ranks wait for each other by polling a queue, so an item may take longer than the process group's timeout.

    Args:
        method: Loaded, on its device.
        store: This rank's store; ranks may share its folder or have one each.
        heartbeat_timeout: Seconds without a heartbeat after which a rank's items are reassigned to other ranks.

    Raises:
        OvsegError: On every rank still alive: an item could not be computed, a rank was lost, or the banks differ.
    """
    return precompute_all([method], store, heartbeat_timeout)[0]


def precompute_all(
    methods: Sequence[Precomputable], store: ArtifactStore, heartbeat_timeout: float = HEARTBEAT_TIMEOUT
) -> list[PrecomputeReport]:
    """Precompute several methods in turn; items that several need are looked up and computed once.

    Args:
        methods: Loaded, on their device.
        store: This rank's store, see ``precompute``.
        heartbeat_timeout: See ``precompute``.

    Returns:
        A report per method.

    Raises:
        OvsegError: See ``precompute``.
    """
    all_stages = [method.stages() for method in methods]
    if not any(all_stages):
        return [PrecomputeReport()] * len(methods)
    queue, cached_keys = WorkQueue(heartbeat_timeout), set[str]()
    try:
        reports = [
            _precompute_method(method, stages, f"{number}", store, queue, cached_keys) if stages else PrecomputeReport()
            for number, (method, stages) in enumerate(zip(methods, all_stages, strict=True))
        ]
    except OvsegError:
        queue.close()
        raise
    except BaseException as error:
        _try_report_failure(queue, f"rank {queue.rank} ended: {type(error).__name__}")
        raise
    queue.close()
    return reports


def _precompute_method(
    method: Precomputable,
    stages: Sequence[Stage],
    name: str,
    store: ArtifactStore,
    queue: WorkQueue,
    cached_keys: set[str],
) -> PrecomputeReport:
    """Run one method's stages and distribute its bank.

    Args:
        method: See ``precompute``.
        stages: Its stages.
        name: Prefix of the method's stages in the queue.
        store: This rank's store.
        queue: Shared by all ranks.
        cached_keys: Keys of items that all stores hold; extended by this method's items.
    """
    reports = tuple(
        _run_stage(stage, f"{name}-{i}-{stage.name}", store, queue, cached_keys) for i, stage in enumerate(stages)
    )
    content = _assemble(method, f"{name}-assemble", store, queue)
    bank = safetensors.torch.load(distributed.broadcast_bytes(content))
    bank_hash = hash_tensors(bank)
    hashes = distributed.gather(bank_hash)
    if len(set(hashes)) != 1:
        wrong = next(rank for rank in range(len(hashes)) if hashes[rank] != hashes[0])
        raise RunError(f"the bank of rank {wrong} differs from that of rank 0 ({hashes[wrong][:12]}, {hashes[0][:12]})")
    method.adopt(bank)
    return PrecomputeReport(reports, bank_hash if bank else None)


def _try_report_failure(queue: WorkQueue, message: str) -> None:
    """Report a failure to the other ranks, unless the queue's store is lost."""
    try:
        queue.report_failure(message)
    except RunError:
        _log.debug("the work queue is lost", exc_info=True)


def _run_stage(
    stage: Stage, namespace: str, store: ArtifactStore, queue: WorkQueue, cached_keys: set[str]
) -> StageReport:
    """Compute a stage's missing items and copy entries until every rank's store holds all items."""
    start = time.perf_counter()
    items_by_key = {item.key: item for item in stage.items()}
    num_items = len(items_by_key)
    if len(set(distributed.gather(key_of({"keys": list(items_by_key)})))) != 1:
        raise RunError(f"the items of stage '{stage.name}' differ between ranks")
    items = [item for key, item in items_by_key.items() if key not in cached_keys]
    if not items:
        return StageReport(stage.name, num_items, (0,) * queue.world_size, 0, time.perf_counter() - start)
    valid = _valid_items(items, store)
    missing = [item for number, item in enumerate(items) if not any(number in numbers for numbers in valid)]
    queue.start_stage(namespace, len(missing))
    if missing:
        with StageProgress(stage.name, missing, queue):
            _compute_items(stage, missing, store, queue)
            queue.wait_for_all()
    num_computed = queue.num_computed()
    num_copied = _copy_between_ranks(items, valid[queue.rank], store)
    cached_keys.update(items_by_key)
    return StageReport(stage.name, num_items, tuple(num_computed), num_copied, time.perf_counter() - start)


def _valid_items(items: Sequence[WorkItem], store: ArtifactStore) -> list[set[int]]:
    """Numbers of the items whose entries are valid, per rank; corrupt entries are reported and removed.

    Ranks that share a folder split the verification among them.
    """
    folders = distributed.gather(_folder_identity(store.root))
    sharing = [rank for rank, folder in enumerate(folders) if folder == folders[distributed.rank()]]
    assigned = range(sharing.index(distributed.rank()), len(items), len(sharing))

    def verify() -> list[int]:
        return [number for number in assigned if store.ensure_valid(items[number].key, items[number].title)]

    valid_numbers = distributed.gather(distributed.run_and_sync_errors(verify))
    by_folder: dict[str, set[int]] = {}
    for folder, numbers in zip(folders, valid_numbers, strict=True):
        by_folder.setdefault(folder, set()).update(numbers)
    return [by_folder[folder] for folder in folders]


def _folder_identity(root: Path) -> str:
    """Equal for two processes only if they use the same folder on one machine; a shared disk may go unnoticed."""
    boot = Path("/proc/sys/kernel/random/boot_id")
    machine = boot.read_text().strip() if boot.exists() else socket.gethostname()
    try:
        root.mkdir(parents=True, exist_ok=True)
        state = root.stat()
    except OSError:
        return f"{machine} {root} {os.getpid()}"
    return f"{machine} {state.st_dev} {state.st_ino}"


def _compute_items(stage: Stage, items: Sequence[WorkItem], store: ArtifactStore, queue: WorkQueue) -> None:
    """Take items from the queue until all are done, on this rank or others."""
    deferred: list[int] = []
    while queue.num_done() < len(items) and not queue.failure():
        taken = queue.take()
        number = taken if taken is not None else deferred.pop(0) if deferred else None
        if number is None:
            time.sleep(POLL_INTERVAL)
            continue
        queue.set_current_item(number)
        item = items[number]
        try:
            computed = _compute_item(stage, item, store)
        except Exception as error:
            why = str(error) if isinstance(error, OvsegError) else f"{type(error).__name__}: {error}"
            _log.debug("rank %d could not compute %s", queue.rank, item, exc_info=True)
            why = " ".join(why.split())
            queue.report_failure(f"{stage.name}: '{item.title}' could not be computed on rank {queue.rank}: {why}")
            return
        finally:
            _clear_current_item(queue)
        if computed is None:
            # Another run computes it now; this rank still has to check that it gets done.
            deferred.append(number)
            if taken is None:
                time.sleep(POLL_INTERVAL)
        else:
            queue.mark_done(number, computed)


def _clear_current_item(queue: WorkQueue) -> None:
    try:
        queue.set_current_item(None)
    except RunError:
        # The next call of the queue raises it again, after the entry is written.
        _log.debug("the work queue is lost", exc_info=True)


def _compute_item(stage: Stage, item: WorkItem, store: ArtifactStore) -> bool | None:
    """Compute and store an item unless it is cached.

    Returns:
        True if it was computed, False if it was cached, None if another process computes it now.
    """
    with store.lock(item.key) as held:
        if not held:
            return None
        if store.ensure_valid_locked(item.key, item.title):
            return False
        start = time.perf_counter()
        with _seeded(item.key):
            tensors = stage.compute(item, store)
        store.put(item, tensors, time.perf_counter() - start)
    return True


@contextmanager
def _seeded(key: str) -> Iterator[None]:
    """Seed all generators with an item's key and restore their states: later draws do not depend on what is cached."""
    devices = [torch.cuda.current_device()] if torch.cuda.is_available() and torch.cuda.is_initialized() else []
    python_state, numpy_state = random.getstate(), np.random.get_state()
    with torch.random.fork_rng(devices):
        seed = int(key[:8], 16)
        torch.manual_seed(seed)
        np.random.seed(seed)
        random.seed(seed)
        try:
            yield
        finally:
            random.setstate(python_state)
            np.random.set_state(numpy_state)


def _copy_between_ranks(items: Sequence[WorkItem], valid: set[int], store: ArtifactStore) -> int:
    """Send entries to the ranks whose store lacks them, each from the lowest rank that has it.

    Returns:
        The number of entries sent.
    """
    missing = [number for number, item in enumerate(items) if number not in valid and not store.has(item.key)]
    missing_by_rank = distributed.gather(missing)
    to_copy = sorted({number for numbers in missing_by_rank for number in numbers})
    for number in to_copy:
        key = items[number].key
        source = next((rank for rank, numbers in enumerate(missing_by_rank) if number not in numbers), None)
        if source is None:
            raise RunError(
                f"{items[number]} is in no rank's store; it was removed meanwhile: run the same command again"
            )
        is_source, is_target = distributed.rank() == source, number in missing_by_rank[distributed.rank()]
        contents = distributed.run_and_sync_errors(partial(store.export, key) if is_source else None) or (b"", b"")
        manifest, tensors = (distributed.broadcast_bytes(content, source) for content in contents)
        distributed.run_and_sync_errors(partial(_receive, store, key, manifest, tensors) if is_target else None)
    return len(to_copy)


def _receive(store: ArtifactStore, key: str, manifest: bytes, tensors: bytes) -> None:
    with store.lock(key, wait=True):
        # Another rank that shares the folder may have written it.
        if not store.has(key):
            store.receive(key, manifest, tensors)


def _assemble(method: Precomputable, namespace: str, store: ArtifactStore, queue: WorkQueue) -> bytes:
    """The bank's bytes on rank 0, nothing on others; they wait by polling, since assembly may take long."""
    queue.start_stage(namespace, 0)
    content = b""
    if queue.rank == 0:
        try:
            content = serialize(method.assemble(store))
        except Exception as error:
            why = str(error) if isinstance(error, OvsegError) else f"{type(error).__name__}: {error}"
            _log.debug("the bank could not be assembled", exc_info=True)
            queue.report_failure(f"{method.name}: the bank could not be assembled: {why}")
    queue.wait_for_all()
    return content
