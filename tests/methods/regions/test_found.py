"""FOUND: the published head's format, the padding, and the seed against a literal reading of its rules."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from transformers import ViTConfig, ViTModel

from harness import ModelError
from methods.backbones import HubViT
from methods.regions import Found, FoundSeed


@pytest.fixture(scope="module")
def backbone(tmp_path_factory: pytest.TempPathFactory) -> HubViT:
    folder = tmp_path_factory.mktemp("vit")
    torch.manual_seed(0)
    config = ViTConfig(hidden_size=24, num_hidden_layers=2, num_attention_heads=3, patch_size=8, image_size=32)
    ViTModel(config, add_pooling_layer=False).save_pretrained(folder)
    return HubViT(str(folder))


def image(height: int = 35, width: int = 42) -> torch.Tensor:
    return torch.randint(0, 256, (3, height, width), generator=torch.Generator().manual_seed(2), dtype=torch.uint8)


@torch.inference_mode()
def test_the_published_format_and_safetensors_give_the_same_soft_map(backbone: HubViT, tmp_path: Path) -> None:
    weight, bias = torch.randn(1, 24, 1, 1), torch.randn(1)
    torch.save({"decoder": {"weight": weight, "bias": bias}}, tmp_path / "decoder_weights.pt")
    save_file({"decoder.weight": weight, "decoder.bias": bias}, tmp_path / "head.safetensors")
    maps = []
    for name in ("decoder_weights.pt", "head.safetensors"):
        found = Found(backbone, str(tmp_path / name))
        found.load()
        maps.append(found(image()))
    assert torch.equal(*maps)
    assert maps[0].shape == (35, 42)
    keys = backbone.features(image()[None], "key").patches
    logits = torch.einsum("d,bdhw->bhw", weight.flatten(), keys) + bias
    # In the middle of a patch, align_corners false with factor 8 lies between centres; corners are exact.
    assert maps[0][0, 0].item() == pytest.approx(logits[0, 0, 0].sigmoid().item(), abs=1e-5)
    binary = Found(backbone, str(tmp_path / "head.safetensors"), binary=True)
    binary.load()
    assert torch.equal(binary(image()), (maps[0] > 0.5).float())


@torch.inference_mode()
def test_seed_is_the_least_attended_patch_and_its_likes_are_background(backbone: HubViT) -> None:
    seeded = FoundSeed(backbone, tau=0.3)
    seeded.load()
    found = backbone.features(image()[None], "key", cls_attention=True)
    attention, keys = found.cls_attention[0].flatten(1), found.patches[0].flatten(1)
    shares = [(row > attention.mean()).float().mean() + 1e-10 for row in attention]
    beta = [torch.log(sum(shares) / share) for share in shares]
    weighted = torch.cat([keys[8 * h : 8 * h + 8] * beta[h] for h in range(3)])
    seed = sum(attention[h] * beta[h] for h in range(3)).argmin()
    cosine = torch.nn.functional.cosine_similarity(weighted, weighted[:, seed : seed + 1], dim=0)
    expected = (cosine <= 0.3).float().reshape(5, 6).repeat_interleave(8, 0).repeat_interleave(8, 1)[:35, :42]
    assert torch.equal(seeded(image()), expected)


def test_a_wrong_head_is_one_sentence(backbone: HubViT, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"no FOUND head at .*missing.pt"):
        Found(backbone, str(tmp_path / "missing.pt")).load()
    (tmp_path / "noise.pt").write_bytes(b"not a checkpoint")
    with pytest.raises(ModelError, match="is not a FOUND head"):
        Found(backbone, str(tmp_path / "noise.pt")).load()
    save_file(
        {"decoder.weight": torch.zeros(1, 7, 1, 1), "decoder.bias": torch.zeros(1)}, tmp_path / "small.safetensors"
    )
    with pytest.raises(ModelError, match="7 channels, not 24"):
        Found(backbone, str(tmp_path / "small.safetensors")).load()
