"""Searching and clustering embeddings; finding in a collection is tested with the collection."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.cluster import KMeans as Peer

from harness import ArtifactStore, ConfigurationError
from methods.fossil import search
from methods.fossil.clustering import KMeans
from methods.fossil.search import FlatIndex, HNSWIndex, Neighbours, Vectors, recall


class Given(Vectors):
    """Embeddings that are there, in shards of some size."""

    def __init__(self, rows: np.ndarray, store: Path, shard: int = 64) -> None:
        self.rows, self.store, self.shard = rows, ArtifactStore(store), shard
        self.read = 0

    @property
    def fingerprint(self) -> str:
        return str(hash(self.rows.tobytes()))

    def shards(self) -> Iterator[np.ndarray]:
        for start in range(0, len(self.rows), self.shard):
            self.read += 1
            yield self.rows[start : start + self.shard]


def unit(count: int, dim: int = 24, seed: int = 0) -> np.ndarray:
    rows = np.random.default_rng(seed).standard_normal((count, dim)).astype(np.float32)
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


@pytest.mark.parametrize("block", [1 << 17, 300, 1])
def test_the_flat_index_is_exact_whatever_the_blocks(
    block: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(search, "BLOCK", block)
    rows, queries = unit(1000), unit(7, seed=1)
    found = FlatIndex().search(Given(rows, tmp_path), queries, 20)
    cosines = queries @ rows.T
    expected = np.argsort(-cosines, axis=1)[:, :20]
    assert (found.places == expected).all()
    np.testing.assert_allclose(found.similarities, np.take_along_axis(cosines, expected, axis=1), atol=1e-6)


def test_of_equal_vectors_the_earlier_comes_first_and_few_are_all_found(tmp_path: Path) -> None:
    rows = np.repeat(unit(3), 4, axis=0)
    found = FlatIndex().search(Given(rows, tmp_path, shard=5), rows[:1], 6)
    assert found.places[0, :4].tolist() == [0, 1, 2, 3]
    everything = FlatIndex().search(Given(rows, tmp_path), rows[:2], 50)
    assert [sorted(each) for each in everything.places.tolist()] == [list(range(12))] * 2
    assert FlatIndex().search(Given(rows[:0], tmp_path), rows[:2], 5).places.shape == (2, 0)


def test_all_queries_share_one_pass(tmp_path: Path) -> None:
    vectors = Given(unit(1000), tmp_path)
    FlatIndex().search(vectors, unit(50, seed=1), 5)
    assert vectors.read == 16


def test_the_graph_finds_nearly_all_and_is_built_once(tmp_path: Path) -> None:
    rows, queries = unit(4000), unit(40, seed=1)
    exact = FlatIndex().search(Given(rows, tmp_path), queries, 25)
    vectors = Given(rows, tmp_path)
    narrow = HNSWIndex(links=4, construction=8, breadth=1).search(vectors, queries, 25)
    wide = HNSWIndex(links=16, construction=64, breadth=400).search(vectors, queries, 25)
    assert recall(exact, exact) == 1
    assert recall(wide, exact) > 0.98
    assert recall(narrow, exact) < 0.9
    read = vectors.read
    again = HNSWIndex(links=16, construction=64, breadth=400).search(vectors, queries, 25)
    assert vectors.read == read
    assert (again.places == wide.places).all()
    other = HNSWIndex(links=16, construction=64, breadth=400).search(Given(rows, tmp_path / "other"), queries, 25)
    assert (other.places == wide.places).all()


def test_the_graph_of_few_or_no_vectors(tmp_path: Path) -> None:
    rows = unit(5)
    assert sorted(HNSWIndex().search(Given(rows, tmp_path), rows[:1], 20).places[0]) == [0, 1, 2, 3, 4]
    assert HNSWIndex().search(Given(rows[:0], tmp_path), rows[:1], 20).places.shape == (1, 0)


def test_recall_is_the_share_of_the_exact_neighbours() -> None:
    def neighbours(similarities: list[float], places: list[int]) -> Neighbours:
        return Neighbours(np.array([similarities], np.float32), np.array([places]))

    exact = neighbours([0.9, 0.8, 0.7, 0.6], [3, 1, 4, 2])
    assert recall(neighbours([0.9, 0.7, 0.5, 0.4], [3, 4, 8, 9]), exact) == 0.5
    # Another vector that is just as near as the last.
    assert recall(neighbours([0.9, 0.8, 0.7, 0.6], [3, 1, 4, 7]), exact) == 1


def clusters() -> torch.Tensor:
    rng = torch.Generator().manual_seed(0)
    centres = torch.randn(6, 16, generator=rng) * 4
    return (centres[:, None] + 0.2 * torch.randn(6, 20, 16, generator=rng)).flatten(0, 1)


def test_k_means_finds_clusters_as_well_as_its_peer() -> None:
    vectors = clusters()
    centroids, own = KMeans()(vectors, 6)
    assert (centroids.shape, own.shape) == ((6, 16), (120,))
    assert all(len(own[start : start + 20].unique()) == 1 for start in range(0, 120, 20))
    for number in range(6):
        torch.testing.assert_close(centroids[number], vectors[own == number].mean(dim=0), atol=1e-4, rtol=1e-4)
    peer = Peer(9, n_init=10, random_state=0).fit(vectors.numpy())
    centroids, own = KMeans()(vectors, 9)
    assert float((vectors - centroids[own]).square().sum()) <= 1.05 * peer.inertia_


def test_k_means_depends_on_its_seed_alone() -> None:
    vectors = torch.randn(200, 16, generator=torch.Generator().manual_seed(0))
    first, _ = KMeans(seed=3, restarts=1)(vectors, 8)
    torch.randn(5)
    again, _ = KMeans(seed=3, restarts=1)(vectors, 8)
    other, _ = KMeans(seed=4, restarts=1)(vectors, 8)
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


@pytest.mark.parametrize(("count", "wanted", "given"), [(1, 10, 1), (5, 10, 5), (5, 5, 5), (11, 10, 10), (300, 1, 1)])
def test_few_vectors_and_one_cluster(count: int, wanted: int, given: int) -> None:
    vectors = torch.randn(count, 8, generator=torch.Generator().manual_seed(count))
    centroids, own = KMeans()(vectors, wanted)
    assert centroids.shape == (given, 8)
    assert own.max() < given
    assert centroids.isfinite().all()
    if wanted == 1:
        torch.testing.assert_close(centroids[0], vectors.mean(dim=0), atol=1e-4, rtol=1e-4)


def test_equal_vectors_have_equal_centroids() -> None:
    centroids, _ = KMeans()(torch.ones(40, 8), 4)
    torch.testing.assert_close(centroids, torch.ones(4, 8), atol=1e-2, rtol=1e-2)


def test_unit_vectors_are_clustered_by_direction() -> None:
    vectors = torch.eye(4)[[0, 0, 1, 1]] * torch.tensor([[1.0], [50.0], [1.0], [50.0]])
    _, own = KMeans(unit=True)(vectors, 2)
    assert own[0] == own[1] != own[2] == own[3]


def test_bad_settings_are_named() -> None:
    with pytest.raises(ConfigurationError, match="restarts"):
        KMeans(restarts=0)
    with pytest.raises(ConfigurationError, match="links"):
        HNSWIndex(links=1)
