"""Train the denoiser and the text encoder of the small Stable Diffusion on captioned images."""

from __future__ import annotations

import argparse
import copy
import os
from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from diffusers.models.attention_processor import AttnProcessor, AttnProcessor2_0
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import CLIPTextModel

from miniature import tokenizer as words
from miniature.generation import checkpoint, model
from miniature.generation.captioned_images import captioned_images, classes_in_caption
from miniature.train_vae import SCALING, WORK, to_signed
from miniature.training import Average, Progress, optimizer, prepare

CHUNK = 10_000
CAPTION_DROPOUT = 0.1
# Of the samples, those whose caption names one class: they teach a word fastest.
PLAIN_SHARE = 0.8
# Signal-to-noise ratio at which a time counts half. Below it, the prompt decides the image, and min-SNR weights
# (Hang et al. 2023), which fall with the ratio there, left the words unlearned after 1,500 steps; above it, as there, a
# nearly clean image counts little.
HALF_RATIO = 5.0
WARMUP, COOLDOWN = 200, 0.3


def rate(step: int, steps: int, peak: float) -> float:
    """Warm-up, a plateau, and a straight line to zero; the plateau can be made longer or shorter while it lasts."""
    return peak * min(1.0, (step + 1) / WARMUP, (steps - step) / (COOLDOWN * steps))


@torch.no_grad()
def latents(vae: AutoencoderKL, start: int, cache: Path) -> tuple[Tensor, list[str]]:
    """Scaled posterior means and deviations of one chunk of images, float16 [CHUNK, 8, 16, 16], and its captions.

    Every second image is mirrored: captions never say left or right.
    """
    file, dataset = cache / f"latents-{start}.safetensors", captioned_images(CHUNK, cache, start)
    if not file.exists():
        parts = []
        for first in range(0, CHUNK, 100):
            images = dataset.images[first : first + 100].copy()
            images[::2] = images[::2, :, ::-1]
            with torch.autocast("cpu", torch.bfloat16):
                posterior = vae.encode(to_signed(images)).latent_dist
            parts.append(torch.cat([posterior.mean, posterior.std], 1).float().mul(SCALING).half())
        save_file({"latents": torch.cat(parts).contiguous()}, file.with_suffix(".part"))
        os.replace(file.with_suffix(".part"), file)
    return load_file(file)["latents"], dataset.captions


def velocity_loss(predicted: Tensor, clean: Tensor, noise: Tensor, alphas_cumprod: Tensor) -> Tensor:
    """Squared error of the predicted velocity, with less weight where there is little noise.

    Args:
        predicted: [B, 4, h, w].
        clean: latents of the same shape.
        noise: of the same shape.
        alphas_cumprod: cumulative product of alphas at each sample's timestep, [B].
    """
    signal = alphas_cumprod.sqrt()[:, None, None, None]
    deviation = (1 - alphas_cumprod).sqrt()[:, None, None, None]
    ratio = alphas_cumprod / (1 - alphas_cumprod)
    weight = HALF_RATIO / (ratio + HALF_RATIO)
    errors = (predicted - (signal * noise - deviation * clean)).square().mean((1, 2, 3))
    return (errors * weight).mean() / weight.mean()


def _averaged(
    unet: UNet2DConditionModel, text: CLIPTextModel, values: dict[str, dict[str, Tensor]]
) -> tuple[UNet2DConditionModel, CLIPTextModel]:
    """Copies that hold the averaged weights."""
    pair = copy.deepcopy(unet).eval(), copy.deepcopy(text).eval()
    pair[0].load_state_dict(values["unet"])
    pair[1].load_state_dict(values["text"])
    return pair


def train(
    steps: int = 5300,
    batch: int = 16,
    num_chunks: int = 3,
    peak: float = 1e-3,
    export_every: int = 250,
    seed: int = 3,
    folder: Path = model.FOLDER,
    from_exported: bool = False,
) -> None:
    """Train with regular checkpoints; resumes an interrupted run. Needs the output of `train_vae`.

    Args:
        steps: optimizer steps.
        batch: images per step.
        num_chunks: training images, in units of CHUNK.
        peak: highest learning rate.
        export_every: steps between two exports of the averaged weights.
        seed: for weights and data.
        folder: the pipeline's folder; its `vae` is read.
        from_exported: without a checkpoint, start from the folder's weights instead of random ones.
    """
    prepare(seed)
    vae = AutoencoderKL.from_pretrained(folder / "vae", dtype=torch.float32).eval()
    chunks = [latents(vae, CHUNK * number, WORK) for number in range(num_chunks)]
    posteriors, captions = torch.cat([chunk[0] for chunk in chunks]), [text for chunk in chunks for text in chunk[1]]
    tokens = words.load()
    counts = np.array([len(classes_in_caption(text)) for text in captions])
    plain, other = np.flatnonzero(counts == 1), np.flatnonzero(counts != 1)
    ids, empty = model.token_ids(tokens, captions), model.token_ids(tokens, [""])[0]
    torch.manual_seed(seed)
    unet, text = model.build_unet(), model.build_text_encoder(tokens)
    if from_exported:
        before = model.load(folder)
        unet.load_state_dict(before.unet.state_dict())
        text.load_state_dict(before.text_encoder.state_dict())
    # On a CPU the fused attention is faster for 256 tokens on 256, plain matrix products are for all smaller ones.
    large = ("down_blocks.0", "up_blocks.1")
    unet.set_attn_processor(
        {
            name: AttnProcessor2_0() if "attn1" in name and name.startswith(large) else AttnProcessor()
            for name in unet.attn_processors
        }
    )
    text.set_attn_implementation("eager")
    both = nn.ModuleDict({"unet": unet, "text": text})
    adam, report = optimizer(both, peak, decay=0.01), Progress("diffusion", steps)
    averages = {"unet": Average(unet, 0.998), "text": Average(text, 0.998)}
    state, models = WORK / "diffusion.safetensors", {"unet": unet, "text": text}
    done = checkpoint.load(state, models, {name: average.values for name, average in averages.items()}, adam)
    alphas_cumprod = model.build_scheduler().alphas_cumprod
    for average in averages.values():
        average.steps = done
    for step in range(done, steps):
        rng = np.random.default_rng((seed, step))
        torch.manual_seed(seed * 1_000_003 + step)
        for group in adam.param_groups:
            group["lr"] = rate(step, steps, peak)
        first = rng.random(batch) < PLAIN_SHARE
        chosen = torch.from_numpy(np.where(first, rng.choice(plain, batch), rng.choice(other, batch)))
        mean, deviation = posteriors[chosen].float().chunk(2, 1)
        clean = mean + deviation * torch.randn_like(mean)
        # One time from each of `batch` equal intervals: the loss then varies less from step to step.
        time = ((torch.randperm(batch) + torch.rand(batch)) * (len(alphas_cumprod) / batch)).long()
        noise, alpha = torch.randn_like(clean), alphas_cumprod[time]
        noisy = alpha.sqrt()[:, None, None, None] * clean + (1 - alpha).sqrt()[:, None, None, None] * noise
        dropped = torch.from_numpy(rng.random(batch) < CAPTION_DROPOUT)
        with torch.autocast("cpu", torch.bfloat16):
            context = text(torch.where(dropped[:, None], empty, ids[chosen]))[0]
            predicted = unet(noisy, time, context).sample
        loss = velocity_loss(predicted.float(), clean, noise, alpha)
        adam.zero_grad(set_to_none=True)
        loss.backward()
        length = torch.nn.utils.clip_grad_norm_(both.parameters(), 1.0)
        adam.step()
        for name, average in averages.items():
            average.update(models[name])
        report(step, loss=loss.item(), gradient=length.item())
        if (step + 1) % export_every == 0 or step + 1 == steps:
            values = {name: average.values for name, average in averages.items()}
            checkpoint.save(state, step + 1, models, values, adam)
            model.export(vae, *_averaged(unet, text, values), folder)


def main() -> None:
    """Train from the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=5300)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--from_exported", action="store_true", help="start from the exported weights")
    chosen = parser.parse_args()
    train(chosen.steps, chosen.batch, from_exported=chosen.from_exported)


if __name__ == "__main__":
    main()
