"""Foreground and background masks, on drawn heat maps and on Miniature's own."""

import numpy as np
import pytest
import torch
from diffusers import StableDiffusionPipeline
from scipy import ndimage
from skimage.filters import threshold_multiotsu

from methods.backbones import DiffusersTextToImage
from methods.fossil.collection import fossil_masks
from methods.ovdiff.masks import (
    FALLBACK,
    erosion,
    otsu_thresholds,
    release_masks,
    select_masks,
    threshold_masks,
    with_complement,
)
from methods.support import Attribution
from methods.support.attribution import min_max


def share(mask: torch.Tensor) -> float:
    return float(mask.float().mean())


def blobs(count: int = 4, side: int = 32) -> torch.Tensor:
    """Heat maps of three levels: an object, its surroundings, and the rest."""
    rng = torch.Generator().manual_seed(0)
    maps = torch.rand(count, side, side, generator=rng) * 0.1 + 0.05
    maps[:, 4:28, 4:28] += 0.3
    maps[:, 10:20, 10:20] += 0.5
    return maps


def test_multi_otsu_divides_all_maps_of_a_class_jointly() -> None:
    maps = blobs()
    maps[0] *= 0.6
    lower, upper = otsu_thresholds(maps)
    assert (lower, upper) == tuple(float(level) for level in threshold_multiotsu(maps.numpy(), classes=3))
    assert (lower, upper) != otsu_thresholds(maps[:1])
    masks = threshold_masks(maps, (lower, upper))
    assert masks.foreground[1:, 10:20, 10:20].all()
    assert not masks.foreground[1:, :9].any()
    assert masks.background[:, :4].all()
    assert not (masks.foreground & masks.background).any()


def test_maps_of_too_few_values_fall_back() -> None:
    for maps in (torch.zeros(2, 4, 4), torch.eye(4)[None]):
        assert otsu_thresholds(maps) == FALLBACK == (0.2, 0.5)


def boxes(*corners: tuple[int, int, int, int], side: int = 12) -> torch.Tensor:
    masks = torch.zeros(len(corners), side, side, dtype=torch.bool)
    for mask, (top, left, bottom, right) in zip(masks, corners, strict=True):
        mask[top:bottom, left:right] = True
    return masks


def test_equation_1_takes_the_hottest_and_the_coldest_mask_on_average() -> None:
    heat = torch.full((12, 12), 0.1)
    heat[2:6, 2:6] = 0.9
    small, large, cold = instances = boxes((2, 2, 6, 6), (0, 0, 8, 8), (8, 8, 12, 12))
    heat[8:12, 8:12] = 0.05
    masks = with_complement(instances)
    assert torch.equal(masks[0], ~(small | large | cold))
    found = select_masks(masks, heat)
    assert torch.equal(found.foreground, small)
    assert torch.equal(found.background, cold)
    # The large mask has more heat in all, but less on average.
    assert heat[large].sum() > heat[small].sum()
    # A cut and an erosion take away from the background alone.
    heat[8, 8] = 0.3
    cut = select_masks(masks, heat, cut=0.2, erode=True)
    assert torch.equal(cut.foreground, small)
    assert cut.background.sum() == ndimage.binary_erosion((cold & (heat < 0.2)).numpy()).sum()


def test_overlaps_go_to_the_hottest_mask() -> None:
    heat = torch.full((12, 12), 0.1)
    heat[2:6, 2:6] = 0.9
    small, large, everything = masks = boxes((2, 2, 6, 6), (0, 0, 8, 8), (0, 0, 12, 12))
    assert torch.equal(select_masks(masks, heat).background, everything)
    resolved = select_masks(masks, heat, resolve_overlaps=True)
    assert torch.equal(resolved.foreground, small)
    assert torch.equal(resolved.background, everything & ~large)
    # A mask that others cover wholly is no longer there to be the background.
    heat[6:8, 6:8] = 0.0
    inside = boxes((6, 6, 8, 8))
    covered = select_masks(torch.cat([masks[:2], inside]), heat, resolve_overlaps=True)
    assert torch.equal(covered.background, large & ~small)


def test_empty_masks_and_single_masks() -> None:
    heat = torch.rand(12, 12, generator=torch.Generator().manual_seed(0))
    nothing = torch.zeros(1, 12, 12, dtype=torch.bool)
    alone = boxes((2, 2, 6, 6))
    found = select_masks(torch.cat([nothing, alone]), heat)
    assert torch.equal(found.foreground, alone[0])
    assert not found.background.any()
    assert not any(mask.any() for mask in select_masks(nothing, heat))


def test_the_release_thresholds_where_there_is_no_instance() -> None:
    heat = min_max(blobs(1))[0]
    found = release_masks(torch.zeros(0, 32, 32, dtype=torch.bool), heat)
    assert torch.equal(found.foreground, heat > 0.5)
    assert torch.equal(found.background, heat < 0.2)
    instances = torch.zeros(1, 32, 32, dtype=torch.bool)
    instances[0, 8:22, 8:22] = True
    found = release_masks(instances, heat)
    assert torch.equal(found.foreground, instances[0])
    assert 0.1 < share(found.background) < 0.9
    assert not found.background[0].any()
    assert not (found.background & instances[0]).any()


def test_erosion_is_scipys() -> None:
    mask = torch.rand(20, 30, generator=torch.Generator().manual_seed(0)) < 0.9
    assert np.array_equal(erosion(mask).numpy(), ndimage.binary_erosion(mask.numpy()))
    assert 0.1 < share(erosion(mask)) < share(mask)


def test_fossils_sigmoid_is_of_standardised_maps() -> None:
    maps = blobs()
    masks = fossil_masks(maps)
    standard = (maps - maps.mean(dim=(1, 2), keepdim=True)) / maps.std(dim=(1, 2), keepdim=True)
    assert torch.equal(masks, standard.sigmoid() > 0.45)
    # Read literally, the rule lets every pixel pass.
    assert (maps.sigmoid() > 0.45).all()
    assert all(0.05 < share(mask) < 0.95 for mask in masks)
    assert masks[:, 10:20, 10:20].all()
    assert torch.equal(fossil_masks(maps * 30), masks)
    assert not fossil_masks(torch.full((1, 4, 4), 0.3)).any()
    assert share(fossil_masks(maps, threshold=0.7)) < share(masks)


@pytest.mark.parametrize("convention", ["ovdiff", "daam"])
def test_masks_of_generated_images_are_neither_empty_nor_full(
    sd_pipeline: StableDiffusionPipeline, convention: str
) -> None:
    model = DiffusersTextToImage("tiny", steps=4, guidance=3.0)
    model.adopt(sd_pipeline)
    attribution = Attribution(convention, resolution=None)
    raw = model.generate(["A good picture of a boat"] * 3, [0, 1, 2], ["boat"], attribution).maps
    assert raw is not None
    maps = min_max(raw[:, 0])
    jointly = threshold_masks(maps, otsu_thresholds(maps))
    assert 0.02 < share(jointly.foreground) < 0.9
    assert 0.02 < share(jointly.background) < 0.9
    for heat, fossil in zip(attribution.on_image(raw, (64, 64))[:, 0], fossil_masks(raw[:, 0]), strict=True):
        half = torch.zeros(1, 64, 64, dtype=torch.bool)
        half[0, :, 16:48] = True
        assert {share(mask) for mask in select_masks(with_complement(half), heat)} == {0.5}
        assert 0.05 < share(fossil) < 0.95
