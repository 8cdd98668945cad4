"""Two different runs never pass for one: what a run is identified by comes from its objects."""

import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from lightning.pytorch import Trainer
from torch import nn

from harness import (
    DataError,
    LabeledImage,
    Part,
    Protocol,
    RunError,
    ScoreMap,
    SegmentationData,
    SegmentationMethod,
    Vocabulary,
    evaluate,
)
from harness.data.datamodule import file_signature

PROTOCOL = Protocol(name="small", resize="none", window=None)


class Shift(Part):
    """A number that is added to the brightness."""

    def __init__(self, by: float = 0.0) -> None:
        super().__init__()
        self.by = by

    def build(self) -> None:
        self.scale = nn.Parameter(torch.ones(1))


class Threshold(SegmentationMethod):
    """Class 1 where a pixel is brighter than the threshold."""

    def __init__(
        self, threshold: float = 100.0, shift: Shift | None = None, weights_of: dict[str, float] | None = None
    ) -> None:
        super().__init__()
        self.threshold = threshold
        self.shift = shift or Shift()
        self.weights_of = weights_of or {}

    def encode(self, windows: torch.Tensor, boxes: Any, image: Any) -> torch.Tensor:
        return windows.float().mean(dim=1, keepdim=True) + self.shift.by

    def score(self, encoded: torch.Tensor, boxes: Any, context: Any) -> list[ScoreMap]:
        bright = encoded - self.threshold
        return [ScoreMap(torch.cat([-bright, bright], dim=1) + self.weights_of.get("all", 0.0))]


class Ramp(SegmentationData):
    """One grey ramp; the labels begin where ``edge`` says, which its signature does not tell."""

    not_identity = SegmentationData.not_identity | {"broken"}

    def __init__(self, edge: int = 100, stuff: bool = False, broken: bool = False, **settings: Any) -> None:
        super().__init__(**settings)
        self.edge, self.stuff, self.broken = edge, stuff, broken

    @property
    def vocabulary(self) -> Vocabulary:
        return Vocabulary(("dark", "bright"), stuff=frozenset({"dark"} if self.stuff else ()))

    def all_ids(self) -> list[str]:
        return ["ramp", "other"]

    def content_signature(self, index: int) -> str:
        return "1"

    def read(self, index: int) -> LabeledImage:
        if self.broken and index == 1:
            raise DataError("other is broken")
        row = np.arange(256, dtype=np.uint8)
        image = np.broadcast_to(row[None, :, None], (8, 256, 3)).copy()
        return LabeledImage(image, np.broadcast_to((row > self.edge).astype(np.uint8), (8, 256)).copy())


def run(run_dir: Path, method: Threshold | None = None, data: SegmentationData | None = None, **given: Any) -> float:
    trainer = Trainer(
        accelerator="cpu",
        logger=False,
        enable_progress_bar=False,
        enable_checkpointing=False,
        enable_model_summary=False,
        precision=given.get("precision", "32-true"),
    )
    protocol = given.get("protocol", PROTOCOL)
    results = evaluate(method or Threshold(), data or Ramp(), protocol, trainer, run_dir).results
    assert results is not None
    score: float = results["miou"]
    return score


def changed(**settings: Any) -> Threshold:
    """A method whose attributes are set after it was constructed."""
    method = Threshold()
    for name, value in settings.items():
        setattr(method, name, value)
    return method


def with_shift(by: float) -> Threshold:
    method = Threshold()
    method.shift.by = by
    return method


def with_weights() -> Threshold:
    method = Threshold()
    method.weights_of["all"] = 3.0
    return method


METHODS = {
    "constructor's argument": (lambda: Threshold(200.0), "method.settings.threshold: 100.0 -> 200.0"),
    "part's argument": (lambda: Threshold(shift=Shift(5.0)), "method.settings.shift.by: 0.0 -> 5.0"),
    "attribute": (lambda: changed(threshold=200.0), "method.settings.threshold: 100.0 -> 200.0"),
    "attribute of a part": (lambda: with_shift(5.0), "method.settings.shift.by: 0.0 -> 5.0"),
    "another part": (lambda: changed(shift=Shift(5.0)), "method.settings.shift.by: 0.0 -> 5.0"),
    "entry of a mapping": (with_weights, "method.settings.weights_of"),
}


@pytest.mark.parametrize("case", METHODS)
def test_another_method_is_refused(case: str, tmp_path: Path) -> None:
    make, named = METHODS[case]
    run(tmp_path / "run", Threshold(100.0, Shift(), None if "mapping" not in case else {}))
    with pytest.raises(RunError, match="belongs to another evaluation") as refused:
        run(tmp_path / "run", make())
    assert named in str(refused.value)


def test_what_is_refused_has_another_score(tmp_path: Path) -> None:
    # Of 256 columns 155 are brighter than 100 and 55 brighter than 200.
    assert run(tmp_path / "first") == 100
    expected = 100 * (101 / 201 + 55 / 155) / 2
    assert run(tmp_path / "second", Threshold(200.0)) == pytest.approx(expected)
    assert run(tmp_path / "third", changed(threshold=200.0)) == pytest.approx(expected)


def test_the_same_objects_made_again_are_the_same_run(tmp_path: Path) -> None:
    first = run(tmp_path / "run", Threshold(90.0, Shift(2.0)), Ramp(batch_size=1))
    assert run(tmp_path / "run", Threshold(90.0, Shift(2.0)), Ramp(batch_size=2, num_workers=0)) == first


DATA = {
    "setting that the signature does not tell": (Ramp(edge=50), "data.settings.edge: 100 -> 50"),
    "stuff list": (Ramp(stuff=True), "data.vocabulary.stuff"),
    "fewer images": (Ramp(limit=1), "data.images: 2 -> 1"),
}


@pytest.mark.parametrize("case", DATA)
def test_other_data_are_refused(case: str, tmp_path: Path) -> None:
    data, named = DATA[case]
    run(tmp_path / "run")
    with pytest.raises(RunError) as refused:
        run(tmp_path / "run", data=data)
    assert named in str(refused.value)


def test_an_attribute_of_the_data_counts_too(tmp_path: Path) -> None:
    run(tmp_path / "run")
    data = Ramp()
    data.edge = 50
    with pytest.raises(RunError, match=r"data\.settings\.edge: 100 -> 50"):
        run(tmp_path / "run", data=data)


@pytest.mark.parametrize(
    ("given", "named"),
    [
        ({"precision": "64-true"}, 'precision: "32-true" -> "64-true"'),
        ({"precision": "bf16-mixed"}, 'precision: "32-true" -> "bf16-mixed"'),
        ({"protocol": Protocol(name="small", resize="none", window=64, stride=64)}, "protocol.window: null -> 64"),
    ],
)
def test_other_settings_of_trainer_and_protocol_are_refused(given: dict[str, Any], named: str, tmp_path: Path) -> None:
    run(tmp_path / "run")
    with pytest.raises(RunError) as refused:
        run(tmp_path / "run", **given)
    assert named in str(refused.value)


def test_a_method_that_an_earlier_run_has_converted_is_another(tmp_path: Path) -> None:
    method = Threshold()
    run(tmp_path / "first", method)
    run(tmp_path / "half", method, precision="bf16-true")
    with pytest.raises(RunError, match=r'method.settings.shift.dtype: "float32" -> "bfloat16"'):
        run(tmp_path / "first", method)


def test_another_seed_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PL_GLOBAL_SEED", "0")
    run(tmp_path / "run")
    monkeypatch.setenv("PL_GLOBAL_SEED", "1")
    with pytest.raises(RunError, match="seed: 0 -> 1"):
        run(tmp_path / "run")


def test_a_skipped_image_is_no_result_for_a_run_that_stops(tmp_path: Path) -> None:
    run(tmp_path / "run", data=Ramp(broken=True, on_error="skip"))
    with pytest.raises(DataError, match="other is broken"):
        run(tmp_path / "run", data=Ramp(broken=True))
    assert run(tmp_path / "run", data=Ramp()) == 100
    assert [line.count('"skipped":null') for line in (tmp_path / "run" / "images.jsonl").read_text().splitlines()] == [
        1,
        1,
    ]


def test_a_changed_label_in_a_file_of_the_same_size_shows(tmp_path: Path) -> None:
    def png(label: int) -> bytes:
        """A grey image of one pixel, not compressed, so that all have the same size."""

        def chunk(kind: bytes, content: bytes) -> bytes:
            return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

        head = struct.pack(">IIBBBBB", 1, 1, 8, 0, 0, 0, 0)
        pixels = zlib.compress(bytes([0, label]), 0)
        return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", pixels) + chunk(b"IEND", b"")

    file = tmp_path / "mask.png"
    file.write_bytes(png(1))
    first = file_signature(file)
    file.write_bytes(png(2))
    assert file_signature(file) != first
    file.write_bytes(png(1))
    assert file_signature(file) == first
    assert file_signature(tmp_path / "missing.png") == file_signature(None) == "-1"
