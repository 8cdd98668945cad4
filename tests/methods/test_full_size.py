"""The real architectures with random weights, built from their configurations, through the same code path."""

from pathlib import Path

import open_clip
import pytest
import torch
from safetensors.torch import save_file
from transformers import ViTConfig, ViTModel

from harness import Sample, Vocabulary
from harness.commands.evaluate import parser
from methods import ClipDIY
from methods.backbones import HubViT, OpenCLIP
from methods.regions import Found

pytestmark = pytest.mark.slow


@torch.inference_mode()
def test_clip_vit_b32_and_dino_vits8_segment_one_image(tmp_path: Path) -> None:
    # DINO ViT-S/8's published configuration.
    shape = {"hidden_size": 384, "num_hidden_layers": 12, "num_attention_heads": 6, "intermediate_size": 1536}
    vit = ViTModel(ViTConfig(**shape, patch_size=8, image_size=224), add_pooling_layer=False)
    vit.save_pretrained(tmp_path / "dino")
    save_file(
        {"decoder.weight": torch.randn(1, 384, 1, 1), "decoder.bias": torch.zeros(1)}, tmp_path / "head.safetensors"
    )
    assert "ViT-B-32" in open_clip.list_models()
    saliency = Found(HubViT(str(tmp_path / "dino")), str(tmp_path / "head.safetensors"))
    method = ClipDIY(OpenCLIP("ViT-B-32"), saliency)
    arguments = [
        "--protocol",
        "configs/protocols/tcl.yaml",
        "--method",
        "methods.ClipDIY",
        "--data",
        "miniature.datamodule.Miniature",
    ]
    built = parser()
    protocol = built.instantiate(built.parse_args([*arguments, "--method.clip", "OpenCLIP"])).protocol
    method.bind(Vocabulary.from_class_names("dog, potted plant, train"), protocol)
    method.load()
    method.eval()
    method.prepare()
    image = torch.randint(0, 256, (3, 448, 600), dtype=torch.uint8)
    labels = method.predict_image(Sample(0, "x", image, image, None, (375, 502)))
    assert labels.shape == (375, 502)
    assert labels.max() < 4
    assert sum(p.numel() for p in method.clip.parameters()) > 150e6
    assert sum(p.numel() for p in method.saliency.parameters()) > 21e6
