"""Nearest neighbours among the textual embeddings of a collection (FOSSIL, Section 3.3), by faiss."""

import hashlib
import time
from abc import abstractmethod
from collections.abc import Iterator
from typing import Any, NamedTuple

import faiss
import numpy as np
import torch
from numpy.typing import NDArray

from harness.artifacts.store import ArtifactStore
from harness.artifacts.work_item import WorkItem
from harness.method.part import Part
from harness.system.errors import ConfigurationError
from methods.fossil.stages import TextStage

# Vectors that are searched at once: 400 MB at 768 dimensions (CLIP ViT-L/14), 200 MB more while they are read.
BLOCK = 1 << 17


class Neighbours(NamedTuple):
    """What a search found, per query the nearest first; of equal ones the earlier.

    Attributes:
        similarities: [Q, N] float32 inner products, cosines where all have unit length.
        places: [Q, N] int64, their rows.
    """

    similarities: NDArray[np.float32]
    places: NDArray[np.int64]


class Vectors:
    """The textual embeddings of a collection, read from the store entry by entry.

    Args:
        texts: The stage that made them.
        store: Has all of its entries.
    """

    def __init__(self, texts: TextStage, store: ArtifactStore) -> None:
        self._keys = [item.key for item in texts.items()]
        self.store = store

    @property
    def fingerprint(self) -> str:
        """64 hex digits that tell them and their order."""
        return hashlib.sha256("".join(self._keys).encode()).hexdigest()

    def shards(self) -> Iterator[NDArray[np.float32]]:
        """Each shard's embeddings, [R, D]; R may be 0."""
        for key in self._keys:
            yield self.store.load(key)["text"].float().numpy()

    def blocks(self) -> Iterator[NDArray[np.float32]]:
        """The same in pieces of about ``BLOCK`` rows, [n, D], n > 0."""
        held: list[NDArray[np.float32]] = []
        for shard in self.shards():
            if len(shard):
                held.append(shard)
            if sum(map(len, held)) >= BLOCK:
                yield np.concatenate(held)
                held = []
        if held:
            yield np.concatenate(held)


class Index(Part):
    """A way to search; all queries at once."""

    @abstractmethod
    def search(self, vectors: Vectors, queries: NDArray[np.float32], count: int) -> Neighbours:
        """The nearest vectors of every query, ``count`` of them or as many as there are.

        Args:
            vectors: What is searched.
            queries: [Q, D], of unit length.
            count: N.
        """


class FlatIndex(Index):
    """Exact search by faiss, block by block, so that memory does not grow with the collection."""

    def search(self, vectors: Vectors, queries: NDArray[np.float32], count: int) -> Neighbours:
        """See ``Index.search``."""
        similarities = np.zeros((len(queries), 0), np.float32)
        places = np.zeros((len(queries), 0), np.int64)
        start = 0
        for block in vectors.blocks():
            index = faiss.IndexFlatIP(block.shape[1])
            index.add(block)
            found, rows = index.search(queries, min(count, len(block)))
            similarities = np.concatenate([similarities, found], axis=1)
            places = np.concatenate([places, rows + start], axis=1)
            similarities, places = _nearest(similarities, places, count)
            start += len(block)
        return Neighbours(similarities, places)


def _nearest(
    similarities: NDArray[np.float32], places: NDArray[np.int64], count: int
) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    order = np.lexsort((places, -similarities))[:, :count]
    return np.take_along_axis(similarities, order, axis=1), np.take_along_axis(places, order, axis=1)


class HNSWIndex(Index):
    """Approximate search in a graph (HNSW), for collections of millions; the graph is built once and kept in the store.

    It holds all vectors in memory, 4 bytes a number. ``recall`` tells how much of the exact search it finds.

    Args:
        links: M, links of a node.
        construction: efConstruction, candidates while a node is linked.
        breadth: efSearch, candidates of a search, N at least. FreeDA sets 50000.
        threads: That build the graph; several build another graph each time.

    Raises:
        ConfigurationError: A setting is out of range.
    """

    def __init__(self, links: int = 32, construction: int = 200, breadth: int = 1000, threads: int = 1) -> None:
        super().__init__()
        if min(links, construction, breadth, threads) < 1 or links < 2:
            raise ConfigurationError("HNSWIndex: links must be at least 2, construction, breadth and threads 1")
        self.links, self.construction = links, construction
        self.breadth = breadth
        self.threads = threads

    def search(self, vectors: Vectors, queries: NDArray[np.float32], count: int) -> Neighbours:
        """See ``Index.search``; where the graph gives fewer than asked for, queries share the least number."""
        index = self._graph(vectors)
        if index is None:
            return FlatIndex().search(vectors, queries, count)
        index.hnsw.efSearch = max(self.breadth, count)
        found, rows = index.search(queries, min(count, index.ntotal))
        whole = int((rows >= 0).all(axis=0).sum())
        return Neighbours(*_nearest(found[:, :whole], rows[:, :whole], count))

    def _graph(self, vectors: Vectors) -> Any:
        """The graph from the store, or built now; None without any vector."""
        graph = {"links": self.links, "construction": self.construction, "threads": self.threads}
        item = WorkItem({"kind": "hnsw_index", "vectors": vectors.fingerprint, **graph}, "HNSW index")
        with vectors.store.lock(item.key, wait=True):
            if not vectors.store.ensure_valid_locked(item.key, item.title):
                began = time.perf_counter()
                index = self._build(vectors)
                if index is None:
                    return None
                content = torch.from_numpy(faiss.serialize_index(index))
                vectors.store.put(item, {"index": content}, time.perf_counter() - began)
                return index
        return faiss.deserialize_index(vectors.store.load(item.key)["index"].numpy())

    def _build(self, vectors: Vectors) -> Any:
        index = None
        before = faiss.omp_get_max_threads()
        faiss.omp_set_num_threads(self.threads)
        try:
            for block in vectors.blocks():
                if index is None:
                    index = faiss.IndexHNSWFlat(block.shape[1], self.links, faiss.METRIC_INNER_PRODUCT)
                    index.hnsw.efConstruction = self.construction
                index.add(block)
        finally:
            faiss.omp_set_num_threads(before)
        return index


def recall(found: Neighbours, exact: Neighbours) -> float:
    """The share of the exact neighbours that were found, over all queries, in [0, 1].

    One that is just as near as the last exact one counts: collections hold many equal texts.
    """
    hits = 0
    for query in range(len(exact.places)):
        least = exact.similarities[query, -1]
        near = found.places[query][found.similarities[query] >= least - 1e-6]
        hits += min(len(near), exact.places.shape[1])
    return hits / max(exact.places.size, 1)
