"""The denoiser's activations as dense features."""

from __future__ import annotations

import numpy as np
import torch
from diffusers import StableDiffusionPipeline
from numpy.typing import NDArray
from torch import Tensor, nn

from miniature.dense import resize_short_side
from miniature.generation import model
from miniature.train_vae import SCALING, to_signed

MULTIPLE = 8  # four of the autoencoder times two of the denoiser


class DenoiserFeatures:
    """Output of one block for a slightly noised image, with the empty prompt."""

    def __init__(self, pipeline: StableDiffusionPipeline, block: str = "up_blocks.0", time: int = 50) -> None:
        self.pipeline, self.time, self.activations = pipeline, torch.tensor([time]), torch.empty(0)
        pipeline.unet.get_submodule(block).register_forward_hook(self._keep)
        self.empty = pipeline.text_encoder(model.token_ids(pipeline.tokenizer, [""]))[0].detach()

    def _keep(self, _module: nn.Module, _inputs: object, output: Tensor) -> None:
        self.activations = output

    @torch.no_grad()
    def __call__(self, image: NDArray[np.uint8]) -> Tensor:
        """[h, w, D] for uint8 [H, W, 3], processed whole at short side 96."""
        pixels = to_signed(resize_short_side(image, multiple=MULTIPLE)[None])
        latents = self.pipeline.vae.encode(pixels).latent_dist.mean * SCALING
        noise = torch.randn(latents.shape, generator=torch.Generator().manual_seed(0))
        self.pipeline.unet(self.pipeline.scheduler.add_noise(latents, noise, self.time), self.time, self.empty)
        return self.activations[0].permute(1, 2, 0)
