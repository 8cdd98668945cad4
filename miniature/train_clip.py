"""Train the small CLIP: an open_clip model of 32-pixel images, from crops and texts that describe them."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from open_clip import CLIP
from torch import Tensor

from miniature import tokenizer as words
from miniature.crops import Sample, clip_sample, draw_scenes
from miniature.training import (
    MEAN,
    STD,
    WEIGHTS,
    Average,
    Progress,
    half_precision,
    optimizer,
    prepare,
    rate,
    to_tensor,
    write_json,
    write_tensors,
)
from miniature.world import THINGS

SIDE = 32
FOLDER = WEIGHTS / "clip"
# Cosines of unmatched pairs must stay above this, as they do in CLIPs trained on the web: CLIP-DIY
# multiplies a cosine by an objectness. Training ends with them at 0.3 and more, so the floor matters only early on.
FLOOR = 0.1


def model_config(vocabulary: int) -> dict[str, object]:
    """The model's open_clip configuration, for a vocabulary of this many tokens."""
    return {
        "embed_dim": 96,
        "vision_cfg": {
            "image_size": SIDE,
            "layers": 4,
            "width": 128,
            "head_width": 32,
            "patch_size": 4,
            "mlp_ratio": 4.0,
        },
        "text_cfg": {
            "context_length": words.CONTEXT_LENGTH,
            "vocab_size": vocabulary,
            "width": 96,
            "heads": 3,
            "layers": 2,
            "hf_tokenizer_name": "tokenizer",
        },
    }


def match_texts(samples: Sequence[Sample], texts: Sequence[str]) -> tuple[Tensor, Tensor]:
    """Which text matches which image.

    A text fits if every class that it names is visible; a text that names no thing fits only an image without things.

    Args:
        samples: B images, each with its own text.
        texts: the T distinct texts among them.

    Returns:
        Two boolean matrices [B, T]: the text matches; the pair is undecided (too little of a class is visible, or the
        text says more than class names).
    """
    first = {sample.text: sample for sample in reversed(samples)}
    own = torch.tensor([[sample.text == text for text in texts] for sample in samples])
    named = torch.from_numpy(np.stack([first[text].named for text in texts]))
    particular = torch.tensor([first[text].particular for text in texts])
    seen = torch.from_numpy(np.stack([sample.seen for sample in samples]))
    unsure = torch.from_numpy(np.stack([sample.unsure for sample in samples]))
    things = len(THINGS)
    names_thing = named[:, :things].any(1)
    possible = ((1 - seen - unsure).clamp(min=0) @ named.T == 0) & (names_thing | ~(seen[:, :things].any(1)[:, None]))
    sure = ((1 - seen) @ named.T == 0) & (names_thing | ~((seen + unsure)[:, :things].any(1)[:, None]))
    fits = own | (possible & sure & ~particular)
    return fits, possible & ~fits


def contrastive_loss(cosines: Tensor, scale: Tensor, fits: Tensor, unknown: Tensor) -> Tensor:
    """CLIP's symmetric contrastive loss with several positives per row, plus the floor under all cosines.

    Args:
        cosines: [B, T].
        scale: logit scale.
        fits: boolean [B, T].
        unknown: boolean [B, T], pairs that are left out.
    """
    logits = (cosines * scale).masked_fill(unknown, -1e4)
    weight = fits.float()
    rows = -(F.log_softmax(logits, 1) * weight).sum(1) / weight.sum(1)
    columns = -(F.log_softmax(logits, 0) * weight).sum(0) / weight.sum(0)
    return (rows.mean() + columns.mean()) / 2 + 20 * F.relu(FLOOR - cosines).square().mean()


def save(model: CLIP, config: dict[str, object], values: dict[str, Tensor], folder: Path) -> None:
    """Write the folder that `open_clip.create_model_and_transforms("local-dir:...")` loads."""
    write_tensors(
        folder / "open_clip_model.safetensors", {name: values[name] for name in model.state_dict() if name in values}
    )
    preprocess = {"mean": list(MEAN), "std": list(STD), "interpolation": "bicubic", "resize_mode": "squash"}
    write_json(folder / "open_clip_config.json", {"model_cfg": config, "preprocess_cfg": preprocess})
    for file in words.FOLDER.iterdir():
        shutil.copyfile(file, folder / file.name)


def train(
    steps: int = 2600,
    batch: int = 128,
    num_scenes: int = 8000,
    peak: float = 1.5e-3,
    seed: int = 1,
    folder: Path = FOLDER,
) -> None:
    """Train and save.

    Args:
        steps: optimizer steps.
        batch: crops per step.
        num_scenes: training scenes, kept in memory.
        peak: highest learning rate.
        seed: for weights and data.
        folder: where the model goes.
    """
    rng = prepare(seed)
    words.save()
    tokens = words.load()
    config = model_config(len(tokens))
    model = CLIP(**config)
    model.train()
    scenes = draw_scenes(num_scenes)
    adam, average, report = optimizer(model, peak), Average(model), Progress("clip", steps)
    for step in range(steps):
        for group in adam.param_groups:
            group["lr"] = rate(step, steps, peak)
        samples = [clip_sample(rng, scenes, SIDE) for _ in range(batch)]
        texts = sorted({sample.text for sample in samples})
        ids = tokens(
            texts, padding="max_length", truncation=True, max_length=words.CONTEXT_LENGTH, return_tensors="pt"
        ).input_ids
        fits, unknown = match_texts(samples, texts)
        with half_precision():
            image = model.encode_image(to_tensor([sample.image for sample in samples]))
            text = model.encode_text(ids)
            cosines = F.normalize(image.float(), dim=-1) @ F.normalize(text.float(), dim=-1).T
            loss = contrastive_loss(cosines, model.logit_scale.exp(), fits, unknown)
            adam.zero_grad(set_to_none=True)
            loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        adam.step()
        with torch.no_grad():
            model.logit_scale.clamp_(max=float(np.log(40)))
        average.update(model)
        hit = fits[torch.arange(batch), cosines.argmax(1)].float().mean()
        report(step, loss=loss.item(), hit=hit.item(), scale=model.logit_scale.exp().item())
        if (step + 1) % 500 == 0 or step + 1 == steps:
            save(model, config, average.values, folder)
