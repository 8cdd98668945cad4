"""The protocol: equal to mmsegmentation, with a fingerprint over every choice."""

import dataclasses
from pathlib import Path
from typing import Any, Literal

import mmcv
import numpy as np
import pytest
import torchvision
from PIL import Image

from harness import ConfigurationError, Protocol
from harness.commands.evaluate import parser
from tests.running import REPOSITORY, SQUARES

PROTOCOLS = sorted((REPOSITORY / "configs" / "protocols").glob("*.yaml"))

# Scores are compared under this name: whoever changes what it stands for gives the protocol another name.
TCL = "4fe9411e5582a5d2"

# Another valid value for every field of the default protocol but the name.
OTHER: dict[str, Any] = {
    "version": 2,
    "resize": "squash",
    "size": (2048, 336),
    "interpolation": "lanczos",
    "window": 336,
    "stride": 112,
    "small_images": "pad",
    "templates": ("a {}",),
    "class_names": "clip_diy",
    "background": "refined",
    "ignore_label": 254,
    "absent_classes": "zero",
    "refine": "image",
    "labels": "resized",
    "label_size": 448,
    "upsample": "nearest",
    "reduction": "image",
}


def load(path: Path) -> Protocol:
    """A protocol file as the command line reads it."""
    built = parser()
    arguments = ["--method", "tinyseg.NearestColour", "--data", "tinyseg.Squares", "--protocol", str(path)]
    return built.instantiate(built.parse_args(arguments)).protocol


@pytest.mark.parametrize("path", PROTOCOLS, ids=lambda path: path.stem)
def test_every_protocol_file_loads_and_is_named_after_its_file(path: Path, external: Path) -> None:
    assert load(path).name == path.stem


def test_the_fingerprint_of_tcl_is_unchanged(external: Path) -> None:
    assert load(REPOSITORY / "configs" / "protocols" / "tcl.yaml").fingerprint == TCL


def test_the_fingerprint_changes_with_every_field_but_the_name() -> None:
    base = Protocol(name="a", label_size=64)
    assert dataclasses.replace(base, name="b").fingerprint == base.fingerprint
    fields = {field.name for field in dataclasses.fields(Protocol)} - {"name"}
    assert fields == OTHER.keys()
    prints = {name: dataclasses.replace(base, **{name: value}).fingerprint for name, value in OTHER.items()}
    assert len({base.fingerprint, *prints.values()}) == len(OTHER) + 1


def test_equal_settings_have_equal_fingerprints_from_files_and_flags(external: Path) -> None:
    built = parser()
    parsed = built.instantiate(built.parse_args(["--config", str(SQUARES), "--protocol.stride", "16"]))
    assert parsed.protocol.fingerprint == Protocol(name="x", size=(400, 48), window=32, stride=16).fingerprint


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"size": (0, 5)}, "must be positive"),
        ({"window": 0}, "must be positive"),
        ({"stride": 0}, "must be positive"),
        ({"window": 32, "stride": 33}, "stride 33 leaves gaps in window 32"),
        ({"templates": ()}, "needs at least one template"),
        ({"templates": ("a photo",)}, "'a photo' needs exactly one {}"),
        ({"templates": ("{} on {}",)}, "needs exactly one {}"),
        ({"labels": "resized"}, "needs a positive label_size"),
        ({"labels": "resized", "label_size": -1}, "needs a positive label_size"),
    ],
)
def test_contradictions_are_named(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigurationError, match=message) as caught:
        Protocol(name="mine", **settings)
    assert "'mine'" in str(caught.value)


def test_sizes_are_those_of_mmcv() -> None:
    random = np.random.default_rng(0)
    sides = random.integers(1, 3000, (2000, 2)).tolist()
    sides += [[int(short), int(long)] for short, long in zip(range(20, 60), range(4000, 8000, 100), strict=True)]
    for size in ((2048, 448), (448, 2048), (100, 100), (333, 77)):
        protocol = Protocol(name="p", size=size)
        for height, width in sides:
            wide, high = mmcv.image.geometric.rescale_size((width, height), size)
            # mmcv computes sides of 0 pixels, to which it then cannot resize.
            assert protocol.resized_size(height, width) == (max(1, high), max(1, wide)), (height, width, size)


def test_pixels_are_those_of_mmcv() -> None:
    random = np.random.default_rng(1)
    protocol = Protocol(name="p", size=(300, 61))
    for height, width in [*random.integers(20, 400, (60, 2)).tolist(), [12, 1500], [1500, 13], [61, 200], [61, 61]]:
        image = random.integers(0, 256, (height, width, 3), dtype=np.uint8)
        expected, scale = mmcv.imrescale(image, (300, 61), return_scale=True)
        resized = protocol.resize_image(image)
        assert np.array_equal(resized, expected)
        assert scale == min(300 / max(height, width), 61 / min(height, width))


@pytest.mark.parametrize("interpolation", ["bilinear", "lanczos"])
def test_no_image_is_resized_to_zero_pixels(interpolation: Literal["bilinear", "lanczos"]) -> None:
    protocol = Protocol(name="p", size=(400, 96), interpolation=interpolation)
    assert mmcv.image.geometric.rescale_size((1000, 1), (400, 96)) == (400, 0)
    line = np.random.default_rng(3).integers(0, 256, (1, 1000, 3), dtype=np.uint8)
    assert protocol.resize_image(line).shape == (1, 400, 3)
    assert protocol.resize_image(line.transpose(1, 0, 2)).shape == (400, 1, 3)


def test_squash_and_none() -> None:
    image = np.arange(5 * 7 * 3, dtype=np.uint8).reshape(5, 7, 3)
    assert Protocol(name="p", resize="squash", size=(4, 9)).resize_image(image).shape == (4, 9, 3)
    assert Protocol(name="p", resize="none").resize_image(image) is image


def test_lanczos_is_antialiased_and_bilinear_is_not() -> None:
    stripes = np.zeros((64, 64, 3), dtype=np.uint8)
    stripes[:, ::4] = 255
    smooth = Protocol(name="p", resize="squash", size=(16, 16), interpolation="lanczos").resize_image(stripes)
    sharp = Protocol(name="p", resize="squash", size=(16, 16)).resize_image(stripes)
    assert abs(smooth[4:-4, 4:-4].astype(float).mean() - 255 / 4) < 3
    assert sharp.max() == 0


def test_labels_are_scored_at_the_size_of_the_protocol() -> None:
    labels = np.random.default_rng(2).integers(0, 9, (30, 50), dtype=np.uint8)
    assert Protocol(name="p").resize_labels(labels) is labels
    resized = Protocol(name="p", labels="resized", label_size=60).resize_labels(labels)
    assert resized.shape == (60, 100)
    assert np.array_equal(resized, labels.repeat(2, 0).repeat(2, 1))


def test_resized_labels_are_those_of_torchvision() -> None:
    """As CLIP-DIY's release resizes them (``src/datasets/pascal_voc.py``, ``get_mask``)."""
    random = np.random.default_rng(4)
    for height, width in [*random.integers(20, 700, (40, 2)).tolist(), [375, 500], [333, 500], [448, 448], [500, 1]]:
        labels = random.integers(0, 21, (height, width), dtype=np.uint8)
        expected = torchvision.transforms.functional.resize(
            Image.fromarray(labels), 448, torchvision.transforms.InterpolationMode.NEAREST
        )
        found = Protocol(name="p", labels="resized", label_size=448).resize_labels(labels)
        assert np.array_equal(found, np.array(expected)), (height, width)
    # 448 * 500 / 333 = 672.67 is cut, not rounded.
    assert Protocol(name="p", labels="resized", label_size=448).resize_labels(labels[:333].repeat(500, 1)).shape == (
        448,
        672,
    )


def test_lanczos_is_pillows() -> None:
    """As OVDiff's release and FOSSIL's MaskCut resize: a filter of Pillow, on its own images."""
    image = np.random.default_rng(5).integers(0, 256, (75, 100, 3), dtype=np.uint8)
    protocol = Protocol(name="p", size=(1000000, 48), interpolation="lanczos")
    assert np.array_equal(
        protocol.resize_image(image), np.array(Image.fromarray(image).resize((64, 48), Image.LANCZOS))
    )
