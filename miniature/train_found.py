"""Train the small FOUND head: a 1x1 convolution on the last keys of the small DINOv2 that finds objects.

From tags alone, on the frozen backbone: a linear probe of the keys learns which of the classes each patch shows, given
only the classes of an image or crop; the head learns the probe's share of things, among the classes that the
tags do not rule out. A crop without things is thus background everywhere, one of things alone is object everywhere.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import Dinov2Model

from miniature.crops import Sample, draw_scenes
from miniature.train_dino import PATCH, SHAPES, KeyTap, allowed_class_shares, presence_loss, sample
from miniature.training import WEIGHTS, Progress, half_precision, prepare, rate, to_tensor, write_tensors
from miniature.world import CLASSES, THINGS, Scene

FOLDER = WEIGHTS / "found"


def thing_share(logits: Tensor, seen: Tensor, unsure: Tensor) -> Tensor:
    """How much of each patch is a thing, [B, N] in 0..1, from class logits [B, N, C] and the images' tags."""
    return allowed_class_shares(logits, seen, unsure)[..., : len(THINGS)].sum(-1)


def batch(rng: np.random.Generator, scenes: Sequence[Scene], height: int, width: int, count: int) -> list[Sample]:
    """Crops of one shape; a third of the small ones are redrawn until they show things only."""
    samples = [sample(rng, scenes, height, width) for _ in range(count)]
    if max(height, width) <= 32:
        for position in range(count // 3):
            for _ in range(20):
                if not (samples[position].seen + samples[position].unsure)[len(THINGS) :].any():
                    break
                samples[position] = sample(rng, scenes, height, width)
    return samples


def train(
    steps: int = 400,
    num_scenes: int = 2000,
    peak: float = 0.01,
    seed: int = 3,
    dino: Path = WEIGHTS / "dino",
    folder: Path = FOLDER,
) -> None:
    """Train and save.

    Args:
        steps: optimizer steps, each on images of one shape.
        num_scenes: training scenes, kept in memory.
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
    width = model.config.hidden_size
    tap, decoder, probe = KeyTap(model), nn.Conv2d(width, 1, 1), nn.Linear(width, len(CLASSES))
    scenes = draw_scenes(num_scenes)
    adam = torch.optim.AdamW([*decoder.parameters(), *probe.parameters()], lr=peak, weight_decay=1e-3)
    report = Progress("found", steps)
    for step in range(steps):
        for group in adam.param_groups:
            group["lr"] = rate(step, steps, peak, 30)
        height, width, count = SHAPES[int(rng.integers(len(SHAPES)))]
        samples = batch(rng, scenes, height, width, count)
        seen = torch.from_numpy(np.stack([one.seen for one in samples]))
        unsure = torch.from_numpy(np.stack([one.unsure for one in samples]))
        with torch.no_grad(), half_precision(height * width // PATCH**2):
            model(to_tensor([one.image for one in samples]))
        keys = tap.keys[:, 1:].float()
        classes = probe(keys)
        objects = decoder(keys.transpose(1, 2).unsqueeze(-1)).flatten(1)
        target = thing_share(classes.detach(), seen, unsure)
        loss_probe = presence_loss(classes, seen, unsure)
        # Objects are the smaller part of most images; they count as much as the background, within reason.
        balance = ((1 - target).sum() / target.sum().clamp(min=1)).clamp(1, 4)
        loss_head = F.binary_cross_entropy_with_logits(objects, target, pos_weight=balance)
        adam.zero_grad(set_to_none=True)
        (loss_probe + loss_head).backward()
        adam.step()
        report(step, probe=loss_probe.item(), head=loss_head.item())
    write_tensors(
        folder / "found.safetensors", {f"decoder.{name}": value for name, value in decoder.state_dict().items()}
    )
