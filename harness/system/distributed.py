"""What ranks say to each other, as JSON bytes (never pickle), and how processes end."""

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

PIECE = 2**26  # bytes sent at once, so that a device needs no room for a whole bank


def rank() -> int:
    """This process's global rank; 0 outside a process group."""
    return dist.get_rank() if dist.is_available() and dist.is_initialized() else 0


def world_size() -> int:
    """Number of ranks; 1 outside a process group."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def _device() -> torch.device:
    """NCCL moves CUDA tensors only, gloo moves CPU tensors."""
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
    sizes = [int(n.item()) for n in lengths]
    # all_gather wants equal shapes: pad to the longest.
    padded = torch.zeros(max(sizes), dtype=torch.uint8, device=device)
    padded[: content.numel()] = content
    contents = [torch.zeros_like(padded) for _ in sizes]
    dist.all_gather(contents, padded)
    return [_decode(each[:size]) for each, size in zip(contents, sizes, strict=True)]


def broadcast(value: Any) -> Any:
    """Rank 0's JSON value on every rank; what other ranks pass is ignored."""
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
    """``content`` of rank ``source`` on every rank, sent in pieces; what other ranks pass is ignored."""
    if world_size() == 1:
        return content
    device, mine = _device(), rank() == source
    length = torch.tensor([len(content) if mine else 0], device=device)
    dist.broadcast(length, source)
    received = bytearray(content) if mine else bytearray(int(length.item()))
    for start in range(0, len(received), PIECE):
        view = torch.frombuffer(received, dtype=torch.uint8, offset=start, count=min(PIECE, len(received) - start))
        piece = view.to(device)
        dist.broadcast(piece, source)
        if not mine and piece is not view:
            view.copy_(piece)
    return bytes(received)


def together(act: Callable[[], T] | None) -> T | None:
    """Let some ranks act; if one fails, all raise its error, so that none waits for another.

    Raises:
        RunError: What the first rank that failed could not do.
    """
    value, message = None, None
    try:
        value = act() if act is not None else None
    except OvsegError as error:
        message = str(error)
    failed = [text for text in gather(message) if text is not None]
    if failed:
        raise RunError(failed[0])
    return value


def speaks() -> bool:
    """Whether this process should print: the launcher's own, or the first rank, so that a sentence comes once."""
    return int(os.environ.get("RANK", os.environ.get("LOCAL_RANK", "0"))) == 0


def leave() -> None:
    """Leave the process group, if there is one: without it about one gloo launch in five aborts at exit."""
    if dist.is_available() and dist.is_initialized():
        dist.destroy_process_group()


def end_with_parent(interval: float = 0.5) -> None:
    """End this process when the process that launched it dies, so that a killed run leaves no rank behind.

    A rank whose launcher was killed with SIGKILL would otherwise go on, and keep writing records, until it waits in a
    collective that nobody joins.
    """
    parent = os.getppid()

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(interval)
        os._exit(1)

    threading.Thread(target=watch, daemon=True, name="end-with-parent").start()
