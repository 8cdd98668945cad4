"""Φ_v on the grid of the image: whatever its size, cells lie where the pixels are that they are of."""

from collections.abc import Sequence

import pytest
import torch

from methods.backbones import DenseFeatures, HubViT
from methods.backbones.dense import Dense, ViTFeatures
from methods.regions.feature_clusters import FeatureClusters


class PatchMeans(Dense):
    """A backbone of patches of 14 pixels, whose features are a patch's mean colour; takes whole patches alone."""

    patch_size, dim = 14, 3

    def features(
        self, images: torch.Tensor, kind: str = "token", layer: int = -1, cls_attention: bool = False
    ) -> ViTFeatures:
        assert images.shape[2] % 14 == images.shape[3] % 14 == 0
        self.seen = tuple(images.shape[2:])
        return ViTFeatures(torch.nn.functional.avg_pool2d(images.float(), 14), None)


def halves(height: int, width: int, edge: int) -> torch.Tensor:
    """Black left of a column of pixels, white right of it."""
    image = torch.zeros(3, height, width, dtype=torch.uint8)
    image[:, :, edge:] = 255
    return image


@pytest.mark.parametrize(
    ("size", "seen"),
    [
        ((375, 500), (378, 504)),  # 26.8 and 35.7 patches
        ((448, 448), (448, 448)),
        ((333, 455), (336, 462)),  # 23.8, and 32.5, which rounds up
        ((5, 60), (14, 56)),  # at least one patch
    ],
)
def test_images_are_seen_at_the_nearest_whole_patches(size: tuple[int, int], seen: tuple[int, int]) -> None:
    backbone = PatchMeans()
    found = DenseFeatures(backbone).features(torch.zeros(1, 3, *size, dtype=torch.uint8))
    assert backbone.seen == seen
    assert found.shape[2:] == (seen[0] // 14, seen[1] // 14)


@pytest.mark.parametrize(
    ("settings", "seen"),
    [
        ({"size": 518}, (518, 518)),
        ({"size": 512}, (518, 518)),  # 36.6 patches
        ({"size": 448, "fit": "short"}, (448, 602)),  # 448 x 597.3
    ],
)
def test_a_size_is_rounded_to_whole_patches_in_one_step(settings: dict, seen: tuple[int, int]) -> None:
    backbone = PatchMeans()
    DenseFeatures(backbone, **settings).features(torch.zeros(1, 3, 375, 500, dtype=torch.uint8))
    assert backbone.seen == seen


@pytest.mark.parametrize("width", [113, 118, 125])
def test_masks_of_an_image_that_is_no_multiple_of_a_patch_do_not_shift(width: int) -> None:
    # Padding to 126 pixels would stretch 126 over the image: an edge at 3/4 of it would move by up to 10 pixels.
    edge = round(0.75 * width)
    regions = FeatureClusters(DenseFeatures(PatchMeans()), num_clusters=2, resize="features")
    dark, light = (regions.masks(halves(113, width, edge))[number] for number in range(2))
    if not bool(dark[0, 0]):
        dark, light = light, dark
    found = dark.sum(dim=1)
    # The edge is somewhere in its cell of at most 15 pixels, and no cell moves.
    assert (found - edge).abs().max() <= 7
    assert torch.equal(dark, ~light)


def test_the_mean_of_a_whole_grid_is_the_images() -> None:
    # A quarter of the image is white, and so is a quarter of the grid; padding would have darkened it.
    image = halves(119, 121, 91)
    found = DenseFeatures(PatchMeans()).features(image[None])
    torch.testing.assert_close(found.mean(), image.float().mean(), rtol=0.01, atol=0.0)


@torch.inference_mode()
@pytest.mark.parametrize(("size", "grid"), [((96, 137), (24, 34)), ((61, 90), (15, 23))])
def test_a_real_backbone_gives_a_cell_for_every_patch(size: Sequence[int], grid: Sequence[int]) -> None:
    extractor = DenseFeatures(HubViT("./miniature/weights/dino"))
    extractor.load()
    image = torch.randint(0, 256, (1, 3, *size), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    found = extractor.features(image)
    assert found.shape[2:] == grid
    # The classes' names are nothing to it.
    assert torch.equal(extractor.class_features(image, ["cat"]), found)
