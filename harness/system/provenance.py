"""Provenance of results: package versions, the code's commit, and hashes of weights."""

import hashlib
import platform
import subprocess
from collections.abc import Mapping
from functools import cache
from importlib import metadata
from pathlib import Path

import torch
from torch import Tensor, nn

PACKAGES = (
    "ovseg",
    "torch",
    "torchvision",
    "lightning",
    "torchmetrics",
    "jsonargparse",
    "open_clip_torch",
    "transformers",
    "diffusers",
    "faiss-cpu",
    "scikit-learn",
    "numpy",
    "opencv-python-headless",
)


@cache
def versions() -> dict[str, str]:
    """Installed version of Python and of every package that can change a result; missing packages are left out."""
    installed = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            installed[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return installed


@cache
def commit() -> str | None:
    """The commit of the running code, with ``-dirty`` if tracked files differ from it; None outside a git checkout."""
    folder = Path(__file__).resolve().parent

    def git(*arguments: str) -> str:
        command = ["git", "-C", str(folder), *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=20).stdout.strip()

    try:
        # An installed copy may lie inside another repository: only a checkout that tracks this file counts.
        git("ls-files", "--error-unmatch", Path(__file__).name)
        revision = git("rev-parse", "HEAD")
        return revision + ("-dirty" if git("status", "--porcelain", "--untracked-files=no") else "")
    except (OSError, subprocess.SubprocessError):
        return None


def hash_weights(module: nn.Module) -> str:
    """16 hex digits of the SHA-256 over names, shapes, dtypes and bytes of all parameters and buffers."""
    return hash_tensors(module.state_dict())[:16]


def hash_tensors(tensors: Mapping[str, Tensor]) -> str:
    """64 hex digits of the SHA-256 over names, shapes, dtypes and bytes."""
    digest = hashlib.sha256()
    for name, tensor in sorted(tensors.items()):
        digest.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}\n".encode())
        content = tensor.detach().cpu().contiguous().view(-1)
        digest.update(content.view(torch.uint8).numpy().tobytes() if content.numel() else b"")
    return digest.hexdigest()
