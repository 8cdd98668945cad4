"""Models for the tests of several methods: Miniature's Stable Diffusion, a tiny GroupViT and a tiny CLIPSeg."""

from pathlib import Path

import pytest
import torch
from diffusers import StableDiffusionPipeline

from methods.backbones.diffusion_pipeline import load_pipeline
from miniature.training import WEIGHTS
from tests.methods.tiny_models import save_clip_seg, save_group_vit


@pytest.fixture(scope="session")
def sd_pipeline() -> StableDiffusionPipeline:
    torch.set_num_threads(1)
    return load_pipeline(str(WEIGHTS / "diffusion"), None, None, "float32")


@pytest.fixture(scope="session")
def group_vit(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_group_vit(tmp_path_factory.mktemp("group_vit"))


@pytest.fixture(scope="session")
def clip_seg(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_clip_seg(tmp_path_factory.mktemp("clip_seg"))
