"""The small Stable Diffusion: its untrained parts, and their export as one diffusers folder."""

from __future__ import annotations

import copy
import json
import os
import shutil
from pathlib import Path

import torch
from diffusers import AutoencoderKL, DPMSolverMultistepScheduler, StableDiffusionPipeline, UNet2DConditionModel
from torch import Tensor
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from miniature import tokenizer as words
from miniature.training import WEIGHTS

FOLDER = WEIGHTS / "diffusion"
LATENT = 16
WIDTH = 128
EMBEDDING_GAIN = 30.0
# Stable Diffusion's schedule. What is predicted is the velocity, as in Stable Diffusion 2.1: predicted noise says next
# to nothing about the image where noise is strong, and a network this small never makes up for it.
SCHEDULE: dict[str, object] = {
    "num_train_timesteps": 1000,
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "prediction_type": "v_prediction",
    "steps_offset": 1,
}


def build_unet() -> UNet2DConditionModel:
    """The denoiser: cross-attention at 16 x 16 and 8 x 8."""
    return UNet2DConditionModel(
        sample_size=LATENT,
        in_channels=4,
        out_channels=4,
        down_block_types=("CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D"),
        block_out_channels=(64, 128),
        layers_per_block=1,
        norm_num_groups=16,
        attention_head_dim=(2, 4),  # these are numbers of heads, whatever the name says
        cross_attention_dim=WIDTH,
    )


def build_text_encoder(tokens: CLIPTokenizer) -> CLIPTextModel:
    """The text encoder; it is trained with the denoiser."""
    encoder = CLIPTextModel(
        CLIPTextConfig(
            vocab_size=len(tokens),
            hidden_size=WIDTH,
            intermediate_size=3 * WIDTH,
            projection_dim=WIDTH,
            num_hidden_layers=2,
            num_attention_heads=4,
            max_position_embeddings=words.CONTEXT_LENGTH,
            hidden_act="quick_gelu",
            bos_token_id=tokens.bos_token_id,
            eos_token_id=tokens.eos_token_id,
            pad_token_id=tokens.pad_token_id,
        )
    )
    # CLIP's embeddings begin at a deviation of 0.02, a few percent of what the first layer adds to them: all words look
    # alike to the denoiser for the first thousand steps. Contrast would tell them apart soon, denoising does not.
    with torch.no_grad():
        encoder.get_input_embeddings().weight.mul_(EMBEDDING_GAIN)
    return encoder


def build_scheduler() -> DPMSolverMultistepScheduler:
    """The default sampler of the exported folder; any other diffusers sampler can use its configuration."""
    return DPMSolverMultistepScheduler(**SCHEDULE)


def token_ids(tokens: CLIPTokenizer, texts: list[str]) -> Tensor:
    """Texts as int64 [B, CONTEXT_LENGTH], padded as the pipeline pads them."""
    encoded = tokens(texts, padding="max_length", truncation=True, max_length=words.CONTEXT_LENGTH, return_tensors="pt")
    return torch.as_tensor(encoded.input_ids)


def load(folder: Path = FOLDER) -> StableDiffusionPipeline:
    """Load the pipeline from a folder, in float32 and without progress bars."""
    pipeline = StableDiffusionPipeline.from_pretrained(folder, dtype=torch.float32)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def export(vae: AutoencoderKL, unet: UNet2DConditionModel, text_encoder: CLIPTextModel, folder: Path = FOLDER) -> None:
    """Write the folder in fp16; readers see the old folder or the new one, whole.

    Args:
        vae: with folded statistics.
        unet: the denoiser's averaged weights.
        text_encoder: the text encoder's averaged weights.
        folder: replaced if it exists.
    """
    pipeline = StableDiffusionPipeline(
        vae=copy.deepcopy(vae).half(),
        text_encoder=copy.deepcopy(text_encoder).half(),
        tokenizer=words.load(),
        unet=copy.deepcopy(unet).half(),
        scheduler=build_scheduler(),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    part, old = folder.with_name(folder.name + ".part"), folder.with_name(folder.name + ".old")
    for leftover in (part, old):
        shutil.rmtree(leftover, ignore_errors=True)
    pipeline.save_pretrained(part, safe_serialization=True)
    # transformers would load the text encoder as the dtype named here, diffusers the rest as float32.
    settings = part / "text_encoder" / "config.json"
    content = json.loads(settings.read_text(encoding="utf-8")) | {"dtype": "float32"}
    settings.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
    for weights in part.rglob("*.safetensors"):
        weights.chmod(0o644)
    if folder.exists():
        os.rename(folder, old)
    os.rename(part, folder)
    shutil.rmtree(old, ignore_errors=True)
