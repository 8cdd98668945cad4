"""Prototypes as centroids of K-means (FOSSIL, Section 3.3), by faiss."""

from typing import Any

import faiss
import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from harness.method.part import Part
from harness.system.errors import ConfigurationError


class KMeans(Part):
    """K-means of faiss on Euclidean distances, deterministic. The defaults are FreeDA's; the paper names none.

    Args:
        iterations: Of each run.
        restarts: Runs, of which the one of least distortion counts.
        seed: Of the first centroids.
        unit: Bring vectors to unit length first.

    Raises:
        ConfigurationError: A setting is out of range.
    """

    def __init__(self, iterations: int = 20, restarts: int = 10, seed: int = 42, unit: bool = False) -> None:
        super().__init__()
        if iterations < 1 or restarts < 1 or seed < 0:
            raise ConfigurationError("KMeans: iterations and restarts must be at least 1, seed at least 0")
        self.iterations, self.restarts = iterations, restarts
        self.seed = seed
        self.unit = unit

    def forward(self, vectors: Tensor, clusters: int) -> tuple[Tensor, Tensor]:
        """Centroids of some vectors.

        Args:
            vectors: [N, D] float32.
            clusters: K; of no more than K vectors each is a centroid.

        Returns:
            Centroids [min(N, K), D] float32 and the centroid of each vector, [N] int64.
        """
        points = F.normalize(vectors, dim=1) if self.unit else vectors
        if len(points) <= clusters:
            return points.clone(), torch.arange(len(points))
        return _fit(points, clusters, self.iterations, self.restarts, self.seed)


def _fit(points: Tensor, clusters: int, iterations: int, restarts: int, seed: int) -> tuple[Tensor, Tensor]:
    rows = np.ascontiguousarray(points.float().numpy())
    fitted: Any = faiss.Kmeans(
        rows.shape[1],
        clusters,
        niter=iterations,
        nredo=restarts,
        seed=seed,
        # All points take part, and few of them are no reason for a warning.
        min_points_per_centroid=1,
        max_points_per_centroid=len(rows),
    )
    fitted.train(rows)
    _, nearest = fitted.index.search(rows, 1)
    return torch.from_numpy(fitted.centroids.copy()), torch.from_numpy(nearest[:, 0].copy())
