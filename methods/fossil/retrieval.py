"""From class names to their nearest references (FOSSIL, Section 3.3); what was found is kept in the store."""

import time
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from harness.artifacts.store import ArtifactStore
from harness.artifacts.work_item import WorkItem, key_of
from harness.system.errors import DataError
from methods.backbones.image_text import ImageText
from methods.fossil.references import Reference, pack, unpack
from methods.fossil.search import Index, Vectors
from methods.fossil.stages import TextStage


class Retrieved(NamedTuple):
    """The N references of one text, the nearest first.

    Attributes:
        visual: [N, D] float32, Visual Reference Embeddings.
        similarities: [N] float32, cosines with the text.
        references: Where they come from.
        shards: The collection's shards that they lie in.
    """

    visual: Tensor
    similarities: Tensor
    references: list[Reference]
    shards: list[int]


class Retrieval:
    """Finds the references of texts; what was found is kept in the store, text by text.

    Args:
        texts: The collection's textual embeddings, and before them its references.
        clip: The text encoder, the collection's own.
        index: How to search.
        count: N.
    """

    def __init__(self, texts: TextStage, clip: ImageText, index: Index, count: int) -> None:
        self.texts = texts
        self.clip = clip
        self.index = index
        self.count = count
        keys = [item.key for stage in (texts.references, texts) for item in stage.items()]
        self._shared = {
            "collection": key_of({"keys": keys}),
            "templates": list(texts.references.image_stage.collection.templates),
            "references": count,
            "index": index.identity(),
        }

    def item(self, word: str) -> WorkItem:
        """What is found for one text."""
        return WorkItem({"kind": "retrieved_references", "word": word, **self._shared}, word)

    def find(self, words: Sequence[str], store: ArtifactStore) -> list[Retrieved]:
        """The references of each text; all that the store lacks are found in one search.

        Args:
            words: Any texts, such as class names.
            store: Has the collection's entries.

        Raises:
            DataError: The collection is empty.
        """
        missing = [word for word in dict.fromkeys(words) if not store.ensure_valid(self.item(word).key, word)]
        if missing:
            began = time.perf_counter()
            found = self._search(missing, store)
            seconds = (time.perf_counter() - began) / len(missing)
            for word, entry in zip(missing, found, strict=True):
                item = self.item(word)
                with store.lock(item.key, wait=True):
                    store.put(item, entry, seconds)
        return [self.read(word, store) for word in words]

    def read(self, word: str, store: ArtifactStore) -> Retrieved:
        """What was found before.

        Raises:
            StoreError: Nothing was.
        """
        entry = store.load(self.item(word).key)
        provenance = unpack(entry["provenance"])
        return Retrieved(entry["visual"].float(), entry["similarities"], provenance, entry["shards"].tolist())

    def _search(self, words: Sequence[str], store: ArtifactStore) -> list[dict[str, Tensor]]:
        templates = self.texts.references.image_stage.collection.templates
        queries = self.clip.encode_classes(words, templates).float().cpu().numpy()
        found = self.index.search(Vectors(self.texts, store), queries, self.count)
        if not found.places.shape[1]:
            raise DataError("the reference collection is empty: its captions have no nouns that were found in an image")
        gathered = self._gather(found.places, store)
        entries = []
        for similarities, row in zip(found.similarities, found.places.tolist(), strict=True):
            vectors, references, shards = zip(*(gathered[place] for place in row), strict=True)
            entries.append(
                {
                    "visual": torch.stack(vectors),
                    "similarities": torch.from_numpy(similarities.copy()),
                    "provenance": pack(references),
                    "shards": torch.tensor(shards),
                }
            )
        return entries

    def _gather(self, places: NDArray[np.int64], store: ArtifactStore) -> dict[int, tuple[Tensor, Reference, int]]:
        """Visual embedding, provenance and shard of some rows of the collection, which is read shard by shard."""
        wanted = np.unique(places)
        gathered: dict[int, tuple[Tensor, Reference, int]] = {}
        start = 0
        for number, item in enumerate(self.texts.references.items()):
            entry = store.load(item.key)
            stop = start + len(entry["visual"])
            inside = wanted[(wanted >= start) & (wanted < stop)]
            told = unpack(entry["provenance"]) if len(inside) else []
            for place in inside.tolist():
                gathered[place] = entry["visual"][place - start].clone(), told[place - start], number
            start = stop
        return gathered
