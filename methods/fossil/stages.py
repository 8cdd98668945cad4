"""From captions to the reference collection in stages, each kept in the store (FOSSIL, Section 3.2).

An item of work is a shard of some dozen captions, so that an entry is one file of many embeddings, a killed run loses
no more than the shards in its hands, and appending captions changes no full shard. The stages: images with their
attention (only where they shall be kept), references (visual embeddings), and texts (textual embeddings).
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from harness.artifacts.stage import Stage
from harness.artifacts.store import ArtifactStore
from harness.artifacts.work_item import WorkItem
from harness.system.errors import ModelError
from methods.backbones.diffusion import TextToImage
from methods.backbones.features import FeatureExtractor
from methods.backbones.image_text import ImageText
from methods.fossil.caption_attribution import CaptionAttribution
from methods.fossil.captions import Caption
from methods.fossil.collection import SEEDS_APART, Collection, binary_maps
from methods.fossil.pooling import pool_regions
from methods.fossil.references import Reference, pack, unpack
from methods.support.attribution import Attribution
from methods.support.nouns import Noun


class GeneratedShard(NamedTuple):
    """A shard's images.

    Attributes:
        images: [n, 3, H, W] uint8 RGB, of the captions that have nouns.
        maps: [R, h, w] float16, the attention to each noun; zeros where the model did not read so far.
        places: [R] int64, which image a noun belongs to.
        references: R of them.
    """

    images: Tensor
    maps: Tensor
    places: Tensor
    references: list[Reference]


class ImageStage(Stage):
    """An image of every caption, and where it attended to the caption's nouns (DAAM).

    Args:
        collection: Settings.
        generator: Loaded, on its device; Stable Diffusion 2.1-base in the paper.
        attribution: How attention becomes a map.
    """

    name = "images of captions"

    def __init__(self, collection: Collection, generator: TextToImage, attribution: Attribution) -> None:
        self.collection = collection
        self.generator = generator
        self.attribution = attribution
        self._shared = {
            "generator": generator.identity(),
            "attribution": attribution.identity(),
            "nouns": collection.nouns.identity(),
            "seed": collection.seed,
        }

    def spec(self, number: int) -> dict[str, Any]:
        """What determines the images of a shard."""
        return {"captions": self.collection.shards().fingerprints[number], **self._shared}

    def title(self, number: int) -> str:
        """What a person calls a shard."""
        first = number * self.collection.shard + 1
        return f"captions {first} to {min(first + self.collection.shard - 1, self.collection.shards().total)}"

    def item(self, number: int) -> WorkItem:
        """The images of one shard."""
        return WorkItem({"kind": "caption_images", **self.spec(number)}, self.title(number))

    def items(self) -> Sequence[WorkItem]:
        """One per shard."""
        return [self.item(number) for number in range(len(self.collection.shards().fingerprints))]

    def compute(self, item: WorkItem, store: ArtifactStore) -> dict[str, Tensor]:
        """``images``, ``maps``, ``places`` and ``provenance``, as in ``Generated``."""
        made = self.generate(self.collection.shards().number(item.spec["captions"]))
        packed = {"images": made.images, "maps": made.maps, "places": made.places}
        return {**packed, "provenance": pack(made.references)}

    def load(self, number: int, store: ArtifactStore) -> GeneratedShard:
        """A shard's images from the store."""
        entry = store.load(self.item(number).key)
        return GeneratedShard(entry["images"], entry["maps"], entry["places"], unpack(entry["provenance"]))

    def generate(self, number: int) -> GeneratedShard:
        """A shard's images, generated now; captions without nouns are not generated."""
        captions = {caption: self._nouns(caption) for caption in self.collection.shards().read(number)}
        captions = {caption: nouns for caption, nouns in captions.items() if nouns}
        if not captions:
            none = torch.zeros(0, 3, 2, 2)
            return GeneratedShard(none.byte(), none[:, 0].half(), none[:, 0, 0, 0].long(), [])
        return self._generate(captions)

    def regenerate(self, reference: Reference, number: int, store: ArtifactStore) -> tuple[Tensor, Tensor]:
        """The image of one reference of a shard, [3, H, W] uint8, and its map, [h, w] float16.

        From the store, if images are kept; otherwise it is generated again, in a batch of its own, so that single
        pixels may differ by a level from those that the reference was made of.
        """
        if not self.collection.keep_images:
            made = self._generate({reference.caption: [reference.noun]})
            return made.images[0], made.maps[0]
        made = self.load(number, store)
        row = made.references.index(reference)
        return made.images[int(made.places[row])], made.maps[row]

    def _generate(self, captions: dict[Caption, list[Noun]]) -> GeneratedShard:
        # Captions of the same words share their nouns.
        words = {caption.text: [noun.text for noun in nouns] for caption, nouns in captions.items()}
        attribution = CaptionAttribution(self.attribution, words)
        seeds = [self.collection.seed * SEEDS_APART + caption.id for caption in captions]
        texts = [caption.text for caption in captions]
        made = self.generator.generate(texts, seeds, [""] * attribution.width, attribution)
        if made.maps is None:
            raise RuntimeError(f"{type(self.generator).__name__} gave no attribution")
        attended = made.maps.half().cpu()
        places, maps, references = [], [], []
        for place, (caption, nouns) in enumerate(captions.items()):
            for column, noun in enumerate(nouns):
                read = (caption.text, noun.text) not in attribution.unread
                maps.append(attended[place, column] * read)
                places.append(place)
                references.append(Reference(caption, seeds[place], noun))
        return GeneratedShard(made.images.cpu(), torch.stack(maps), torch.tensor(places), references)

    def _nouns(self, caption: Caption) -> list[Noun]:
        """The caption's nouns, each word once: its map is of all its occurrences, or of the first."""
        found: dict[str, Noun] = {}
        for noun in self.collection.nouns.nouns(caption.text):
            found.setdefault(noun.text.lower(), noun)
        return list(found.values())


class ReferenceStage(Stage):
    """Visual Reference Embeddings: each noun's binary heat map, and the mean feature under it.

    Args:
        images: The stage before; its entries are read if the collection keeps them, and otherwise made in passing.
        extractor: Φ_v, loaded, on its device.
    """

    name = "reference collection"

    def __init__(self, image_stage: ImageStage, extractor: FeatureExtractor) -> None:
        self.image_stage = image_stage
        self.extractor = extractor
        self._shared = {
            "threshold": image_stage.collection.threshold,
            "centre": image_stage.collection.centre,
            "extractor": extractor.identity(),
        }

    def item(self, number: int) -> WorkItem:
        """The references of one shard."""
        spec = {"kind": "references", **self.image_stage.spec(number), **self._shared}
        return WorkItem(spec, self.image_stage.title(number))

    def items(self) -> Sequence[WorkItem]:
        """One per shard."""
        return [self.item(number) for number in range(len(self.image_stage.collection.shards().fingerprints))]

    def compute(self, item: WorkItem, store: ArtifactStore) -> dict[str, Tensor]:
        """Of the R nouns whose masks are neither empty nor full: the embeddings and where they come from.

        Returns:
            ``visual`` [R, D] float16; ``area`` [R] float16, the mask's share of the image; ``provenance`` [bytes]
            uint8, see ``references.pack``.

        Raises:
            ModelError: Features are not finite, or not in float16.
        """
        number = self.image_stage.collection.shards().number(item.spec["captions"])
        keep = self.image_stage.collection.keep_images
        generated = self.image_stage.load(number, store) if keep else self.image_stage.generate(number)
        masks = self.masks(generated.maps)
        area = masks.flatten(1).float().mean(dim=1)
        usable = (area > 0) & (area < 1)
        rows, vectors = [], [torch.zeros(0, 1, dtype=torch.float16)]
        for place, image in enumerate(generated.images):
            own = (usable & (generated.places == place)).nonzero()[:, 0]
            if len(own):
                vectors.append(self._pool(image, masks[own]))
                rows.append(own)
        order = torch.cat(rows) if rows else torch.zeros(0, dtype=torch.int64)
        return {
            "visual": torch.cat(vectors[1:] or vectors),
            "area": area[order].half(),
            "provenance": pack([generated.references[row] for row in order.tolist()]),
        }

    def masks(self, maps: Tensor) -> Tensor:
        """Binary heat maps: [R, h, w] -> [R, h, w] bool."""
        collection = self.image_stage.collection
        return binary_maps(maps, collection.threshold, collection.centre)

    def _pool(self, image: Tensor, masks: Tensor) -> Tensor:
        # One image at a time: features then do not depend on what shares their batch.
        device = self.extractor.device
        features = self.extractor.features(image[None].to(device))[0]
        pooled = pool_regions(features, masks.to(device)).half().cpu()
        if not pooled.isfinite().all():
            raise ModelError("the backbone's features of a reference are not finite in float16")
        return pooled


class TextStage(Stage):
    """Textual Retrieval Embeddings: the noun in the templates, and a little of its caption.

    Args:
        references: The stage before.
        clip: The text encoder, loaded, on its device; CLIP ViT-L/14 in the paper.
    """

    name = "retrieval embeddings"

    def __init__(self, references: ReferenceStage, clip: ImageText) -> None:
        self.references = references
        self.clip = clip
        collection = references.image_stage.collection
        self._shared = {
            # Which nouns are usable depends on the masks, not on the backbone.
            "threshold": collection.threshold,
            "centre": collection.centre,
            "text_model": clip.identity(),
            "templates": list(collection.templates),
            "word_weight": collection.word_weight,
            "unit_parts": collection.unit_parts,
            "singular": collection.singular,
        }

    def item(self, number: int) -> WorkItem:
        """The texts of one shard."""
        images = self.references.image_stage
        return WorkItem({"kind": "reference_texts", **images.spec(number), **self._shared}, images.title(number))

    def items(self) -> Sequence[WorkItem]:
        """One per shard."""
        return [
            self.item(number) for number in range(len(self.references.image_stage.collection.shards().fingerprints))
        ]

    def compute(self, item: WorkItem, store: ArtifactStore) -> dict[str, Tensor]:
        """``text`` [R, D] float16, of unit length, in the order of the shard's references."""
        collection = self.references.image_stage.collection
        number = collection.shards().number(item.spec["captions"])
        found = unpack(store.load(self.references.item(number).key)["provenance"])
        if not found:
            return {"text": torch.zeros(0, 1, dtype=torch.float16)}
        words = [r.noun.lemma if collection.singular else r.noun.text for r in found]
        embedded = self.embed(words, [r.caption.text for r in found])
        return {"text": embedded.half().cpu()}

    def embed(self, words: Sequence[str], captions: Sequence[str]) -> Tensor:
        """0.9 times the words in the templates plus 0.1 times their captions: [R, D] float32, of unit length."""
        collection = self.references.image_stage.collection
        each_word, each_caption = list(dict.fromkeys(words)), list(dict.fromkeys(captions))
        if collection.unit_parts:
            of_words = self.clip.encode_classes(each_word, collection.templates)
        else:
            prompts = [template.replace("{}", word) for word in each_word for template in collection.templates]
            of_words = self.clip.encode_text(prompts).unflatten(0, (len(each_word), -1)).mean(dim=1)
        of_captions = self.clip.encode_text(each_caption)
        word_rows = {word: row for row, word in enumerate(each_word)}
        caption_rows = {caption: row for row, caption in enumerate(each_caption)}
        chosen = of_words[[word_rows[word] for word in words]]
        context = of_captions[[caption_rows[caption] for caption in captions]]
        return F.normalize(collection.word_weight * chosen + (1 - collection.word_weight) * context, dim=-1)
