"""Code shared by the training scripts: threads, batches, schedule, and writing of weights."""

from __future__ import annotations

import json
import math
import os
import random
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

WEIGHTS = Path(__file__).parent / "weights"
# The statistics that CLIP and DINO checkpoints carry in their preprocessing; both tiny models use one simple pair.
MEAN = (0.5, 0.5, 0.5)
STD = (0.25, 0.25, 0.25)


def prepare(seed: int) -> np.random.Generator:
    """Fix all seeds, use one thread (two slow each other down beside any other job), and return the data's source."""
    torch.set_num_threads(1)
    torch.manual_seed(seed)
    random.seed(seed)
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    return np.random.default_rng(seed)


@contextmanager
def half_precision(tokens: int = 0) -> Iterator[None]:
    """bf16 autocast, with the attention that is faster on a CPU, forwards and backwards, for this many tokens."""
    kernel = SDPBackend.FLASH_ATTENTION if tokens > 200 else SDPBackend.MATH
    with torch.autocast("cpu", torch.bfloat16), sdpa_kernel(kernel):
        yield


def to_tensor(images: list[np.ndarray]) -> Tensor:
    """Equally large images uint8 [h, w, 3] as a normalised batch float32 [B, 3, h, w]."""
    batch = torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2).float() / 255
    return (batch - torch.tensor(MEAN)[:, None, None]) / torch.tensor(STD)[:, None, None]


def rate(step: int, steps: int, peak: float, warmup: int = 100) -> float:
    """Learning rate at a step: linear warm-up, then half a cosine down to a fiftieth."""
    if step < warmup:
        return peak * (step + 1) / warmup
    share = (step - warmup) / max(1, steps - warmup)
    return peak * (0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * share)))


def optimizer(model: nn.Module, peak: float, decay: float = 0.05) -> torch.optim.AdamW:
    """AdamW with weight decay on matrices alone."""
    named = [(name, p) for name, p in model.named_parameters() if p.requires_grad]
    matrices = [p for name, p in named if p.ndim > 1 and "embedding" not in name]
    others = [p for name, p in named if not (p.ndim > 1 and "embedding" not in name)]
    groups = [{"params": matrices, "weight_decay": decay}, {"params": others, "weight_decay": 0.0}]
    return torch.optim.AdamW(groups, lr=peak, betas=(0.9, 0.98))


class Average:
    """A running mean of a model's weights, which is what is saved; its decay grows over the first steps."""

    def __init__(self, model: nn.Module, decay: float = 0.998) -> None:
        self.decay, self.steps = decay, 0
        self.values = {name: value.detach().clone().float() for name, value in model.state_dict().items()}

    def update(self, model: nn.Module) -> None:
        """Take one step towards the model's present weights."""
        self.steps += 1
        share = 1 - min(self.decay, self.steps / (self.steps + 10))
        for name, value in model.state_dict().items():
            self.values[name].lerp_(value.detach().float(), share)


def write_tensors(path: Path, tensors: dict[str, Tensor]) -> None:
    """Write safetensors in fp16 atomically."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(path.name + ".part")
    halves = {
        name: (value.half() if value.is_floating_point() else value).contiguous() for name, value in tensors.items()
    }
    save_file(halves, part, metadata={"format": "pt"})
    part.chmod(0o644)
    os.replace(part, path)


def write_json(path: Path, content: dict[str, object]) -> None:
    """Write JSON atomically."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(path.name + ".part")
    part.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
    os.replace(part, path)


class Progress:
    """Prints running means of named numbers every ``every`` steps."""

    def __init__(self, name: str, steps: int, every: int = 100) -> None:
        self.name, self.steps, self.every = name, steps, every
        self.began, self.sums = time.monotonic(), dict[str, float]()

    def __call__(self, step: int, **numbers: float) -> None:
        """Add the numbers of one step."""
        for key, value in numbers.items():
            self.sums[key] = self.sums.get(key, 0.0) + value
        if (step + 1) % self.every == 0 or step + 1 == self.steps:
            count = (step % self.every) + 1
            means = "  ".join(f"{key} {value / count:.3f}" for key, value in self.sums.items())
            print(f"{self.name} {step + 1}/{self.steps}  {time.monotonic() - self.began:.0f} s  {means}", flush=True)
            self.sums = {}
