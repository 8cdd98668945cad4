"""A person's own images and words: what is written and printed."""

import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from harness import DataError, Vocabulary
from harness.engine.segment import ImageFiles
from tests.running import SQUARES, Outcome, Ranks


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Images in the colours of the classes: background black, then the VOC colours."""
    root = tmp_path / "images"
    root.mkdir()
    half = np.zeros((48, 64, 3), dtype=np.uint8)
    half[:, 32:] = Vocabulary(("background", "corgi"), background=True).palette[1]
    Image.fromarray(half).save(root / "half.png")
    Image.fromarray(half[:, 48:]).save(root / "all.png")
    return root


def segment(ovseg: Callable[..., Outcome], *arguments: object) -> Outcome:
    return ovseg("segment", "--config", SQUARES, *arguments)


def test_every_image_gets_a_label_map_an_overlay_and_its_shares(
    ovseg: Callable[..., Outcome], folder: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    outcome = segment(ovseg, folder / "half.png", folder, "--classes", "corgi, park bench", "--out", out)
    assert outcome.code == 0, outcome.err
    lines = outcome.out.splitlines()
    assert lines[-1] == str(out)
    assert lines[0] == f"{folder / 'half.png'}: background 50.0 %, corgi 50.0 %"
    assert lines[1] == f"{folder / 'all.png'}: corgi 100.0 %"
    assert sorted(path.name for path in out.iterdir()) == [
        f"{name}_{kind}.png" for name in ("all", "half-2", "half") for kind in ("labels", "overlay")
    ]
    with Image.open(out / "half_labels.png") as file:
        assert file.mode == "P"
        labels = np.array(file)
    assert labels.shape == (48, 64)
    assert (labels[:, :30] == 0).all()
    assert (labels[:, 34:] == 1).all()
    with Image.open(out / "half_overlay.png") as file:
        assert file.width > 2 * 64
        assert file.height > 48


def test_what_decided_is_shown_when_asked_for(ovseg: Callable[..., Outcome], folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    outcome = segment(
        ovseg, folder / "half.png", "--classes", "corgi, bench", "--out", out, "--save_explanations", "true"
    )
    assert outcome.code == 0, outcome.err
    with Image.open(out / "half_explanation.png") as file:
        shown = np.array(file.convert("RGB")).reshape(-1, 3)
    # A row for the background and one for the corgi, so more than the image and its segmentation.
    with Image.open(out / "half_overlay.png") as file:
        assert len(shown) > file.size[0] * file.size[1]
    assert (shown == Vocabulary(("background", "corgi"), background=True).palette[1]).all(axis=1).any()


def test_without_a_background_every_pixel_is_something(
    ovseg: Callable[..., Outcome], folder: Path, tmp_path: Path
) -> None:
    given = [folder / "half.png", "--classes", "corgi,bench", "--background", "false", "--out", tmp_path / "out"]
    outcome = segment(ovseg, *given)
    assert re.fullmatch(r".*half\.png: (corgi|bench) [^,]+ %(, (corgi|bench) .+ %)?", outcome.out.splitlines()[0])
    assert " background " not in outcome.out


def test_corrupt_images_stop_or_are_skipped(ovseg: Callable[..., Outcome], folder: Path, tmp_path: Path) -> None:
    (folder / "a.jpg").write_text("x")
    given = [folder, "--classes", "corgi", "--out", tmp_path / "out"]
    stopped = segment(ovseg, *given)
    assert stopped.code == 2
    assert re.fullmatch(r"ovseg segment: the image .*a\.jpg is damaged or not an image: .*\n", stopped.err)
    skipped = segment(ovseg, *given, "--on_error", "skip")
    assert skipped.code == 0
    assert f"{folder / 'a.jpg'}: skipped: the image" in skipped.out
    assert skipped.out.count("%") == 3


def test_two_ranks_write_what_one_writes(
    ovseg: Callable[..., Outcome], ranks: Ranks, folder: Path, tmp_path: Path
) -> None:
    given = ["segment", str(folder), "--config", str(SQUARES), "--classes", "corgi", "--out"]
    alone = ovseg(*given, tmp_path / "one")
    outcomes = ranks.ovseg(2, *given, str(tmp_path / "two"))
    assert [outcome.code for outcome in outcomes] == [0, 0], outcomes
    assert outcomes[0].out.splitlines()[:-1] == alone.out.splitlines()[:-1]
    assert outcomes[1].out == ""
    for path in (tmp_path / "one").iterdir():
        assert (tmp_path / "two" / path.name).read_bytes() == path.read_bytes()


def test_output_names_are_plain_and_unique(tmp_path: Path) -> None:
    names = ["a b.png", "a;b.jpg", "..png", "ü.png", "a_b.bmp"]
    for name in names:
        (tmp_path / name).touch()
    found = ImageFiles([str(tmp_path / name) for name in names], Vocabulary(("x",))).output_names()
    assert len(set(found)) == len(found)
    for name in found:
        assert re.fullmatch(r"[\w.-]+", name)
    assert found[:2] == ["a_b", "a_b-2"]


def test_what_is_no_image_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"no images in the folder"):
        ImageFiles([str(tmp_path)], Vocabulary(("x",)))
    with pytest.raises(DataError, match=r"the image .*b\.png is missing"):
        ImageFiles([str(tmp_path / "b.png")], Vocabulary(("x",)))
