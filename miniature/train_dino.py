"""Train the small DINOv2: patch features from image-level tags of images and crops, without their location.

Not self-supervised: ten minutes of self-distillation, tried in an earlier version of this world, were too little. Every
patch is asked which class it belongs to, classes compete for each patch, and only the image as a whole is labelled with
its classes. Small crops hold few classes, which is what teaches the patches in the end. It starts from the small
CLIP's image tower: 250 steps from there were worth more than 1500 from random weights.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import open_clip
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import Dinov2Config, Dinov2Model

from miniature.crops import Sample, cut, draw_scenes, resized
from miniature.palette import between
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
)
from miniature.world import CLASSES, Scene

FOLDER = WEIGHTS / "dino"
PATCH = 4
SIDE = 96  # the side at which the model is used: whole images with this short side, and windows of it
# (height, width) of a batch and its number of images: about as many patches in each.
SHAPES: tuple[tuple[int, int, int], ...] = (
    (16, 16, 160),
    (24, 24, 96),
    *((32, 32, 64),) * 3,
    *((48, 48, 30),) * 3,
    *((64, 64, 16),) * 2,
    *((96, 96, 7),) * 2,
    (96, 128, 5),
    (128, 96, 5),
    (96, 144, 4),
)


def model_config() -> Dinov2Config:
    """A ViT of patch 4, 96 wide, 5 layers; its position grid is that of a 96-pixel square."""
    return Dinov2Config(
        hidden_size=128,
        num_hidden_layers=4,
        num_attention_heads=4,
        mlp_ratio=4,
        patch_size=PATCH,
        image_size=SIDE,
        layerscale_value=1.0,
        # The default of 0.02 is meant for ten times the width; here it starts slowly.
        initializer_range=0.08,
    )


@torch.no_grad()
def init_from_clip(model: Dinov2Model, folder: Path) -> None:
    """Initialize the backbone from the small CLIP's image tower, which has the same shape.

    CLIP normalises its embeddings before the first layer, DINOv2 does not: the shift and scale of that step are folded
    into the patch projection and the positions, with the spread of a typical patch.
    """
    tower, _, _ = open_clip.create_model_and_transforms(f"local-dir:{folder}")
    eye, first, width = tower.visual, model.embeddings, model.config.hidden_size
    patches = F.conv2d(to_tensor([one.image[:80, :80] for one in draw_scenes(12)]), eye.conv1.weight, stride=PATCH)
    place = eye.positional_embedding
    spread = (patches.flatten(2).transpose(1, 2) + place[1:].mean(0)).std(-1).median()
    gain, shift = eye.ln_pre.weight / spread, eye.ln_pre.bias
    first.patch_embeddings.projection.weight.copy_(
        (eye.conv1.weight - eye.conv1.weight.mean(0)) * gain[:, None, None, None]
    )
    first.patch_embeddings.projection.bias.zero_()
    side, wanted = round((len(place) - 1) ** 0.5), SIDE // PATCH
    grid = ((place[1:] - place[1:].mean(-1, keepdim=True)) * gain + shift).T.reshape(1, width, side, side)
    grid = F.interpolate(grid, (wanted, wanted), mode="bicubic").flatten(2).transpose(1, 2)
    first.cls_token.copy_(eye.ln_pre(eye.class_embedding + place[0]))
    first.position_embeddings.copy_(torch.cat([torch.zeros(1, 1, width), grid], 1))
    for source, layer in zip(eye.transformer.resblocks, model.encoder.layer, strict=True):
        weights, biases = source.attn.in_proj_weight.chunk(3), source.attn.in_proj_bias.chunk(3)
        parts = dict(layer.named_modules())
        names = [
            name for name in parts if name.rsplit(".")[-1] in ("q_proj", "k_proj", "v_proj", "query", "key", "value")
        ]
        for name, weight, bias in zip(names, weights, biases, strict=True):
            parts[name].weight.copy_(weight)
            parts[name].bias.copy_(bias)
        pairs = [
            (source.ln_1, layer.norm1),
            (source.ln_2, layer.norm2),
            (source.mlp.c_fc, layer.mlp.fc1),
            (source.mlp.c_proj, layer.mlp.fc2),
        ]
        out = next(part for name, part in parts.items() if name.endswith(("o_proj", "output.dense")))
        for old, new in (*pairs, (source.attn.out_proj, out)):
            new.weight.copy_(old.weight)
            new.bias.copy_(old.bias)
    model.layernorm.weight.copy_(eye.ln_post.weight)
    model.layernorm.bias.copy_(eye.ln_post.bias)


class KeyTap:
    """Keeps the keys of the last layer: float [B, 1 + N, D], all heads side by side."""

    def __init__(self, model: Dinov2Model) -> None:
        self.keys = torch.empty(0)
        layers = model.encoder.layer[-1].named_modules()
        # The projection's name changed in transformers 5.
        projection = next(module for name, module in layers if name.rsplit(".")[-1] in ("k_proj", "key"))
        projection.register_forward_hook(self._note)

    def _note(self, module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        self.keys = output


class CosineHead(nn.Module):
    """A word classifier by cosine, because methods compare these features by cosine."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(len(CLASSES), width))
        self.scale = nn.Parameter(torch.tensor(2.3))

    def forward(self, features: Tensor) -> Tensor:
        """Logits [..., C] of features [..., D]."""
        # In bf16 a share of 1 - 1e-6 is 1, and its logarithm takes the loss to infinity.
        with torch.autocast("cpu", enabled=False):
            cosines = F.normalize(features.float(), dim=-1) @ F.normalize(self.weight, dim=-1).T
            return self.scale.exp() * cosines


class Heads(nn.Module):
    """Word classifiers on patch tokens, on the last keys and on the CLS token; discarded after training."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.patches, self.keys, self.whole = CosineHead(width), CosineHead(width), nn.Linear(width, len(CLASSES))


def presence_loss(logits: Tensor, seen: Tensor, unsure: Tensor, top: float = 0.06) -> Tensor:
    """Loss of patch logits against the tags of the whole image.

    Args:
        logits: [B, N, C]; a softmax over C makes the classes compete for every patch.
        seen: float [B, C], 1 for visible classes.
        unsure: float [B, C], 1 for classes that are left out.
        top: a visible class should win this share of the patches; an invisible one should win none.
    """
    share = logits.softmax(-1)
    best = share.topk(max(1, round(top * logits.shape[1])), dim=1).values.mean(1).clamp(1e-6, 1 - 1e-6)
    everywhere = -torch.log1p(-share.clamp(max=1 - 1e-4)).mean(1) - torch.log1p(-best)
    missing = 1 - seen - unsure
    return ((-best.log() * seen).sum(1) + (everywhere * missing.clamp(min=0)).sum(1)).mean()


def allowed_class_shares(logits: Tensor, seen: Tensor, unsure: Tensor) -> Tensor:
    """Shares [B, N, C] of the classes per patch, among those that the image's tags do not rule out."""
    return logits.masked_fill((seen + unsure == 0)[:, None], -1e4).softmax(-1)


def split_tiles(images: Tensor, side: int) -> Tensor:
    """Square tiles [B * rows * columns, 3, side, side] of images [B, 3, H, W] whose sides are multiples of `side`."""
    count, _, height, width = images.shape
    parts = images.reshape(count, 3, height // side, side, width // side, side)
    return parts.permute(0, 2, 4, 1, 3, 5).reshape(-1, 3, side, side)


def merge_tiles(tokens: Tensor, count: int, rows: int, columns: int) -> Tensor:
    """Patches [B * rows * columns, n * n, C] of tiles as patches [B, N, C] of the whole images."""
    side = round(tokens.shape[1] ** 0.5)
    parts = tokens.reshape(count, rows, columns, side, side, -1)
    return parts.permute(0, 1, 3, 2, 4, 5).reshape(count, rows * columns * side * side, -1)


def sample(rng: np.random.Generator, scenes: Sequence[Scene], height: int, width: int) -> Sample:
    """A crop at about the scale at which scenes are seen later (short side 96), as an image of `height` x `width`."""
    while True:
        scene = scenes[int(rng.integers(len(scenes)))]
        rows, columns = scene.labels.shape
        # Whole images only where the shape is nearly theirs.
        if max(height, width) < SIDE or abs(np.log(columns * height / (rows * width))) < 0.25:
            break
    if max(height, width) < SIDE:
        crop = cut(
            rng,
            scene,
            min(1.0, min(height, width) / SIDE * between(rng, 0.75, 1.25)),
            width / height,
            want_thing=rng.random() < 0.5,
        )
    else:
        crop = cut(rng, scene, 1.0, columns / rows)
    image = resized(crop.image, height, width)
    return Sample(image, crop.text, crop.named, crop.seen, crop.unsure, crop.particular)


def save(config: Dinov2Config, values: dict[str, Tensor], folder: Path) -> None:
    """Write the folder that `Dinov2Model.from_pretrained` loads, with its preprocessing, each file atomically."""
    half = Dinov2Model(config)
    half.load_state_dict(values)
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent) as part:
        half.half().save_pretrained(part)
        for file in Path(part).iterdir():
            file.chmod(0o644)
            os.replace(file, folder / file.name)
    write_json(
        folder / "preprocessor_config.json",
        {
            "image_processor_type": "BitImageProcessor",
            "do_resize": True,
            "size": {"shortest_edge": SIDE},
            "resample": 3,
            "do_center_crop": False,
            "do_rescale": True,
            "rescale_factor": 1 / 255,
            "do_normalize": True,
            "do_convert_rgb": True,
            "image_mean": list(MEAN),
            "image_std": list(STD),
        },
    )


def train(
    steps: int = 1600,
    num_scenes: int = 6000,
    peak: float = 1.5e-3,
    seed: int = 2,
    clip: Path | None = WEIGHTS / "clip",
    folder: Path = FOLDER,
) -> None:
    """Train and save.

    Args:
        steps: optimizer steps, each on images of one shape.
        num_scenes: training scenes, kept in memory.
        peak: highest learning rate.
        seed: for weights and data.
        clip: a trained small CLIP to start from; None starts from random weights, which takes several times as long.
        folder: where the model goes.

    Raises:
        FileNotFoundError: if that CLIP has not been trained.
    """
    if clip is not None and not (clip / "open_clip_config.json").is_file():
        raise FileNotFoundError(f"{clip} holds no CLIP to start from: run `python -m miniature train clip` first")
    rng = prepare(seed)
    config = model_config()
    model = Dinov2Model(config)
    if clip is not None:
        init_from_clip(model, clip)
    heads, tap = Heads(config.hidden_size), KeyTap(model)
    both = nn.ModuleDict({"model": model, "heads": heads})
    both.train()
    scenes = draw_scenes(num_scenes)
    adam, average, report = optimizer(both, peak), Average(model), Progress("dino", steps)
    for step in range(steps):
        for group in adam.param_groups:
            group["lr"] = rate(step, steps, peak)
        height, width, count = SHAPES[int(rng.integers(len(SHAPES)))]
        samples = [sample(rng, scenes, height, width) for _ in range(count)]
        seen = torch.from_numpy(np.stack([one.seen for one in samples]))
        unsure = torch.from_numpy(np.stack([one.unsure for one in samples]))
        images = to_tensor([one.image for one in samples])
        with half_precision(height * width // PATCH**2):
            loss_tiles = torch.zeros(())
            if max(height, width) >= SIDE:
                # Tags of a large image say little about a patch: the model's predictions on its tiles supply the rest.
                tile = 48 if height % 48 == width % 48 == 0 and rng.random() < 0.5 else 32 if width != 144 else 48
                with torch.no_grad():
                    near = model(split_tiles(images, tile)).last_hidden_state[:, 1:]
                    near = merge_tiles(heads.patches(near), count, height // tile, width // tile)
                    target = allowed_class_shares(near, seen, unsure)
            tokens = model(images).last_hidden_state
            patches, keys = heads.patches(tokens[:, 1:]), heads.keys(tap.keys[:, 1:])
            loss_patches, loss_keys = presence_loss(patches, seen, unsure), presence_loss(keys, seen, unsure)
            if max(height, width) >= SIDE:
                for logits in (patches, keys):
                    loss_tiles = loss_tiles - (target * logits.log_softmax(-1)).sum(-1).mean()
            whole = F.binary_cross_entropy_with_logits(heads.whole(tokens[:, 0]).float(), seen, weight=1 - unsure)
            trust = min(1.0, step / (0.3 * steps))
            loss = loss_patches + loss_keys + len(CLASSES) * whole + 2 * trust * loss_tiles
            adam.zero_grad(set_to_none=True)
            loss.backward()
        torch.nn.utils.clip_grad_norm_(both.parameters(), 1.0)
        adam.step()
        average.update(model)
        report(step, patches=loss_patches.item(), keys=loss_keys.item(), whole=whole.item(), tiles=loss_tiles.item())
        if (step + 1) % 500 == 0 or step + 1 == steps:
            save(config, average.values, folder)
