"""Checkpoints to resume interrupted training: weights, optimizer and step in one safetensors file, without pickle."""

from __future__ import annotations

import os
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn


def _moments(optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """The optimizer's state as named tensors; parameters are numbered as in its state_dict."""
    state = optimizer.state_dict()["state"]
    return {
        f"optimizer/{n}/{key}": torch.as_tensor(value) for n, entry in state.items() for key, value in entry.items()
    }


def save(
    path: Path,
    step: int,
    models: dict[str, nn.Module],
    averages: dict[str, dict[str, Tensor]],
    optimizer: torch.optim.Optimizer,
) -> None:
    """Write the training state atomically.

    Args:
        path: file that `load` reads.
        step: optimizer steps done.
        models: modules by name.
        averages: their running means, by the same names.
        optimizer: its parameters must keep the same order throughout training.
    """
    tensors = {"step": torch.tensor(step), **_moments(optimizer)}
    for name, model in models.items():
        tensors |= {f"model/{name}/{key}": value for key, value in model.state_dict().items()}
        tensors |= {f"average/{name}/{key}": value for key, value in averages[name].items()}
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(path.name + ".part")
    # Cloned, because safetensors refuses tensors that share memory.
    save_file({key: value.detach().clone().contiguous() for key, value in tensors.items()}, part)
    os.replace(part, path)


def load(
    path: Path, models: dict[str, nn.Module], averages: dict[str, dict[str, Tensor]], optimizer: torch.optim.Optimizer
) -> int:
    """Restore what `save` wrote, in place.

    Returns:
        The number of steps done; 0 if there is no such file.
    """
    if not path.exists():
        return 0
    tensors = load_file(path)
    for name, model in models.items():
        front = f"model/{name}/"
        own = {key.removeprefix(front): value for key, value in tensors.items() if key.startswith(front)}
        model.load_state_dict(own)
        for key, value in averages[name].items():
            value.copy_(tensors[f"average/{name}/{key}"])
    state: dict[int, dict[str, Tensor]] = {}
    for key, value in tensors.items():
        if key.startswith("optimizer/"):
            _, number, kind = key.split("/")
            state.setdefault(int(number), {})[kind] = value
    groups = optimizer.state_dict()["param_groups"]
    optimizer.load_state_dict({"state": state, "param_groups": groups})
    return int(tensors["step"])
