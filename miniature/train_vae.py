"""Train the autoencoder of the small Stable Diffusion: 64-pixel images to 16 x 16 latents of four channels."""

from __future__ import annotations

import math
import os
from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderKL
from torch import Tensor

from miniature.generation import checkpoint
from miniature.generation.captioned_images import SIDE, captioned_images
from miniature.training import WEIGHTS, Average, Progress, optimizer, prepare, rate, write_tensors

FOLDER = WEIGHTS / "diffusion" / "vae"
WORK = Path(os.environ.get("MINIATURE_WORK", "/tmp/miniature"))
SCALING = 0.18215
# Weight of the divergence per latent number: enough noise that the decoder tolerates small errors of the denoiser.
DIVERGENCE = 2e-4
# Most steps use quarter images: at this size a network gains more from steps than from pixels.
SMALL, SMALL_BATCH, LARGE_BATCH = 32, 16, 12


def build() -> AutoencoderKL:
    """The network, untrained. Without attention in the middle block it accepts any size divisible by four."""
    return AutoencoderKL(
        in_channels=3,
        out_channels=3,
        down_block_types=("DownEncoderBlock2D",) * 3,
        up_block_types=("UpDecoderBlock2D",) * 3,
        block_out_channels=(32, 64, 64),
        layers_per_block=1,
        latent_channels=4,
        norm_num_groups=8,
        sample_size=SIDE,
        scaling_factor=SCALING,
        mid_block_add_attention=False,
    )


def to_signed(images: np.ndarray) -> Tensor:
    """Images uint8 [B, h, w, 3] as float32 [B, 3, h, w] in [-1, 1]."""
    return torch.from_numpy(np.array(images)).permute(0, 3, 1, 2).float().contiguous() / 127.5 - 1


def _batch(rng: np.random.Generator, images: np.ndarray, side: int, count: int) -> Tensor:
    """Random windows of random images, half of them mirrored, float32 [count, 3, side, side]."""
    room = SIDE - side + 1
    parts = []
    for index in rng.integers(len(images), size=count):
        top, left = rng.integers(room, size=2)
        part = images[index, top : top + side, left : left + side]
        parts.append(part[:, ::-1] if rng.random() < 0.5 else part)
    return to_signed(np.stack(parts))


def reconstruction_loss(reconstructed: Tensor, target: Tensor) -> Tensor:
    """Squared and absolute difference, and that of neighbouring pixels' differences (edges); [B, 3, h, w] each.

    The square leads, because it penalizes large errors (a missing small vivid thing) more than the grain of grass.
    """
    difference = reconstructed - target
    across, down = difference[..., 1:] - difference[..., :-1], difference[..., 1:, :] - difference[..., :-1, :]
    edges = across.abs().mean() + down.abs().mean()
    return 0.3 * difference.abs().mean() + 4 * difference.square().mean() + 0.25 * edges


@torch.no_grad()
def fold_statistics(vae: AutoencoderKL, images: np.ndarray) -> None:
    """Move the latents' mean and deviation into quant_conv and post_quant_conv, in place.

    After that, latents times the scaling factor have mean 0 and deviation 1 in every channel, as diffusion expects.

    Args:
        vae: the trained network.
        images: uint8 [N, h, w, 3].
    """
    latents = vae.encode(to_signed(images)).latent_dist.mean
    mean, deviation = latents.mean((0, 2, 3)), latents.std((0, 2, 3))
    factor = 1 / (SCALING * deviation)
    channels = len(mean)
    into, out = vae.quant_conv, vae.post_quant_conv
    into.weight[:channels] *= factor[:, None, None, None]
    into.bias[:channels] = (into.bias[:channels] - mean) * factor
    into.bias[channels:] += 2 * factor.log()
    out.bias += (out.weight[:, :, 0, 0] * mean).sum(1)
    out.weight /= factor[None, :, None, None]


@torch.no_grad()
def signal_to_noise(vae: AutoencoderKL, images: np.ndarray) -> float:
    """PSNR in dB of reconstructions, from the squared error over all images uint8 [N, h, w, 3]."""
    target = to_signed(images)
    reconstructed = vae.decode(vae.encode(target).latent_dist.mode()).sample.clamp(-1, 1)
    return -10 * math.log10(float(((reconstructed - target) / 2).square().mean()))


def save(vae: AutoencoderKL, values: dict[str, Tensor], images: np.ndarray, folder: Path) -> float:
    """Write the averaged weights with folded statistics as a diffusers folder; returns the PSNR on the images."""
    final = build()
    final.load_state_dict(values)
    final.eval()
    score = signal_to_noise(final, images)
    fold_statistics(final, images)
    final.save_config(folder)
    write_tensors(folder / "diffusion_pytorch_model.safetensors", dict(final.state_dict()))
    return score


def train(
    small_steps: int = 4100,
    large_steps: int = 650,
    num_images: int = 10_000,
    peak: float = 2e-3,
    seed: int = 2,
    folder: Path = FOLDER,
) -> None:
    """Train and save; resumes an interrupted run.

    Args:
        small_steps: steps on windows of 32 pixels.
        large_steps: steps on whole images after that.
        num_images: training images.
        peak: highest learning rate.
        seed: for weights and data.
        folder: where the network goes.
    """
    prepare(seed)
    images = captioned_images(num_images, WORK).images
    validation = captioned_images(256, WORK, start=10_000_000).images
    vae, steps = build(), small_steps + large_steps
    adam, average, report = optimizer(vae, peak, decay=0.01), Average(vae, 0.995), Progress("vae", steps, 200)
    state = WORK / "vae.safetensors"
    done = checkpoint.load(state, {"vae": vae}, {"vae": average.values}, adam)
    average.steps = done
    for step in range(done, steps):
        rng = np.random.default_rng((seed, step))
        for group in adam.param_groups:
            group["lr"] = rate(step, steps, peak)
        small = step < small_steps
        target = _batch(rng, images, SMALL if small else SIDE, SMALL_BATCH if small else LARGE_BATCH)
        with torch.autocast("cpu", torch.bfloat16):
            posterior = vae.encode(target).latent_dist
            reconstructed = vae.decode(posterior.sample()).sample
        divergence = posterior.kl().mean() / posterior.mean[0].numel()
        error = reconstruction_loss(reconstructed.float(), target)
        adam.zero_grad(set_to_none=True)
        (error + DIVERGENCE * divergence).backward()
        torch.nn.utils.clip_grad_norm_(vae.parameters(), 1.0)
        adam.step()
        average.update(vae)
        report(step, error=error.item(), divergence=divergence.item())
        if (step + 1) % 500 == 0 or step + 1 == steps:
            checkpoint.save(state, step + 1, {"vae": vae}, {"vae": average.values}, adam)
            print(
                f"vae {step + 1}: {save(vae, average.values, validation, folder):.2f} dB on held-out images", flush=True
            )


def main() -> None:
    """Train with the defaults."""
    train()


if __name__ == "__main__":
    main()
