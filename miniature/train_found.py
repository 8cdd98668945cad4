"""Train the small FOUND head: a 1x1 convolution on the last keys of the small DINOv2 that finds objects.

The words of a crop decide: a crop whose words are all stuff is background everywhere, one whose words are all things
is object everywhere, and one with both has some of each. The backbone stays frozen.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import Dinov2Model

from miniature.crops import Sample, pool
from miniature.train_dino import PATCH, SHAPES, KeyTap, sample
from miniature.training import WEIGHTS, Progress, half_precision, prepare, rate, to_tensor, write_tensors
from miniature.world import THINGS, Scene

FOLDER = WEIGHTS / "found"


def kinds(samples: list[Sample]) -> tuple[Tensor, Tensor]:
    """From the words alone: boolean [B] for "no thing is visible" and for "nothing but things is visible"."""
    seen = torch.from_numpy(np.stack([one.seen for one in samples])) > 0
    maybe = seen | (torch.from_numpy(np.stack([one.unsure for one in samples])) > 0)
    things = len(THINGS)
    return ~maybe[:, :things].any(1), seen[:, :things].any(1) & ~maybe[:, things:].any(1)


def objectness_loss(logits: Tensor, empty: Tensor, full: Tensor, part: float = 0.08) -> Tensor:
    """Loss of patch logits [B, N] against the words.

    Args:
        logits: [B, N].
        empty: boolean [B], no thing is visible.
        full: boolean [B], nothing but things is visible.
        part: in every other picture, at least this share of the patches is object and this share is background.
    """
    count = max(1, round(part * logits.shape[1]))
    no, yes = F.softplus(logits), F.softplus(-logits)
    mixed = yes.topk(count, dim=1, largest=False).values.mean(1) + no.topk(count, dim=1, largest=False).values.mean(1)
    return torch.where(empty, no.mean(1), torch.where(full, yes.mean(1), mixed / 2)).mean()


def batch(rng: np.random.Generator, scenes: Sequence[Scene], height: int, width: int, count: int) -> list[Sample]:
    """Crops of one shape; a third of the small ones were looked for until their words were things alone."""
    samples = [sample(rng, scenes, height, width) for _ in range(count)]
    if max(height, width) <= 32:
        for position in range(count // 3):
            for _ in range(20):
                if kinds(samples[position : position + 1])[1]:
                    break
                samples[position] = sample(rng, scenes, height, width)
    return samples


def train(
    steps: int = 800,
    scenes: int = 2000,
    peak: float = 0.02,
    seed: int = 3,
    dino: Path = WEIGHTS / "dino",
    folder: Path = FOLDER,
) -> None:
    """Train and save.

    Args:
        steps: optimizer steps, each on pictures of one shape.
        scenes: training scenes that are drawn and kept.
        peak: highest learning rate.
        seed: for weights and data.
        dino: the backbone.
        folder: where the head goes.

    Raises:
        FileNotFoundError: if the backbone has not been trained.
    """
    if not (dino / "config.json").is_file():
        raise FileNotFoundError(f"{dino} holds no backbone: run `python -m miniature train dino` first")
    rng = prepare(seed)
    model = Dinov2Model.from_pretrained(dino, dtype=torch.float32).eval()
    tap, decoder = KeyTap(model), nn.Conv2d(model.config.hidden_size, 1, 1)
    pictures = pool(scenes)
    adam, report = torch.optim.AdamW(decoder.parameters(), lr=peak, weight_decay=1e-3), Progress("found", steps)
    for step in range(steps):
        for group in adam.param_groups:
            group["lr"] = rate(step, steps, peak, 30)
        height, width, count = SHAPES[int(rng.integers(len(SHAPES)))]
        samples = batch(rng, pictures, height, width, count)
        with torch.no_grad(), half_precision(height * width // PATCH**2):
            model(to_tensor([one.image for one in samples]))
        keys = tap.keys[:, 1:].float().transpose(1, 2).unsqueeze(-1)
        loss = objectness_loss(decoder(keys).flatten(1), *kinds(samples))
        adam.zero_grad(set_to_none=True)
        loss.backward()
        adam.step()
        report(step, loss=loss.item())
    write_tensors(
        folder / "found.safetensors", {f"decoder.{name}": value for name, value in decoder.state_dict().items()}
    )
