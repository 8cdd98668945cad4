"""Clusters of features: K masks that share out the image, the same whatever the threads or the numbering."""

import json

import numpy as np
import pytest
import torch
from threadpoolctl import threadpool_limits

from harness import ConfigurationError
from methods.backbones import DenseFeatures, FeatureExtractor, HubViT
from methods.regions.base import Regions
from methods.regions.feature_clusters import FeatureClusters, k_means

COLOURS = torch.tensor([[200, 0, 0], [0, 200, 0], [0, 0, 200], [0, 0, 0]], dtype=torch.uint8)


class Colours(FeatureExtractor):
    """Every ``step``-th pixel's colour as its features."""

    def __init__(self, step: int = 1) -> None:
        super().__init__()
        self.step = step
        self.seen: list[tuple[int, ...]] = []

    def features(self, images: torch.Tensor) -> torch.Tensor:
        self.seen.append(tuple(images.shape))
        return images[:, :, :: self.step, :: self.step].float()


def quarters(height: int = 8, width: int = 12) -> torch.Tensor:
    """Four colours; the second takes half of the image."""
    image = COLOURS[1][:, None, None].repeat(1, height, width)
    image[:, : height // 2, : width // 3] = COLOURS[0][:, None, None]
    image[:, height // 2 :, : width // 3] = COLOURS[2][:, None, None]
    image[:, : height // 4, -width // 3 :] = COLOURS[3][:, None, None]
    return image


def test_each_mask_is_one_cluster_and_larger_ones_come_first() -> None:
    image = quarters()
    masks = FeatureClusters(Colours(), num_clusters=4).masks(image)
    assert masks.dtype == torch.bool
    assert (masks.sum(dim=0) == 1).all()
    colours = [tuple(image[:, mask].unique(dim=1)[:, 0].tolist()) for mask in masks]
    assert all(len(image[:, mask].unique(dim=1)[0]) == 1 for mask in masks)
    assert colours[0] == (0, 200, 0)
    areas = masks.flatten(1).sum(dim=1)
    assert (areas[:-1] >= areas[1:]).all()
    assert isinstance(FeatureClusters(Colours()), Regions)


def test_clusters_go_to_pixels_by_nearest_and_features_bilinearly() -> None:
    image = torch.zeros(3, 4, 8, dtype=torch.uint8)
    image[:, :, 4:] = 200
    coarse = FeatureClusters(Colours(step=2), num_clusters=2).masks(image)
    assert coarse.shape == (2, 4, 8)
    assert torch.equal(coarse[0], image[0] == 0)
    # Between the two columns lie values of both, so that a third cluster has pixels only if the features are resized.
    assert len(FeatureClusters(Colours(step=2), num_clusters=3).masks(image)) == 2
    fine = FeatureClusters(Colours(step=2), num_clusters=3, resize="features").masks(image)
    assert len(fine) == 3
    assert (fine.sum(dim=0) == 1).all()


def test_a_plain_image_has_one_cluster_and_a_small_one_no_more_than_pixels() -> None:
    plain = torch.full((3, 6, 6), 9, dtype=torch.uint8)
    assert FeatureClusters(Colours(), num_clusters=4).masks(plain).tolist() == [[[True] * 6] * 6]
    assert (
        len(FeatureClusters(Colours(), num_clusters=4).masks(torch.randint(0, 255, (3, 1, 2), dtype=torch.uint8))) == 2
    )


def test_k_means_is_the_library_s_at_its_seed() -> None:
    from sklearn.cluster import KMeans

    points = np.random.default_rng(0).normal(size=(400, 5)).astype(np.float32)
    found = k_means(points, 4, seed=3, num_starts=10)
    expected = KMeans(4, n_init=10, random_state=3).fit_predict(points)
    pairs = set(zip(found.tolist(), expected.tolist(), strict=True))
    assert len(pairs) == 4
    # Numbered as they come.
    assert [int(n) for n in dict.fromkeys(found.tolist())] == [0, 1, 2, 3]
    assert not np.array_equal(found, k_means(points, 4, seed=4, num_starts=1))


def test_clusters_do_not_depend_on_threads_or_on_other_images() -> None:
    points = np.random.default_rng(1).normal(size=(3000, 8)).astype(np.float32)
    alone = k_means(points, 5, seed=0, num_starts=2)
    np.random.seed(7)
    torch.manual_seed(7)
    with threadpool_limits(2):
        assert np.array_equal(k_means(points, 5, seed=0, num_starts=2), alone)
    regions = FeatureClusters(DenseFeatures(HubViT("./miniature/weights/dino"), size=48))
    regions.load()
    random = torch.Generator().manual_seed(0)
    first, second = (torch.randint(0, 256, (3, 40, 60), generator=random, dtype=torch.uint8) for _ in range(2))
    masks = regions.masks(first)
    regions.masks(second)
    assert torch.equal(regions.masks(first), masks)


def test_settings_tell_what_determines_the_masks() -> None:
    plain = FeatureClusters(Colours()).settings()
    json.dumps(plain)
    changes = ({"num_clusters": 3}, {"seed": 1}, {"num_starts": 1}, {"resize": "features"})
    assert all(FeatureClusters(Colours(), **change).settings() != plain for change in changes)
    assert FeatureClusters(Colours(step=2)).settings() != plain


@pytest.mark.parametrize("settings", [{"num_clusters": 0}, {"num_starts": 0}, {"seed": -1}])
def test_bad_settings_are_named(settings: dict[str, int]) -> None:
    with pytest.raises(ConfigurationError, match=next(iter(settings))):
        FeatureClusters(Colours(), **settings)
