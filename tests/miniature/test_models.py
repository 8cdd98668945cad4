"""The committed weights load in the library classes and do what the model card says, on a small part of the split.

Floors are well below the card's numbers, which are over the whole split: they catch broken weights, not noise.
"""

from __future__ import annotations

import numpy as np
import open_clip
import pytest
import torch
from safetensors import safe_open
from transformers import AutoImageProcessor, AutoModel, Dinov2Model

from miniature.crops import draw_scenes
from miniature.dense import DinoFeatures, confusion, mean_iou, prototype_scores, raw_colours
from miniature.measure import Objectness, clip_scores, found_scores
from miniature.training import MEAN, STD, WEIGHTS
from miniature.world import Scene


@pytest.fixture(scope="module")
def val() -> list[Scene]:
    return draw_scenes(42, split="val")


@pytest.fixture(scope="module")
def support() -> list[Scene]:
    return draw_scenes(60)


def test_colour_alone_does_not_solve_the_world(val: list[Scene], support: list[Scene]) -> None:
    for cosine in (False, True):
        _, coarse = prototype_scores(raw_colours, support, val, cosine)
        assert coarse < 15


def test_clip_names_things(val: list[Scene]) -> None:
    crops, wholes = clip_scores(val)
    assert crops > 75
    assert wholes > 75


def test_clip_folder_loads_as_users_load_it() -> None:
    model, _, preprocess = open_clip.create_model_and_transforms(f"local-dir:{WEIGHTS / 'clip'}")
    tokens = open_clip.get_tokenizer(f"local-dir:{WEIGHTS / 'clip'}")
    assert model.visual.image_size == (32, 32)
    ids = tokens(["a photo of a cat", "a photo of a background"])
    assert ids.shape == (2, 32)
    assert "Normalize" in repr(preprocess)
    with torch.no_grad():
        assert model.encode_text(ids).isfinite().all()


def test_dino_separates_classes_far_better_than_colour(val: list[Scene], support: list[Scene]) -> None:
    fine, coarse = prototype_scores(DinoFeatures(), support, val[:21])
    assert fine > 50
    assert coarse > 45


def test_dino_folder_loads_as_users_load_it() -> None:
    model = AutoModel.from_pretrained(WEIGHTS / "dino", dtype=torch.float32)
    assert isinstance(model, Dinov2Model)
    processor = AutoImageProcessor.from_pretrained(WEIGHTS / "dino")
    pixels = processor(np.zeros((96, 128, 3), np.uint8), return_tensors="pt")["pixel_values"]
    assert pixels.shape == (1, 3, 96, 128)
    torch.testing.assert_close(pixels[0, :, 0, 0], -torch.tensor(MEAN) / torch.tensor(STD))
    with torch.no_grad():
        assert model(pixels).last_hidden_state.shape == (1, 1 + 24 * 32, model.config.hidden_size)


def test_found_head_finds_things(val: list[Scene]) -> None:
    overlap, error = found_scores(Objectness(), val[:21])
    assert overlap > 65
    assert error < 15


def test_weights_are_small_and_in_half_precision() -> None:
    files = [WEIGHTS / "clip" / "open_clip_model.safetensors", WEIGHTS / "dino" / "model.safetensors"]
    files.append(WEIGHTS / "found" / "found.safetensors")
    assert sum(file.stat().st_size for file in files) < 6 << 20
    for file in files:
        with safe_open(file, "pt") as tensors:
            assert {tensors.get_slice(name).get_dtype() for name in tensors.keys()} == {"F16"}  # noqa: SIM118


def test_found_head_has_the_published_names() -> None:
    with safe_open(WEIGHTS / "found" / "found.safetensors", "pt") as tensors:
        shapes = {name: tensors.get_slice(name).get_shape() for name in tensors.keys()}  # noqa: SIM118
    width = Dinov2Model.from_pretrained(WEIGHTS / "dino").config.hidden_size
    assert shapes == {"decoder.weight": [1, width, 1, 1], "decoder.bias": [1]}


def test_mean_iou_counts_classes_that_occur() -> None:
    matrix = confusion(np.array([[0, 0, 1, 1]]), np.array([[0, 1, 1, 1]]), 3)
    assert matrix.tolist() == [[1, 1, 0], [0, 2, 0], [0, 0, 0]]
    assert mean_iou(matrix) == pytest.approx(100 * (1 / 2 + 2 / 3) / 2)
