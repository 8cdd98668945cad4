"""Miniature's Stable Diffusion, for the tests of what is built on a diffusion model."""

import pytest
import torch
from diffusers import StableDiffusionPipeline

from methods.backbones.diffusion_pipeline import load_pipeline
from miniature.training import WEIGHTS


@pytest.fixture(scope="session")
def painter() -> StableDiffusionPipeline:
    torch.set_num_threads(1)
    return load_pipeline(str(WEIGHTS / "diffusion"), None, None, "float32")
