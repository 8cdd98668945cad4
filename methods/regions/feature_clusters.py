"""Regions by k-means on the dense features of one image (FreeSeg-Diff, Section 3.1.2)."""

import warnings
from collections.abc import Sequence
from typing import Literal

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from sklearn.cluster import KMeans
from sklearn.exceptions import ConvergenceWarning
from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]
from torch import Tensor

from harness.system.errors import ConfigurationError
from methods.backbones.features import FeatureExtractor
from methods.regions.base import Regions


class FeatureClusters(Regions):
    """Class-agnostic masks: the features of an image in K clusters, each "binarized" to one mask.

    Distances are Euclidean and the features are taken as they are, as in FreeSeg-Diff's release (``sklearn``'s KMeans
    with 10 starts, unseeded there). Every image is clustered alone, from one seed and on one thread, so that its
    masks depend neither on other images nor on how many threads there are.

    Args:
        extractor: What gives the features; their resolution and the blocks they come from are its settings.
        num_clusters: K; 4 in the paper. An image with fewer different features has fewer.
        seed: Of the starts.
        num_starts: How many sets of first centres are tried (``n_init``).
        resize: ``clusters`` brings the numbered clusters to the image's size, nearest (Sec. 4.1); ``features`` first
            brings the features to the image's size, bilinear, and clusters its pixels (the paper's way with
            backbones other than Stable Diffusion, Table 3).

    Raises:
        ConfigurationError: A setting is out of range.
    """

    def __init__(
        self,
        extractor: FeatureExtractor,
        num_clusters: int = 4,
        seed: int = 0,
        num_starts: int = 10,
        resize: Literal["clusters", "features"] = "clusters",
    ) -> None:
        super().__init__()
        if num_clusters < 1 or num_starts < 1 or seed < 0:
            raise ConfigurationError("regions: num_clusters and num_starts must be at least 1, seed at least 0")
        self.extractor = extractor
        self.num_clusters = num_clusters
        self.seed = seed
        self.num_starts = num_starts
        self.resize = resize

    @torch.no_grad()
    def masks(self, image: Tensor) -> Tensor:
        """[3, H, W] uint8 RGB -> [K', H, W] bool, K' <= K: every pixel in one of them, none empty, larger ones first.

        The order, unlike k-means' own numbers, does not depend on the starts.
        """
        return self._clusters(self.extractor.features(image[None]), image)

    @torch.no_grad()
    def class_masks(self, image: Tensor, names: Sequence[str]) -> Tensor:
        """As ``masks``, of features that may look at the classes' names."""
        return self._clusters(self.extractor.class_features(image[None], names), image)

    def _clusters(self, features: Tensor, image: Tensor) -> Tensor:
        size = (int(image.shape[1]), int(image.shape[2]))
        if self.resize == "features":
            features = F.interpolate(features, size, mode="bilinear", align_corners=False)
        points = features[0].flatten(1).T.float().cpu().numpy()
        numbers = torch.from_numpy(k_means(points, self.num_clusters, self.seed, self.num_starts)).to(image.device)
        grid = numbers.reshape(1, 1, *features.shape[2:]).float()
        pixels = F.interpolate(grid, size, mode="nearest")[0, 0].long()
        masks = pixels == torch.arange(int(numbers.max()) + 1, device=image.device)[:, None, None]
        areas = masks.flatten(1).sum(dim=1)
        order = areas.argsort(descending=True, stable=True)
        return masks[order[areas[order] > 0]]


def k_means(points: NDArray[np.float32], num_clusters: int, seed: int, num_starts: int) -> NDArray[np.int64]:
    """The cluster of each point, Euclidean, numbered in the order in which they first come.

    Args:
        points: [N, D].
        num_clusters: K.
        seed: Of the starts.
        num_starts: How many sets of first centres are tried.

    Returns:
        [N] int64 in [0, K), in fewer clusters if fewer points differ.
    """
    fit = KMeans(min(num_clusters, len(points)), random_state=seed, n_init=num_starts)
    # Sums over several threads come in any order.
    with threadpool_limits(1), warnings.catch_warnings():
        warnings.filterwarnings("ignore", category=ConvergenceWarning, message=".*distinct clusters.*")
        found = fit.fit_predict(np.ascontiguousarray(points))
    _, first, inverse = np.unique(found, return_index=True, return_inverse=True)
    rank = np.empty(len(first), np.int64)
    rank[np.argsort(first)] = np.arange(len(first))
    return rank[inverse]
