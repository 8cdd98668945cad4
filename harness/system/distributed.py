"""Communication between ranks, as JSON bytes (never pickle), and the end of processes."""

import json
import os
import threading
import time
from collections.abc import Callable
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

from harness.system.errors import OvsegError, RunError

T = TypeVar("T")

CHUNK_BYTES = 2**26  # broadcast at once, so that a whole bank need not fit on a device


def rank() -> int:
    """This process's global rank; 0 outside a process group."""
    return dist.get_rank() if dist.is_available() and dist.is_initialized() else 0


def world_size() -> int:
    """Number of ranks; 1 outside a process group."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def _device() -> torch.device:
    """The device of tensors to send: NCCL needs CUDA tensors, gloo CPU tensors."""
    return torch.device("cuda", torch.cuda.current_device()) if dist.get_backend() == "nccl" else torch.device("cpu")


def _encode(value: Any) -> Tensor:
    return torch.frombuffer(bytearray(json.dumps(value).encode()), dtype=torch.uint8)


def _decode(content: Tensor) -> Any:
    return json.loads(content.cpu().numpy().tobytes())


def gather(value: Any) -> list[Any]:
    """Every rank's JSON value, in rank order, on every rank."""
    if world_size() == 1:
        return [value]
    device = _device()
    content = _encode(value).to(device)
    length = torch.tensor([content.numel()], device=device)
    lengths = [torch.zeros_like(length) for _ in range(world_size())]
    dist.all_gather(lengths, length)
    sizes = [int(length.item()) for length in lengths]
    # all_gather needs equal shapes: pad to the longest.
    padded = torch.zeros(max(sizes), dtype=torch.uint8, device=device)
    padded[: content.numel()] = content
    contents = [torch.zeros_like(padded) for _ in sizes]
    dist.all_gather(contents, padded)
    return [_decode(content[:size]) for content, size in zip(contents, sizes, strict=True)]


def broadcast(value: Any) -> Any:
    """Rank 0's JSON value on every rank; other ranks' values are ignored."""
    if world_size() == 1:
        return value
    device = _device()
    content = _encode(value).to(device) if rank() == 0 else torch.zeros(0, dtype=torch.uint8, device=device)
    length = torch.tensor([content.numel()], device=device)
    dist.broadcast(length, 0)
    if rank() != 0:
        content = torch.zeros(int(length.item()), dtype=torch.uint8, device=device)
    dist.broadcast(content, 0)
    return _decode(content)


def broadcast_bytes(content: bytes, source: int = 0) -> bytes:
    """``content`` of rank ``source`` on every rank, sent in chunks; other ranks' contents are ignored."""
    if world_size() == 1:
        return content
    device, is_source = _device(), rank() == source
    length = torch.tensor([len(content) if is_source else 0], device=device)
    dist.broadcast(length, source)
    received = bytearray(content) if is_source else bytearray(int(length.item()))
    for start in range(0, len(received), CHUNK_BYTES):
        count = min(CHUNK_BYTES, len(received) - start)
        view = torch.frombuffer(received, dtype=torch.uint8, offset=start, count=count)
        chunk = view.to(device)
        dist.broadcast(chunk, source)
        if not is_source and chunk is not view:
            view.copy_(chunk)
    return bytes(received)


def run_and_sync_errors(action: Callable[[], T] | None) -> T | None:
    """Run ``action`` on the ranks that pass one; if it fails on any rank, raise its error on all ranks.

    Called by all ranks, so that none waits in a collective for a rank that failed.

    Returns:
        The action's value; None on ranks that pass no action.

    Raises:
        RunError: The message of the lowest rank that failed with an ``OvsegError``.
    """
    value, message = None, None
    try:
        value = action() if action is not None else None
    except OvsegError as error:
        message = str(error)
    messages = [text for text in gather(message) if text is not None]
    if messages:
        raise RunError(messages[0])
    return value


def is_main_process() -> bool:
    """Whether this is rank 0 or no rank at all: the process that prints. Needs no process group."""
    return int(os.environ.get("RANK", os.environ.get("LOCAL_RANK", "0"))) == 0


def leave_process_group() -> None:
    """Destroy the process group, if there is one: without this about one gloo launch in five aborts at exit."""
    if dist.is_available() and dist.is_initialized():
        dist.destroy_process_group()


def exit_with_parent(interval: float = 0.5) -> None:
    """Exit when the process that launched this one dies, so that a killed run leaves no rank behind.

    A rank whose launcher was killed with SIGKILL would otherwise keep running and writing records until it blocks in
    a collective that no other rank joins.

    Args:
        interval: Seconds between two checks.
    """
    parent = os.getppid()

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(interval)
        os._exit(1)

    threading.Thread(target=watch, daemon=True, name="exit-with-parent").start()
