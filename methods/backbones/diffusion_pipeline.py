"""Loading a Stable-Diffusion-like pipeline of diffusers, and what its generator and its features share."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal
from weakref import WeakValueDictionary

import diffusers
import torch
from diffusers import DiffusionPipeline
from torch import Tensor, nn

from harness.system.errors import ConfigurationError, ModelError, did_you_mean
from methods.backbones import hub

Precision = Literal["float32", "float16", "bfloat16"]
WHAT, MARKER = "diffusion pipeline", "model_index.json"
PARTS = ("unet", "vae", "text_encoder", "text_encoder_2")
# Parts of some pipelines that generate nothing: they are neither loaded nor asked for.
UNUSED = ("safety_checker", "feature_extractor", "image_encoder")
_HELD: WeakValueDictionary[tuple[Any, ...], DiffusionPipeline] = WeakValueDictionary()


def load_pipeline(name: str, revision: str | None, variant: str | None, precision: Precision) -> DiffusionPipeline:
    """A text-to-image pipeline with a cross-attention UNet, frozen, without safety checker and progress bar.

    Whoever asks for the same model while somebody still holds it gets the same object: a generator and features from
    inside it need its memory once. It must not be changed.

    Args:
        name: Hub id (read from the Hub's cache, never fetched) or local folder.
        revision: Commit or branch on the Hub.
        variant: Of the weight files, such as ``fp16``.
        precision: Of weights and activations.

    Raises:
        ModelError: It is not on this machine, or not of that kind.
    """
    if hub.is_folder(name):
        hub.check_folder(name, WHAT, MARKER)
    files = sorted(path for path in Path(name).rglob("*") if path.is_file())
    key = (name, revision or hub.MAIN, variant, precision, *(path.stat().st_mtime_ns for path in files))
    held = _HELD.get(key)
    if held is not None:
        return held
    diffusers.utils.logging.disable_progress_bar()
    with hub.loading(name, revision, WHAT, MARKER) as where:
        here = {key: value for key, value in where.items() if key != "trust_remote_code"}
        index = DiffusionPipeline.load_config(name, **here)
        left_out: dict[str, Any] = {part: None for part in UNUSED if part in index}
        if "safety_checker" in index:
            left_out["requires_safety_checker"] = False
        pipeline = DiffusionPipeline.from_pretrained(
            name, dtype=getattr(torch, precision), variant=variant, use_safetensors=True, **where, **left_out
        )
    check_pipeline(pipeline, name)
    for module in modules(pipeline).values():
        module.eval().requires_grad_(False)
    pipeline.set_progress_bar_config(disable=True)
    _HELD[key] = pipeline
    return pipeline


def check_pipeline(pipeline: DiffusionPipeline, name: str) -> None:
    """Refuse pipelines without a UNet whose attention reads the text, and without a first text encoder.

    Raises:
        ModelError: It is of another kind.
    """
    unet = getattr(pipeline, "unet", None)
    if unet is None or not any(".attn2." in layer for layer in unet.attn_processors):
        raise ModelError(f"'{name}' ({type(pipeline).__name__}) has no UNet with cross-attention to a text")
    if getattr(pipeline, "text_encoder", None) is None or getattr(pipeline, "tokenizer", None) is None:
        raise ModelError(f"'{name}' ({type(pipeline).__name__}) has no first text encoder; give a base model")


def modules(pipeline: DiffusionPipeline) -> dict[str, nn.Module]:
    """The networks that determine what is generated, by the names of their folders."""
    found = {part: getattr(pipeline, part, None) for part in PARTS}
    return {part: module for part, module in found.items() if module is not None}


def configuration(pipeline: DiffusionPipeline) -> dict[str, Any]:
    """What tells one model from another besides its weights, wherever it lies: no names or paths.

    Returns:
        JSON: hashes of the configuration per network and of each tokenizer, and the pipeline's class.
    """
    found: dict[str, Any] = {"pipeline": type(pipeline).__name__}
    for part, module in modules(pipeline).items():
        config: Any = module.config
        found[part] = hub.fingerprint(config if isinstance(config, dict) else config.to_dict())
    for part in ("tokenizer", "tokenizer_2"):
        tokenizer = getattr(pipeline, part, None)
        if tokenizer is not None:
            found[part] = hub.tokenization(tokenizer)
    return found


def make_scheduler(name: str, pipeline: DiffusionPipeline) -> Any:
    """Another scheduler of diffusers with the configuration of the pipeline's own.

    Args:
        name: Class name, such as ``DPMSolverMultistepScheduler``.
        pipeline: The pipeline.

    Raises:
        ConfigurationError: diffusers has no such scheduler.
    """
    known = [entry for entry in dir(diffusers) if entry.endswith("Scheduler")]
    if name not in known:
        raise ConfigurationError(f"diffusers has no scheduler '{name}'{did_you_mean(name, known)}")
    return getattr(diffusers, name).from_config(pipeline.scheduler.config)


def check_size(size: tuple[int, int], pipeline: DiffusionPipeline) -> tuple[int, int]:
    """The size, if the autoencoder can take it.

    Raises:
        ConfigurationError: A side is not a positive multiple of 8 pixels and of the autoencoder's factor.
    """
    multiple = max(8, int(pipeline.vae_scale_factor))
    if any(side < 1 or side % multiple for side in size):
        raise ConfigurationError(f"a diffusion model's image size must be multiples of {multiple} pixels, not {size}")
    return size


def own_size(pipeline: DiffusionPipeline) -> tuple[int, int]:
    """The size in pixels, (height, width), that the model was trained for."""
    side = int(pipeline.unet.config.sample_size) * int(pipeline.vae_scale_factor)
    return side, side


def latent_size(size: tuple[int, int], pipeline: DiffusionPipeline) -> tuple[int, int]:
    """The latents' (height, width) of images of a size in pixels."""
    factor = int(pipeline.vae_scale_factor)
    return size[0] // factor, size[1] // factor


def longer_side(size: tuple[int, int], side: int | None) -> tuple[int, int]:
    """The size with its longer side set, its proportions kept; null keeps it."""
    scale = 1.0 if side is None else side / max(size)
    return max(1, round(size[0] * scale)), max(1, round(size[1] * scale))


def grid_of(places: int, latents: tuple[int, int]) -> tuple[int, int]:
    """The (height, width) of a layer with so many places: the latents', halved (rounding up) as often as it takes."""
    height, width = latents
    while height * width > places and height * width > 1:
        height, width = -(-height // 2), -(-width // 2)
    return height, width


def text_arguments(pipeline: DiffusionPipeline, prompts: Sequence[str], size: tuple[int, int]) -> dict[str, Any]:
    """What the UNet is told about the text, for one pass without guidance; SDXL also hears the image's size."""
    if not hasattr(pipeline, "text_encoder_2"):
        embeddings, _ = pipeline.encode_prompt(list(prompts), pipeline.unet.device, 1, False)
        return {"encoder_hidden_states": embeddings}
    embeddings, _, pooled, _ = pipeline.encode_prompt(
        list(prompts), device=pipeline.unet.device, num_images_per_prompt=1, do_classifier_free_guidance=False
    )
    times = torch.tensor([[*size, 0, 0, *size]], device=embeddings.device, dtype=embeddings.dtype)
    added = {"text_embeds": pooled, "time_ids": times.repeat(len(prompts), 1)}
    return {"encoder_hidden_states": embeddings, "added_cond_kwargs": added}


def noise_schedule(pipeline: DiffusionPipeline) -> tuple[diffusers.DDPMScheduler, dict[str, Any]]:
    """The schedule that the model was trained with, whatever its sampler is, and the settings that determine it."""
    schedule = diffusers.DDPMScheduler.from_config(pipeline.scheduler.config)
    names = (
        "num_train_timesteps",
        "beta_start",
        "beta_end",
        "beta_schedule",
        "trained_betas",
        "rescale_betas_zero_snr",
    )
    config = hub.plain_config(schedule.config)
    return schedule, {name: config.get(name) for name in names}


def noisy_latents(
    pipeline: DiffusionPipeline,
    images: Tensor,
    timestep: int,
    seeds: Sequence[int],
    sample: bool = True,
    noise: bool = True,
) -> Tensor:
    """Images as the UNet would meet them at a timestep: encoded, scaled, and noised as DDPM does.

    Args:
        pipeline: The pipeline.
        images: [B, 3, H, W] in [0, 255].
        timestep: t in [0, training timesteps).
        seeds: B seeds, for the latents' sample and then the noise; one image's do not depend on the others'.
        sample: Sample the autoencoder's posterior, instead of taking its mean.
        noise: Add the timestep's noise.

    Returns:
        [B, C, h, w] in the UNet's precision.

    Raises:
        ConfigurationError: The timestep is out of range.
    """
    schedule, _ = noise_schedule(pipeline)
    last = int(schedule.config.num_train_timesteps) - 1
    if not 0 <= timestep <= last:
        raise ConfigurationError(f"timestep must lie in [0, {last}], not {timestep}")
    generators = [torch.Generator().manual_seed(seed) for seed in seeds]
    vae, kept = pipeline.vae, pipeline.vae.dtype
    # SDXL's autoencoder overflows in half precision; its pipeline, too, decodes in float32.
    upcast = kept == torch.float16 and "text_encoder_2" in pipeline.components and vae.config.force_upcast
    try:
        if upcast:
            vae.to(torch.float32)
        posterior = vae.encode((images.float() / 127.5 - 1).to(vae.dtype)).latent_dist
    finally:
        if upcast:
            vae.to(kept)
    latents = posterior.mean.float()
    if sample:
        latents = latents + posterior.std.float() * _normal(generators, latents)
    latents = latents * vae.config.scaling_factor
    if not noise:
        return latents.to(pipeline.unet.dtype)
    times = torch.full((len(images),), timestep, device=latents.device)
    return schedule.add_noise(latents, _normal(generators, latents), times).to(pipeline.unet.dtype)


def _normal(generators: Sequence[torch.Generator], like: Tensor) -> Tensor:
    """Normal noise [B, ...] drawn on the CPU, one generator for each entry of the batch."""
    drawn = [torch.randn(like.shape[1:], generator=generator) for generator in generators]
    return torch.stack(drawn).to(like)
