"""The baselines' real architectures with random weights, built from their configurations, through the same path."""

from typing import Any

import pytest
import torch
from transformers import CLIPSegConfig, CLIPSegForImageSegmentation, GroupViTConfig, GroupViTModel

from harness import Protocol, Sample, Vocabulary
from methods import CLIPDense, CLIPSeg, GroupViT, MaskCLIP
from methods.backbones import OpenCLIP
from methods.backbones.clip_patches import CLIPPatches
from methods.backbones.hub_clip_seg import HubCLIPSeg
from methods.backbones.hub_group_vit import HubGroupViT
from miniature import tokenizer as clip_words

pytestmark = pytest.mark.slow

PROTOCOL = Protocol("tcl", size=(2048, 448), window=448, stride=224, templates=("a photo of a {}.",))
WORDS = Vocabulary.from_class_names("dog, potted plant, train")


@torch.inference_mode()
def segment(method: Any) -> None:
    """Two windows of an image whose labels have another size."""
    method.bind(WORDS, PROTOCOL)
    method.load()
    method.eval()
    method.prepare()
    image = torch.randint(0, 256, (3, 448, 600), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    labels = method.predict_image(Sample(0, "x", image, image, None, (375, 502)))
    assert labels.shape == (375, 502)
    assert labels.max() < len(WORDS)


def built(backbone: Any, model: Any) -> Any:
    """A backbone that needs no files."""
    backbone.adopt(model, clip_words.load())
    backbone.load = lambda: None
    return backbone


def count(module: torch.nn.Module) -> float:
    return sum(parameter.numel() for parameter in module.parameters()) / 1e6


@pytest.mark.parametrize("kind", [CLIPDense, MaskCLIP])
def test_clip_vit_b16(kind: type) -> None:
    torch.manual_seed(0)
    method = kind(CLIPPatches(OpenCLIP("ViT-B-16-quickgelu")), background_threshold=0.1)
    segment(method)
    assert 149 < count(method.clip) < 151
    assert method.clip.tokens(torch.zeros(1, 3, 448, 448, dtype=torch.uint8)).embeddings.shape == (1, 512, 28, 28)


def test_group_vit() -> None:
    torch.manual_seed(0)
    config = GroupViTConfig()
    config.text_config.eos_token_id = clip_words.load().eos_token_id
    method = GroupViT(built(HubGroupViT(), GroupViTModel(config)))
    segment(method)
    # The image's ViT-S, the texts' encoder of 256 dimensions, and two wide projections.
    assert 55 < count(method.model) < 57
    groups = method.model.group(torch.zeros(1, 3, 448, 448, dtype=torch.uint8))
    assert groups.assignment.shape == (1, 8, 28, 28)
    assert groups.embeddings.shape == (1, 8, 256)


def test_clip_seg_rd64() -> None:
    torch.manual_seed(0)
    # As published: ViT-B/16, three layers read, 64 dimensions, the refined model's three transposed convolutions.
    config = CLIPSegConfig(vision_config={"patch_size": 16}, use_complex_transposed_convolution=True)
    config.text_config.eos_token_id = clip_words.load().eos_token_id
    method = CLIPSeg(built(HubCLIPSeg(), CLIPSegForImageSegmentation(config)), background_threshold=0.5)
    segment(method)
    assert 149 < count(method.model) < 153
    masks = method.model.masks(
        method.model.activations(torch.zeros(1, 3, 100, 448, dtype=torch.uint8)), method.conditions
    )
    assert masks.shape == (1, 3, 352, 352)
