"""Perfect support sets: images show the prompted class, and the maps are its true masks."""

import pytest
import torch

from harness import ConfigurationError
from methods.support import Attribution
from miniature.drawn import DrawnImages
from miniature.world import CLASSES, draw_scene


def test_images_show_the_class_and_maps_are_its_mask() -> None:
    drawn = DrawnImages(64)
    made = drawn.generate(["A good picture of a cat"] * 3, [5, 6, 7], ["cat"], Attribution(resolution=64))
    assert made.images.shape == (3, 3, 64, 64)
    assert made.images.dtype == torch.uint8
    assert made.maps is not None
    assert made.maps.shape == (3, 1, 64, 64)
    assert set(made.maps.unique().tolist()) == {0.0, 1.0}
    assert (made.maps.mean(dim=(1, 2, 3)) >= 0.05).all()
    # The mask is that of the drawn scene.
    for image, mask in zip(made.images, made.maps[:, 0], strict=True):
        scenes = (draw_scene((1 << 43) + 8 * seed + n, (64, 64), "cat") for seed in (5, 6, 7) for n in range(8))
        scene = next(each for each in scenes if torch.equal(torch.from_numpy(each.image).permute(2, 0, 1), image))
        assert torch.equal(mask.bool(), torch.from_numpy(scene.labels == CLASSES.index("cat")))


def test_an_image_depends_on_its_seed_alone() -> None:
    drawn = DrawnImages(48)
    together = drawn.generate(["a boat", "a fish"], [1, 2], []).images
    assert torch.equal(together[1], drawn.generate(["a fish"], [2]).images[0])
    assert not torch.equal(together[1], drawn.generate(["a fish"], [3]).images[0])


def test_maps_have_the_resolution_that_is_asked_for() -> None:
    made = DrawnImages(64).generate(["a sun"], [1], ["sun"], Attribution(resolution=16))
    assert made.maps is not None
    assert made.maps.shape == (1, 1, 16, 16)
    whole = DrawnImages(64).generate(["a sun"], [1], ["sun"], Attribution(resolution=64)).maps
    assert whole is not None
    assert made.maps.mean() == pytest.approx(whole.mean().item(), abs=1e-4)


def test_other_words_are_refused() -> None:
    drawn = DrawnImages()
    with pytest.raises(ConfigurationError, match="zebra"):
        drawn.generate(["a zebra"], [1], ["zebra"])
    with pytest.raises(ConfigurationError, match="names no class"):
        drawn.generate(["a zebra"], [1])
    with pytest.raises(ConfigurationError, match="positive"):
        DrawnImages(0)
