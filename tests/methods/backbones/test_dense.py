"""Dense features from transformers' ViTs, against the models' own outputs."""

from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
import yaml
from transformers import (
    Dinov2Config,
    Dinov2Model,
    Dinov2WithRegistersConfig,
    Dinov2WithRegistersModel,
    ViTConfig,
    ViTMAEConfig,
    ViTMAEModel,
    ViTModel,
)

from harness import ModelError
from methods.backbones import DenseFeatures, HubViT, OpenCLIP, OpenCLIPDense
from methods.backbones.dense import dino_positions
from methods.backbones.pixels import IMAGENET_MEAN, IMAGENET_STD, normalise, pad_to_multiple, resize
from tests.running import REPOSITORY

SHAPE = {"hidden_size": 24, "num_hidden_layers": 3, "num_attention_heads": 3, "patch_size": 4, "image_size": 16}
MODELS = {
    "vit": lambda: ViTModel(ViTConfig(**SHAPE, intermediate_size=48), add_pooling_layer=False),
    "dinov2": lambda: Dinov2Model(Dinov2Config(**SHAPE, mlp_ratio=2)),
    "registers": lambda: Dinov2WithRegistersModel(
        Dinov2WithRegistersConfig(**SHAPE, mlp_ratio=2, num_register_tokens=2)
    ),
}


@pytest.fixture(params=MODELS)
def folder(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    torch.manual_seed(0)
    MODELS[request.param]().save_pretrained(tmp_path)
    return tmp_path


def images(height: int = 18, width: int = 24) -> torch.Tensor:
    return torch.randint(0, 256, (2, 3, height, width), generator=torch.Generator().manual_seed(1), dtype=torch.uint8)


@torch.inference_mode()
def test_features_and_attention_are_the_models_own(folder: Path) -> None:
    backbone = HubViT(str(folder))
    backbone.load()
    model = backbone.model
    model.set_attn_implementation("eager")
    pixels = pad_to_multiple(normalise(images(), IMAGENET_MEAN, IMAGENET_STD), 4)
    extra = {"interpolate_pos_encoding": True} if model.config.model_type == "vit" else {}
    skip = 1 + int(getattr(model.config, "num_register_tokens", 0))
    output = model(pixels, output_attentions=True, output_hidden_states=True, **extra)
    found = backbone.features(images(), "token", cls_attention=True)
    assert found.patches.shape == (2, 24, 5, 6)
    torch.testing.assert_close(found.patches.flatten(2).transpose(1, 2), output.last_hidden_state[:, skip:])
    assert found.cls_attention is not None
    torch.testing.assert_close(found.cls_attention.flatten(2), output.attentions[-1][:, :, 0, skip:])
    earlier = backbone.features(images(), "token", layer=-2).patches
    torch.testing.assert_close(earlier.flatten(2).transpose(1, 2), output.hidden_states[-2][:, skip:])


@torch.inference_mode()
def test_keys_queries_values_differ_and_have_the_heads_concatenated(folder: Path) -> None:
    backbone = HubViT(str(folder))
    backbone.load()
    kinds = [backbone.features(images(), kind).patches for kind in ("key", "query", "value")]
    assert all(kind.shape == (2, 24, 5, 6) for kind in kinds)
    assert not torch.allclose(kinds[0], kinds[1])
    assert not torch.allclose(kinds[0], kinds[2])
    # No hook may stay behind: it would keep tensors alive.
    assert not any(module._forward_hooks for module in backbone.model.modules())


def test_normalisation_is_given_or_the_models_own_or_imagenets(folder: Path) -> None:
    def normalised(**settings: object) -> object:
        backbone = HubViT(str(folder), **settings)
        backbone.load()
        return backbone.identity()["mean"], backbone.identity()["std"]

    assert normalised() == (list(IMAGENET_MEAN), list(IMAGENET_STD))
    (folder / "preprocessor_config.json").write_text('{"image_mean": [0.5, 0.5, 0.5], "image_std": [0.25, 0.25, 0.25]}')
    assert normalised() == ([0.5] * 3, [0.25] * 3)
    assert normalised(mean=[0.1, 0.2, 0.3]) == ([0.1, 0.2, 0.3], [0.25] * 3)


def test_missing_models_are_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"no model folder '\./no/such'"):
        HubViT("./no/such").load()


@torch.inference_mode()
def test_mae_keeps_all_patches_in_their_order(tmp_path: Path) -> None:
    torch.manual_seed(0)
    ViTMAEModel(ViTMAEConfig(**SHAPE, intermediate_size=48)).save_pretrained(tmp_path)
    backbone = HubViT(str(tmp_path))
    backbone.load()
    # Without positions a patch's token does not depend on where it is: exchanged patches exchange their tokens.
    backbone.model.embeddings.position_embeddings.zero_()
    given = images(16, 24)
    exchanged = given.clone()
    exchanged[:, :, 4:8, 8:12], exchanged[:, :, 12:16, 20:24] = given[:, :, 12:16, 20:24], given[:, :, 4:8, 8:12]
    found, other = (backbone.features(each).patches for each in (given, exchanged))
    assert found.shape == (2, 24, 4, 6)
    expected = found.clone()
    expected[:, :, 1, 2], expected[:, :, 3, 5] = found[:, :, 3, 5], found[:, :, 1, 2]
    torch.testing.assert_close(other, expected)
    assert not torch.allclose(found, expected)


@torch.inference_mode()
def test_ovdiffs_mae_features_are_keys_of_the_last_layer_at_448(tmp_path: Path) -> None:
    """The model file of Table 2's MAE row, with a tiny model: projected by hand from what enters the last layer."""
    torch.manual_seed(0)
    shape = {**SHAPE, "patch_size": 16, "image_size": 32}
    ViTMAEModel(ViTMAEConfig(**shape, intermediate_size=48)).save_pretrained(tmp_path)
    settings = yaml.safe_load((REPOSITORY / "configs" / "models" / "mae_vitb16_keys.yaml").read_text())["init_args"]
    assert {key: settings[key] for key in ("kind", "layer", "size")} == {"kind": "key", "layer": -1, "size": 448}
    extractor = DenseFeatures(**settings | {"backbone": HubViT(str(tmp_path))})
    extractor.load()
    found = extractor.features(images(30, 50))
    assert found.shape == (2, 24, 28, 28)
    model = extractor.backbone.model
    pixels = normalise(resize(images(30, 50), (448, 448)).to(torch.uint8), IMAGENET_MEAN, IMAGENET_STD)
    noise = torch.arange(28 * 28).expand(2, -1)
    entered = model(pixels, noise=noise, interpolate_pos_encoding=True, output_hidden_states=True).hidden_states[-2]
    last = model.layers[-1]
    projection = last.attention.k_proj
    normed = torch.nn.functional.layer_norm(
        entered, (24,), last.layernorm_before.weight, last.layernorm_before.bias, model.config.layer_norm_eps
    )
    keys = normed @ projection.weight.T + projection.bias
    torch.testing.assert_close(found.flatten(2).transpose(1, 2), keys[:, 1:])


def release_positions(positions: torch.Tensor, rows: int, columns: int) -> torch.Tensor:
    """Bicubic by (side + 0.1) / own side as in karazijal/sdov, utils/extractor.py, one kernel tap at a time."""

    def kernel(distance: float, a: float = -0.75) -> float:
        d = abs(distance)
        if d <= 1:
            return (a + 2) * d**3 - (a + 3) * d**2 + 1
        return a * (d**3 - 5 * d**2 + 8 * d - 4) if d < 2 else 0.0

    side = int(len(positions) ** 0.5)

    def weights(cells: int) -> torch.Tensor:
        matrix = torch.zeros(cells, side, dtype=torch.float64)
        for cell in range(cells):
            at = (cell + 0.5) / ((cells + 0.1) / side) - 0.5
            first = int(at // 1)
            for tap in range(first - 1, first + 3):
                matrix[cell, min(max(tap, 0), side - 1)] += kernel(at - tap)
        return matrix

    grid = positions.double().reshape(side, side, -1)
    return torch.einsum("rs,ct,std->rcd", weights(rows), weights(columns), grid).flatten(0, 1).float()


def test_positions_are_resized_as_in_dinos_code() -> None:
    positions = torch.randn(49, 5, generator=torch.Generator().manual_seed(0))
    for grid in ((14, 14), (5, 9), (16, 7)):
        torch.testing.assert_close(dino_positions(positions, grid), release_positions(positions, *grid))
    assert torch.equal(dino_positions(positions, (7, 7)), positions)
    plain = F.interpolate(positions.T.reshape(1, 5, 7, 7), (14, 14), mode="bicubic").reshape(5, -1).T
    assert not torch.allclose(dino_positions(positions, (14, 14)), plain, atol=1e-3)


@torch.inference_mode()
def test_a_vit_sees_positions_resized_as_in_dinos_code(folder: Path) -> None:
    plain, dinos = HubViT(str(folder)), HubViT(str(folder), positions="dino")
    plain.load()
    dinos.load()
    assert plain.identity() != dinos.identity()
    own = images(16, 16)
    assert torch.equal(plain.features(own).patches, dinos.features(own).patches)
    larger = images(18, 24)
    found = dinos.features(larger).patches
    assert not torch.allclose(found, plain.features(larger).patches, atol=1e-4)
    # The same model, whose own grid is 5x6 with the release's positions.
    positions = plain.model.embeddings.position_embeddings
    resized = torch.cat([positions[:, :1], release_positions(positions[0, 1:], 5, 6)[None]], dim=1)
    plain.model.embeddings.interpolate_pos_encoding = lambda tokens, height, width: resized
    torch.testing.assert_close(found, plain.features(larger).patches, atol=1e-4, rtol=1e-4)


@torch.inference_mode()
def test_clip_sees_positions_resized_as_in_dinos_code() -> None:
    clip = OpenCLIP("local-dir:miniature/weights/clip")
    clip.load()
    plain, dinos = OpenCLIPDense(clip), OpenCLIPDense(clip, positions="dino")
    plain.load()
    dinos.load()
    side = clip.input_size[0]
    own, larger = images(side, side), images(2 * side, 2 * side)
    assert torch.equal(plain.features(own, "key").patches, dinos.features(own, "key").patches)
    cells = 2 * side // plain.patch_size
    positions = plain.visual.positional_embedding
    expected = torch.cat([positions[:1], release_positions(positions[1:], cells, cells)])
    torch.testing.assert_close(dinos._position_embedding((cells, cells)), expected)
    assert not torch.allclose(dinos.features(larger, "key").patches, plain.features(larger, "key").patches, atol=1e-3)


@torch.inference_mode()
def test_bilinear_inputs_are_neither_antialiased_nor_rounded(folder: Path) -> None:
    backbone = HubViT(str(folder))
    given = images(50, 37)
    found = DenseFeatures(backbone, size=16, interpolation="bilinear")
    found.load()
    # Pixel centres on pixel centres, two taps each way.
    down, across = ((torch.arange(16) + 0.5) * length / 16 - 0.5 for length in (50, 37))
    top, left = down.floor().long(), across.floor().long()
    y, x = (down - top)[:, None], across - left
    values = given.float()
    upper = values[:, :, top][..., left] * (1 - x) + values[:, :, top][..., left + 1] * x
    lower = values[:, :, top + 1][..., left] * (1 - x) + values[:, :, top + 1][..., left + 1] * x
    seen = upper * (1 - y) + lower * y
    assert (seen.frac() != 0).any()
    torch.testing.assert_close(found.features(given), backbone.features(seen).patches, atol=1e-4, rtol=1e-4)
    usual = DenseFeatures(backbone, size=16)
    usual.load()
    assert not torch.allclose(usual.features(given), found.features(given), atol=1e-2)
