"""The training commands run from drawing to saved weights, in a few steps."""

from __future__ import annotations

from pathlib import Path

import open_clip
import pytest
import torch
from PIL import Image
from transformers import Dinov2Model

from miniature.__main__ import main
from miniature.measure import Objectness
from miniature.train_clip import train as train_clip
from miniature.train_dino import train as train_dino
from miniature.train_found import train as train_found
from miniature.training import WEIGHTS
from miniature.world import scene


def test_each_model_is_trained_on_the_one_before_and_loads(tmp_path: Path) -> None:
    clip, dino, found = tmp_path / "clip", tmp_path / "dino", tmp_path / "found"
    train_clip(steps=2, batch=16, num_scenes=6, folder=clip)
    open_clip.create_model_and_transforms(f"local-dir:{clip}")
    train_dino(steps=2, num_scenes=10, clip=clip, folder=dino)
    assert Dinov2Model.from_pretrained(dino).config.patch_size == 4
    train_found(steps=2, num_scenes=10, dino=dino, folder=found)
    soft = Objectness(dino, found / "found.safetensors")(scene("val", 0).image)
    assert soft.shape == (96, 128)
    assert ((soft >= 0) & (soft <= 1)).all()


def test_the_same_seed_gives_the_same_weights(tmp_path: Path) -> None:
    for name in ("one", "two"):
        train_dino(steps=2, num_scenes=10, clip=None, folder=tmp_path / name)
    first, second = (Dinov2Model.from_pretrained(tmp_path / name).state_dict() for name in ("one", "two"))
    assert all(torch.equal(value, second[name]) for name, value in first.items())


def test_a_missing_model_names_the_command_that_makes_it(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="train clip"):
        train_dino(clip=tmp_path / "none", folder=tmp_path)
    with pytest.raises(FileNotFoundError, match="train dino"):
        train_found(dino=tmp_path / "none", folder=tmp_path)


def test_weights_in_the_repository_are_complete() -> None:
    for file in (
        "clip/open_clip_config.json",
        "clip/vocab.json",
        "dino/preprocessor_config.json",
        "found/found.safetensors",
    ):
        assert (WEIGHTS / file).is_file(), file


def test_sheet_command_writes_an_image(tmp_path: Path) -> None:
    main(["sheet", str(tmp_path / "sheet.png"), "--count", "8", "--labels"])
    with Image.open(tmp_path / "sheet.png") as sheet:
        assert sheet.size == (7 * 124, 4 * 88)


def test_out_goes_with_one_model(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        main(["train", "all", "--out", "somewhere"])
    assert stop.value.code == 2
    assert "--out goes with one model" in capsys.readouterr().err


def test_the_vae_takes_no_steps(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        main(["train", "vae", "--steps", "3"])
    assert stop.value.code == 2
    assert "--steps" in capsys.readouterr().err
