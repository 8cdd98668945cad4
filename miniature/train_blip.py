"""Train the small BLIP: captions of whole images, with the classes that load the real model."""

from __future__ import annotations

import argparse
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor
from transformers import (
    BertTokenizer,
    BlipConfig,
    BlipForConditionalGeneration,
    BlipImageProcessor,
    BlipProcessor,
    BlipVisionModel,
    Dinov2Model,
)

from miniature import tokenizer as clip_words
from miniature.captions import OPENINGS, plural
from miniature.crops import resized
from miniature.generation import checkpoint
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
    write_tensors,
)
from miniature.world import CLASSES, VAL_IMAGES, scene

SIDE, PATCH, WIDTH = 64, 4, 128
# BLIP puts the same words before every caption and asks for what follows.
PROMPT = "a picture of "
SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "[DEC]")
CONTEXT = 40
FOLDER = WEIGHTS / "blip"
WORK = Path(os.environ.get("MINIATURE_WORK", "/tmp/miniature"))
# The image tower starts from trained weights; new layers learn faster.
TOWER_SHARE = 0.3


def vocabulary() -> dict[str, int]:
    """Ids of a WordPiece vocabulary: special tokens, every word of the world, and letters for all other words."""
    letters = [*"abcdefghijklmnopqrstuvwxyz0123456789"]
    pieces = [*SPECIAL, *letters, *(f"##{letter}" for letter in letters)]
    pieces += [word for word in clip_words.words() if word != "'s"]
    return {piece: index for index, piece in enumerate(dict.fromkeys(pieces))}


def build_processor() -> BlipProcessor:
    """Images squashed to 64 x 64, and a BERT tokenizer whose captions begin with BLIP's own token."""
    tokens = BertTokenizer(vocab=vocabulary(), bos_token="[DEC]")
    square = {"height": SIDE, "width": SIDE}
    return BlipProcessor(BlipImageProcessor(size=square, image_mean=list(MEAN), image_std=list(STD)), tokens)


def build_model(tokens: BertTokenizer) -> BlipForConditionalGeneration:
    """An image tower of the small DINO's shape and a text decoder of 2 layers."""
    tower = {
        "image_size": SIDE,
        "patch_size": PATCH,
        "hidden_size": WIDTH,
        "intermediate_size": 4 * WIDTH,
        "num_hidden_layers": 4,
        "num_attention_heads": 4,
        "layer_norm_eps": 1e-6,
        "initializer_range": 0.05,
    }
    decoder = {
        "vocab_size": len(tokens),
        "hidden_size": WIDTH,
        "encoder_hidden_size": WIDTH,
        "intermediate_size": 4 * WIDTH,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "max_position_embeddings": CONTEXT,
        "initializer_range": 0.05,
        "bos_token_id": tokens.bos_token_id,
        "eos_token_id": tokens.sep_token_id,
        "sep_token_id": tokens.sep_token_id,
        "pad_token_id": tokens.pad_token_id,
    }
    return BlipForConditionalGeneration(BlipConfig(text_config=decoder, vision_config=tower))


@torch.no_grad()
def init_from_dino(tower: BlipVisionModel, dino: Dinov2Model) -> None:
    """Initialize BLIP's image tower from the small DINO, also a ViT; its layer scales are folded into the weights."""
    first, eye = dino.embeddings, tower.embeddings
    eye.patch_embedding.weight.copy_(first.patch_embeddings.projection.weight)
    eye.patch_embedding.bias.copy_(first.patch_embeddings.projection.bias)
    eye.class_embedding.copy_(first.cls_token)
    places = first.position_embeddings
    side, wanted = round((places.shape[1] - 1) ** 0.5), SIDE // PATCH
    grid = places[:, 1:].transpose(1, 2).unflatten(2, (side, side))
    grid = F.interpolate(grid, (wanted, wanted), mode="bicubic").flatten(2).transpose(1, 2)
    eye.position_embedding.copy_(torch.cat([places[:, :1], grid], 1))
    for old, new in zip(dino.encoder.layer, tower.encoder.layers, strict=True):
        parts = {name.rsplit(".")[-1]: part for name, part in old.named_modules() if "." in name}
        projections = [parts[f"{name}_proj"] for name in "qkv"]
        new.self_attn.qkv.weight.copy_(torch.cat([part.weight for part in projections]))
        new.self_attn.qkv.bias.copy_(torch.cat([part.bias for part in projections]))
        for source, target, scale in (
            (parts["o_proj"], new.self_attn.projection, old.layer_scale1.lambda1),
            (parts["fc2"], new.mlp.fc2, old.layer_scale2.lambda1),
        ):
            target.weight.copy_(source.weight * scale[:, None])
            target.bias.copy_(source.bias * scale)
        for source, target in ((parts["fc1"], new.mlp.fc1), (old.norm1, new.layer_norm1), (old.norm2, new.layer_norm2)):
            target.load_state_dict(source.state_dict())
    tower.post_layernorm.load_state_dict(dino.layernorm.state_dict())


@dataclass(frozen=True)
class CaptionedScenes:
    """Scenes and their captions.

    Attributes:
        images: uint8 [N, 64, 64, 3].
        texts: N captions without their opening ("a photo of"), behind BLIP's prompt.
    """

    images: NDArray[np.uint8]
    texts: tuple[str, ...]


def replace_opening(caption: str) -> str:
    """Replace the caption's opening by BLIP's."""
    for opening in sorted(OPENINGS, key=len, reverse=True):
        front = opening.removesuffix("{}")
        if front and caption.startswith(front):
            return PROMPT + caption.removeprefix(front)
    return PROMPT + caption


def captioned_scenes(count: int) -> CaptionedScenes:
    """The first scenes of the train split with their own captions."""
    images, texts = np.empty((count, SIDE, SIDE, 3), np.uint8), list[str]()
    for index in range(count):
        one = scene("train", index)
        images[index] = resized(one.image, SIDE, SIDE)
        texts.append(replace_opening(one.caption))
    return CaptionedScenes(images, tuple(texts))


def targets(tokens: BertTokenizer, texts: Sequence[str]) -> tuple[Tensor, Tensor, Tensor]:
    """Token ids behind BLIP's first token, their mask, and the labels, -100 for prompt and padding; [B, L]."""
    encoded = tokens(list(texts), padding=True, truncation=True, max_length=CONTEXT, return_tensors="pt")
    ids, mask = encoded.input_ids, encoded.attention_mask
    ids[:, 0] = tokens.bos_token_id
    labels = ids.masked_fill(mask == 0, -100)
    labels[:, : len(tokens(PROMPT).input_ids) - 1] = -100
    return ids, mask, labels


def save(
    model: BlipForConditionalGeneration, processor: BlipProcessor, values: dict[str, Tensor], folder: Path
) -> None:
    """Write the folder that `BlipForConditionalGeneration` and `AutoProcessor` load."""
    tied = set(model._tied_weights_keys)
    write_tensors(folder / "model.safetensors", {name: values[name] for name in model.state_dict() if name not in tied})
    model.config.architectures = [type(model).__name__]
    model.config.dtype = torch.float16
    model.config.save_pretrained(folder)
    model.config.dtype = torch.float32
    processor.save_pretrained(folder)


def train(
    steps: int = 2600,
    batch: int = 16,
    num_scenes: int = 16_000,
    peak: float = 1.5e-3,
    seed: int = 5,
    dino: Path = WEIGHTS / "dino",
    folder: Path = FOLDER,
    work: Path = WORK,
) -> None:
    """Train with regular checkpoints; resumes an interrupted run.

    Args:
        steps: optimizer steps.
        batch: images per step.
        num_scenes: training scenes, kept in memory.
        peak: highest learning rate.
        seed: for weights and data.
        dino: the backbone that the image tower starts from.
        folder: where the model goes.
        work: where the state of an interrupted training lies.

    Raises:
        FileNotFoundError: if the backbone has not been trained.
    """
    if not (dino / "config.json").is_file():
        raise FileNotFoundError(f"{dino} holds no backbone: run `python -m miniature train dino` first")
    prepare(seed)
    processor = build_processor()
    model = build_model(processor.tokenizer)
    init_from_dino(model.vision_model, Dinov2Model.from_pretrained(dino, dtype=torch.float32))
    model.train()
    adam = optimizer(model.text_decoder, peak)
    adam.add_param_group({"params": list(model.vision_model.parameters()), "weight_decay": 0.05, "share": TOWER_SHARE})
    average, report = Average(model), Progress("blip", steps)
    state = work / "blip.safetensors"
    done = average.steps = checkpoint.load(state, {"blip": model}, {"blip": average.values}, adam)
    data = captioned_scenes(num_scenes)
    for step in range(done, steps):
        rng = np.random.default_rng((seed, step))
        for group in adam.param_groups:
            group["lr"] = rate(step, steps, peak) * group.get("share", 1.0)
        chosen = rng.integers(num_scenes, size=batch)
        # Every second image is mirrored: captions never say left or right.
        images = [data.images[n][:, :: (-1 if k % 2 else 1)] for k, n in enumerate(chosen)]
        ids, mask, labels = targets(processor.tokenizer, [data.texts[n] for n in chosen])
        with half_precision((SIDE // PATCH) ** 2):
            encoded = model.vision_model(to_tensor(images)).last_hidden_state
            loss = model.text_decoder(ids, attention_mask=mask, encoder_hidden_states=encoded, labels=labels).loss
        adam.zero_grad(set_to_none=True)
        loss.backward()
        length = torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        adam.step()
        average.update(model)
        report(step, loss=loss.item(), gradient=length.item())
        if (step + 1) % 200 == 0 or step + 1 == steps:
            checkpoint.save(state, step + 1, {"blip": model}, {"blip": average.values}, adam)
            save(model, processor, average.values, folder)


def classes_in_caption(text: str) -> set[str]:
    """The classes that a caption names, in the singular or plural."""
    words = set(text.replace(",", " ").split())
    return {name for name in CLASSES if words & {name, plural(name)}}


@torch.no_grad()
def caption_scores(folder: Path = FOLDER, count: int = VAL_IMAGES) -> dict[str, float]:
    """Recall and precision of the classes in generated captions of validation scenes, in percent.

    Captions are those of FreeSeg-Diff's release: prompted, 3 beams, 10 to 30 tokens.

    Returns:
        ``recall``: share of the scenes' tags that the caption names. ``precision``: share of the named classes that
        are tags. Both over all scenes, for all classes and for things only.
    """
    model = BlipForConditionalGeneration.from_pretrained(folder, dtype=torch.float32).eval()
    processor = BlipProcessor.from_pretrained(folder)
    counts = dict.fromkeys(("correct", "tags", "named", "correct things", "tags things", "named things"), 0)
    for index in range(count):
        one = scene("val", index)
        inputs = processor(images=one.image, text=PROMPT, return_tensors="pt")
        ids = model.generate(**inputs, num_beams=3, min_length=10, max_length=30)
        named, tags = classes_in_caption(processor.decode(ids[0], skip_special_tokens=True)), set(one.tags)
        for mark, classes in (("", set(CLASSES)), (" things", set(CLASSES[:12]))):
            counts["correct" + mark] += len(named & tags & classes)
            counts["tags" + mark] += len(tags & classes)
            counts["named" + mark] += len(named & classes)
    scores = {}
    for mark in ("", " things"):
        scores["recall" + mark] = 100 * counts["correct" + mark] / max(1, counts["tags" + mark])
        scores["precision" + mark] = 100 * counts["correct" + mark] / max(1, counts["named" + mark])
    return scores


def main(arguments: Sequence[str] | None = None) -> None:
    """Train or measure from the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=2600)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--num_scenes", type=int, default=16_000)
    parser.add_argument("--measure", action="store_true", help="print the scores of the trained weights")
    parser.add_argument("--folder", type=Path, default=FOLDER)
    chosen = parser.parse_args(arguments)
    if chosen.measure:
        torch.set_num_threads(1)
        for name, value in caption_scores(chosen.folder).items():
            print(f"{name:20s} {value:5.1f}")
    else:
        train(chosen.steps, chosen.batch, chosen.num_scenes, folder=chosen.folder)


if __name__ == "__main__":
    main()
