"""The world: the same pixels everywhere, exact labels, words that agree with them."""

from __future__ import annotations

import hashlib
import re

import numpy as np
import pytest

from miniature.world import CLASSES, SIZES, STUFF, THINGS, VAL_IMAGES, VERSION, VISIBLE, Scene, draw_scene, scene

# The whole validation split, by VERSION. A changed pixel, label or caption needs a new version and a new line.
RENDERED = {1: "b9f33dd012b0afca6c2f6c80e1c0b3585cbba3edadcf6caf31b6815d1fa35d44"}


@pytest.fixture(scope="module")
def val() -> list[Scene]:
    return [scene("val", index) for index in range(VAL_IMAGES)]


def test_validation_split_is_rendered_as_its_version_says(val: list[Scene]) -> None:
    digest = hashlib.sha256()
    for one in val:
        digest.update(repr(one.image.shape).encode())
        digest.update(one.image.tobytes())
        digest.update(one.labels.tobytes())
        digest.update(one.caption.encode())
    assert digest.hexdigest() == RENDERED[VERSION]


def test_a_scene_depends_on_its_arguments_alone() -> None:
    first = draw_scene(11, (96, 128), only="cat")
    draw_scene(5)
    again = draw_scene(11, (96, 128), only="cat")
    assert np.array_equal(first.image, again.image)
    assert np.array_equal(first.labels, again.labels)
    assert first.caption == again.caption
    other = draw_scene(12, (96, 128), only="cat")
    assert not np.array_equal(first.image, other.image)


def test_arrays_have_their_shapes_and_types(val: list[Scene]) -> None:
    for index, one in enumerate(val):
        height, width = SIZES[index % len(SIZES)]
        assert one.image.shape == (height, width, 3)
        assert one.labels.shape == (height, width)
        assert one.image.dtype == one.labels.dtype == np.uint8
        assert one.labels.max() < len(CLASSES)
        assert one.image.flags.c_contiguous
        assert one.labels.flags.c_contiguous


def test_sizes_are_landscape_portrait_and_square() -> None:
    assert all(80 <= min(size) <= 144 and max(size) <= 200 for size in SIZES)
    assert {np.sign(width - height) for height, width in SIZES} == {-1, 0, 1}


def test_tags_are_the_classes_that_cover_enough(val: list[Scene]) -> None:
    for one in val:
        shares = np.bincount(one.labels.ravel(), minlength=len(CLASSES)) / one.labels.size
        assert one.tags == tuple(name for name, share in zip(CLASSES, shares, strict=True) if share >= VISIBLE)


def test_captions_name_every_thing_that_is_visible_and_no_other(val: list[Scene]) -> None:
    for one in val:
        said = set(re.findall("[a-z]+", one.caption))
        for name in THINGS:
            assert bool(said & {name, f"{name}s"}) == (name in one.tags), one.caption
        assert not any(name in said and name not in one.tags for name in STUFF), one.caption


def test_every_class_occurs_and_some_scenes_hold_stuff_alone(val: list[Scene]) -> None:
    counts = {name: sum(name in one.tags for one in val) for name in CLASSES}
    assert min(counts.values()) >= 12, counts
    empty = sum(not set(one.tags) & set(THINGS) for one in val)
    assert 0.08 * VAL_IMAGES <= empty <= 0.2 * VAL_IMAGES
    assert any("background" in one.caption for one in val)


@pytest.mark.parametrize("name", CLASSES)
def test_only_draws_one_kind_of_thing(name: str) -> None:
    for seed in range(6):
        things = {tag for tag in draw_scene(seed, (96, 96), only=name).tags if tag in THINGS}
        assert things == ({name} if name in THINGS else set())


def test_splits_differ() -> None:
    assert not np.array_equal(scene("train", 0).image, scene("val", 0).image)


def test_wrong_arguments_are_named() -> None:
    with pytest.raises(ValueError, match="unknown class 'dog'"):
        draw_scene(0, only="dog")
    with pytest.raises(ValueError, match="seed must be 0 or more"):
        draw_scene(-1)
    with pytest.raises(ValueError, match="at least 32 x 32"):
        draw_scene(0, (16, 64))
    with pytest.raises(ValueError, match="unknown split"):
        scene("test", 0)  # type: ignore[arg-type]
    with pytest.raises(IndexError, match="outside the val split"):
        scene("val", VAL_IMAGES)
