"""Stable Diffusion 1.5 from its configuration with random weights: one image, its attribution, its features."""

import resource
import time

import pytest
import torch
from diffusers import AutoencoderKL, PNDMScheduler, StableDiffusionPipeline, UNet2DConditionModel
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from methods.backbones import DiffusersTextToImage, DiffusionFeatures
from methods.ovdiff.masks import otsu_thresholds, threshold_masks
from methods.support import Attribution
from miniature.training import WEIGHTS

pytestmark = pytest.mark.slow

# The published configurations of stable-diffusion-v1-5, without what equals the classes' defaults.
UNET = {
    "sample_size": 64,
    "block_out_channels": (320, 640, 1280, 1280),
    "down_block_types": ("CrossAttnDownBlock2D",) * 3 + ("DownBlock2D",),
    "up_block_types": ("UpBlock2D",) + ("CrossAttnUpBlock2D",) * 3,
    "layers_per_block": 2,
    "attention_head_dim": 8,
    "cross_attention_dim": 768,
}
VAE = {
    "sample_size": 512,
    "block_out_channels": (128, 256, 512, 512),
    "down_block_types": ("DownEncoderBlock2D",) * 4,
    "up_block_types": ("UpDecoderBlock2D",) * 4,
    "layers_per_block": 2,
    "latent_channels": 4,
}
TEXT = {
    "vocab_size": 49408,
    "hidden_size": 768,
    "intermediate_size": 3072,
    "projection_dim": 768,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
    "max_position_embeddings": 77,
    "hidden_act": "quick_gelu",
}
SCHEDULER = {
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "set_alpha_to_one": False,
    "skip_prk_steps": True,
    "steps_offset": 1,
}


def build() -> StableDiffusionPipeline:
    torch.manual_seed(0)
    # Its words are few, its format is that of CLIP's own.
    tokenizer = CLIPTokenizer.from_pretrained(WEIGHTS / "tokenizer")
    tokenizer.model_max_length = 77
    pipeline = StableDiffusionPipeline(
        vae=AutoencoderKL(**VAE).eval(),
        text_encoder=CLIPTextModel(CLIPTextConfig(**TEXT)).eval(),
        tokenizer=tokenizer,
        unet=UNet2DConditionModel(**UNET).eval(),
        scheduler=PNDMScheduler(**SCHEDULER),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def report(what: str, since: float) -> float:
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    now = time.perf_counter()
    print(f"\n{what}: {now - since:.0f} s, peak so far {peak:.1f} GB", flush=True)
    return now


def test_stable_diffusion_paints_attributes_and_gives_features() -> None:
    start = time.perf_counter()
    pipeline = build()
    assert sum(weight.numel() for weight in pipeline.unet.parameters()) == 859_520_964
    assert len([name for name in pipeline.unet.attn_processors if ".attn2." in name]) == 16
    start = report("Stable Diffusion 1.5, built", start)

    generator = DiffusersTextToImage(steps=2, guidance=8.0, negative_prompt="a drawing")
    generator.adopt(pipeline)
    made = generator.generate(["a good picture of a cat"], [42], ["cat"], Attribution())
    assert made.images.shape == (1, 3, 512, 512)
    assert made.maps is not None
    assert made.maps.shape == (1, 1, 64, 64)
    # A mean share of attention over 77 tokens.
    assert made.maps.mean() == pytest.approx(1 / 77, rel=0.5)
    masks = threshold_masks(made.maps[0], otsu_thresholds(made.maps[0]))
    assert masks.foreground.any()
    assert masks.background.any()
    start = report("one image of 512x512, 2 steps with guidance and attribution", start)

    features = DiffusionFeatures()
    features.adopt(generator.pipeline)
    found = features.features(made.images)
    assert found.shape == (1, 7680, 64, 64)
    assert found.isfinite().all()
    report("features of the nine layers of OVDiff's release", start)
