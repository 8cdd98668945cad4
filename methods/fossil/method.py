"""FOSSIL (Barsellotti et al., WACV 2024): open-vocabulary segmentation through synthetic references retrieval.

Symbols as in the paper: C the vocabulary, Φ_v the visual and Φ_t the text encoder, M_l the regions and v_R their
embeddings, N the references retrieved for a concept, K its prototypes v_P, γ the weight of their maximum. No code was
released; facts of FreeDA, its successor by the same authors, are from aimagelab/freeda.
"""

from collections import Counter
from collections.abc import Sequence
from functools import cached_property
from typing import Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from harness.artifacts.stage import Stage
from harness.artifacts.store import ArtifactStore
from harness.data.datamodule import Sample
from harness.method.method import Evidence, SegmentationMethod
from harness.method.refiner import Refiner
from harness.method.windows import Box, ScoreMap, class_chunks
from harness.system.errors import ConfigurationError
from methods.backbones.diffusion import TextToImage
from methods.backbones.features import FeatureExtractor
from methods.backbones.image_text import ImageText
from methods.fossil.clustering import KMeans
from methods.fossil.collection import Collection
from methods.fossil.pooling import pool_regions
from methods.fossil.retrieval import Retrieval, Retrieved
from methods.fossil.search import FlatIndex, Index
from methods.fossil.stages import ImageStage, ReferenceStage, TextStage
from methods.regions.base import Regions
from methods.support.attribution import Attribution
from methods.support.provenance import stretch, winners

Sigmoid = Literal["each", "mixed"]


class Matched(NamedTuple):
    """What is matched in some windows.

    Attributes:
        embeddings: [P, D] float32 of unit length: all windows' regions, then all windows' patches.
        num_regions: How many of them are regions.
        shown: [B, rows, columns] int64, which of the P a pixel shows, see ``cover``; None without regions.
        num_windows: B.
        grid: (height, width) of a window's patches.
    """

    embeddings: Tensor
    num_regions: int
    shown: Tensor | None
    num_windows: int
    grid: tuple[int, int]


class FOSSIL(SegmentationMethod):
    """Segmentation by matching regions with prototypes, which are retrieved from a collection of synthetic references.

    Args:
        generator: Generates an image of every caption; Stable Diffusion 2.1-base with 50 steps in the paper.
        extractor: Φ_v; DINOv2 ViT-L/14 in the paper, see Table 2 for others.
        clip: Its text encoder is Φ_t; CLIP ViT-L/14 in the paper.
        collection: The captions and what is made of them.
        attribution: How cross-attention becomes heat maps; null takes DAAM's convention, as the paper does.
        regions: Class-agnostic masks, OpenCut in the paper; null classifies every patch on its own (Figure 3), scores
            then being interpolated between patches.
        refiner: PAMR, a dense CRF, or null; the paper has none.
        num_references: N (Table 3).
        num_prototypes: K (Table 3); a concept with no more than K references has each as a prototype.
        gamma: γ (Table 3).
        sigmoid: Whether ``each`` cosine passes through a sigmoid before they are mixed, as in the paper (Eq. 5), or
            their mixture does (``mixed``), as in FreeDA.
        index: How references are searched; null searches exactly.
        clustering: How references become prototypes.
        prompt_names: What to call a class in prompts, where its name in the vocabulary is no natural phrase; the paper
            changes none.
        regions_on: Regions of each ``window``, as when the method is called window by window, or of the whole ``image``
            once, cut at the windows. The paper does not say.
        uncovered: Score of pixels outside all regions: that of their ``patch``, as in the paper (Sec. 3.5),
            or ``interpolated`` between patches, as without regions.
        score_stride: Pixels per score, in both directions, with regions; a label changes no more often than that. TCL's
            masks have 4.
        background_threshold: Constant score of the background, for vocabularies that have one; scores lie in 0.27 to
            0.73, the sigmoids of -1 and 1. The paper has no such vocabulary.
        window_batch: Windows that are matched at once.

    Raises:
        ConfigurationError: A setting is out of range.
    """

    name = "fossil"
    image_settings = frozenset({"regions", "regions_on"})
    encode_settings = frozenset({"extractor", "regions", "regions_on", "score_stride"})

    def __init__(
        self,
        generator: TextToImage,
        extractor: FeatureExtractor,
        clip: ImageText,
        collection: Collection,
        attribution: Attribution | None = None,
        regions: Regions | None = None,
        refiner: Refiner | None = None,
        num_references: int = 150,
        num_prototypes: int = 10,
        gamma: float = 0.5,
        sigmoid: Sigmoid = "each",
        index: Index | None = None,
        clustering: KMeans | None = None,
        prompt_names: dict[str, str] | None = None,
        regions_on: Literal["window", "image"] = "window",
        uncovered: Literal["patch", "interpolated"] = "patch",
        score_stride: int = 4,
        background_threshold: float | None = None,
        window_batch: int = 8,
    ) -> None:
        super().__init__(window_batch, background_threshold)
        if num_references < 1 or num_prototypes < 1 or score_stride < 1:
            raise ConfigurationError(
                "method: num_references (N), num_prototypes (K) and score_stride must be at least 1"
            )
        if not 0 <= gamma <= 1:
            raise ConfigurationError(f"method.gamma (γ) must lie in 0 to 1, not be {gamma}")
        self.generator = generator
        self.extractor = extractor
        self.clip = clip
        self.collection = collection
        self.attribution = attribution or Attribution("daam")
        self.regions = regions
        self.refiner = refiner
        self.num_references, self.num_prototypes, self.gamma = num_references, num_prototypes, gamma
        self.sigmoid: Sigmoid = sigmoid
        self.index = index or FlatIndex()
        self.clustering = clustering or KMeans()
        self.prompt_names = prompt_names or {}
        self.regions_on = regions_on
        self.uncovered = uncovered
        self.score_stride = score_stride

    # Section 3.2: reference collection generation.

    def stages(self) -> Sequence[Stage]:
        """Images, if they are kept; references; and their texts."""
        texts = self._texts
        images = [texts.references.image_stage] if self.collection.keep_images else []
        return [*images, texts.references, texts]

    @cached_property
    def _texts(self) -> TextStage:
        images = ImageStage(self.collection, self.generator, self.attribution)
        references = ReferenceStage(images, self.extractor)
        return TextStage(references, self.clip)

    # Section 3.3: prototype creation.

    def assemble(self, store: ArtifactStore) -> dict[str, Tensor]:
        """The bank: every concept's prototypes, the centroids of its N references.

        Returns:
            ``prototypes`` [C, K, D] float32, filled up with zeros; ``count`` [C] int64, how many there are;
            ``centroid`` [C, N] int64, the prototype that each retrieved reference belongs to.
        """
        found = self._retrieval.find(self._concepts(), store)
        clustered = [self.clustering(each.visual, self.num_prototypes) for each in found]
        most = max(len(centroids) for centroids, _ in clustered)
        return {
            "prototypes": torch.stack([F.pad(v, (0, 0, 0, most - len(v))) for v, _ in clustered]),
            "count": torch.tensor([len(centroids) for centroids, _ in clustered]),
            "centroid": torch.stack([own for _, own in clustered]),
        }

    def adopt(self, bank: dict[str, Tensor]) -> None:
        """Take over the prototypes, normalised for cosines."""
        self._prototypes = unit(bank["prototypes"]).to(self.device)
        self._count = bank["count"].to(self.device)
        self._centroid = bank["centroid"]

    @cached_property
    def _retrieval(self) -> Retrieval:
        return Retrieval(self._texts, self.clip, self.index, self.num_references)

    def _concepts(self) -> list[str]:
        return list(self.vocabulary.prompt_names(self.prompt_names).values())

    # Section 3.5: inference.

    def encode_image(self, sample: Sample) -> Tensor | None:
        """The regions of the whole image, [L, H, W] bool, if they are not found window by window."""
        if self.regions is None or self.regions_on == "window":
            return None
        return self.regions.masks(sample.image)

    def encode(self, windows: Tensor, boxes: Sequence[Box], image: Tensor | None) -> Matched:
        """v_R of every region and patch (Eq. 4), and where each is visible."""
        features = self.extractor.features(windows).float()
        grid = (features.shape[2], features.shape[3])
        if self.regions is None:
            # Every patch is a region of its own.
            return Matched(unit(by_patch(features)), 0, None, len(features), grid)
        masks = [self._masks(window, box, image) for window, box in zip(windows, boxes, strict=True)]
        embeddings, shown = lay_out(features, masks, self.score_stride)
        return Matched(unit(embeddings), sum(map(len, masks)), shown, len(features), grid)

    def score(self, encoded: Matched, boxes: Sequence[Box], context: Tensor | None) -> list[ScoreMap]:
        """s̄ of every region and concept, where the region lies; elsewhere of the patch, or between patches."""
        scores = self._similarities(encoded.embeddings)
        patches = scores[:, encoded.num_regions :].unflatten(1, (encoded.num_windows, *encoded.grid)).transpose(0, 1)
        if encoded.shown is None:
            return [ScoreMap(patches)]
        shown = encoded.shown
        masked = scores.index_select(1, shown.flatten()).unflatten(1, shown.shape).transpose(0, 1)
        if self.uncovered == "patch":
            return [ScoreMap(masked)]
        # As the engine resamples them where there are no regions at all.
        between = F.interpolate(patches, shown.shape[1:], mode="bilinear")
        return [ScoreMap(torch.where(shown[:, None] < encoded.num_regions, masked, between))]

    def _masks(self, window: Tensor, box: Box, context: Tensor | None) -> Tensor:
        """M: the regions in a window, [L, h, w] bool, none empty."""
        if context is None:
            assert self.regions is not None
            return self.regions.masks(window)
        # A small image is padded to the window, its regions are not.
        missing = (max(box.bottom - context.shape[1], 0), max(box.right - context.shape[2], 0))
        whole = F.pad(context, (0, missing[1], 0, missing[0]))
        cut = whole[:, box.top : box.bottom, box.left : box.right]
        return cut[cut.flatten(1).any(dim=1)]

    def similarity(self, embeddings: Tensor) -> Tensor:
        """s̄(v_R, c) of every region with every concept (Eq. 5).

        Args:
            embeddings: v_R, [..., D].

        Returns:
            [C, ...] float32.
        """
        return self._similarities(unit(embeddings))

    def _similarities(self, embeddings: Tensor) -> Tensor:
        """``similarity`` of embeddings of unit length."""
        most, length = self._prototypes.shape[1], embeddings.shape[:-1].numel()
        parts = [
            mean_and_maximum(self._prototypes[some], self._count[some], embeddings, self.sigmoid)
            for some in class_chunks(len(self._prototypes), most, length)
        ]
        return torch.cat([mix(mean, maximum, self.gamma, self.sigmoid) for mean, maximum in parts])

    # Which references decided, as the introduction promises.

    def explain(self, sample: Sample, labels: Tensor, num_evidence: int = 3) -> list[Evidence]:
        """For each class found, the references nearest to the prototypes that decided most of it."""
        features = F.normalize(self.extractor.features(sample.image[None])[0].float(), dim=0)
        first = int(self.vocabulary.background)
        evidence = []
        for label in labels.unique().tolist():
            if label < first:
                continue  # the background is a constant
            own = self._prototypes[label - first, : int(self._count[label - first])]
            votes = Counter(dict(winners(features, own, labels == label)))
            found = self._retrieval.read(self._concepts()[label - first], self.store)
            for prototype, won in votes.most_common(num_evidence):
                row = self._nearest(found, label - first, prototype)
                evidence.append(self._evidence(label, found, row, won / votes.total()))
        return evidence

    def _nearest(self, found: Retrieved, concept: int, prototype: int) -> int:
        """Of a prototype's references the one most like it; of all, where a cluster of K-means is left empty."""
        cosines = F.normalize(found.visual, dim=1) @ self._prototypes[concept, prototype].cpu()
        members = self._centroid[concept] == prototype
        if members.any():
            cosines[~members] = -torch.inf
        return int(cosines.argmax())

    def _evidence(self, label: int, found: Retrieved, row: int, share: float) -> Evidence:
        stage = self._texts.references
        reference = found.references[row]
        image, heat = stage.image_stage.regenerate(reference, found.shards[row], self.store)
        region = stretch(stage.masks(heat[None])[0], (image.shape[1], image.shape[2]))
        title = f"'{reference.noun.text}' in \"{reference.caption.text}\", {100 * share:.0f} %"
        return Evidence(label, title, image.permute(1, 2, 0).numpy(), region.numpy())


def unit(vectors: Tensor) -> Tensor:
    """[..., D] of any length -> float32 of length 1."""
    return F.normalize(vectors.float(), dim=-1)


def mean_and_maximum(prototypes: Tensor, count: Tensor, regions: Tensor, sigmoid: Sigmoid) -> tuple[Tensor, Tensor]:
    """What Eq. 5 mixes: the mean and the maximum of a region's similarities with a concept's prototypes.

    Args:
        prototypes: [C, K, D] of C concepts, of unit length.
        count: [C], how many prototypes each concept has; the rest of the K do not count.
        regions: [..., D], of unit length.
        sigmoid: As in ``FOSSIL``.

    Returns:
        [C, ...] each.
    """
    shape = regions.shape[:-1]
    cosines = prototypes @ regions.flatten(0, -2).T
    similarities = cosines.sigmoid() if sigmoid == "each" else cosines
    there = (torch.arange(cosines.shape[1], device=count.device) < count[:, None])[:, :, None]
    if there.all():
        mean, maximum = similarities.mean(dim=1), similarities.amax(dim=1)
    else:
        mean = (similarities * there).sum(dim=1) / count[:, None]
        maximum = similarities.masked_fill(~there, -torch.inf).amax(dim=1)
    return mean.unflatten(1, shape), maximum.unflatten(1, shape)


def mix(mean: Tensor, maximum: Tensor, gamma: float, sigmoid: Sigmoid = "each") -> Tensor:
    """s̄ (Eq. 5): both [C, ...], with γ the weight of the maximum -> [C, ...]."""
    mixed = (1 - gamma) * mean + gamma * maximum
    return mixed if sigmoid == "each" else mixed.sigmoid()


def by_patch(features: Tensor) -> Tensor:
    """[B, D, h, w] -> [B * h * w, D]."""
    return features.permute(0, 2, 3, 1).flatten(0, 2)


def lay_out(features: Tensor, masks: Sequence[Tensor], stride: int) -> tuple[Tensor, Tensor]:
    """All that is matched in some windows, and where it is seen.

    Args:
        features: Φ_v of the windows, [B, D, h, w].
        masks: M of each window, [L, height, width] bool, none empty.
        stride: Pixels of a window per pixel of the result.

    Returns:
        [P, D] float32, v_R of all windows' regions (Eq. 4), then all windows' patches; [B, rows, columns] int64, which
        of the P a pixel shows, see ``cover``.
    """
    grid = (features.shape[2], features.shape[3])
    pooled = [pool_regions(own, some) for own, some in zip(features, masks, strict=True)]
    regions, before, shown = sum(map(len, masks)), 0, []
    for window, some in enumerate(masks):
        size = (-(-some.shape[1] // stride), -(-some.shape[2] // stride))
        own = cover(some, size, grid)
        first_patch = regions + window * grid[0] * grid[1]
        shown.append(torch.where(own < len(some), own + before, own + (first_patch - len(some))))
        before += len(some)
    return torch.cat([*pooled, by_patch(features)]), torch.stack(shown)


def cover(masks: Tensor, size: tuple[int, int], grid: tuple[int, int]) -> Tensor:
    """What each pixel shows: the first region that covers it, or else the patch that it lies in (Sec. 3.5).

    Args:
        masks: [L, H, W] bool.
        size: (height, width) of the result, which is sampled at the middle of its pixels.
        grid: (rows, columns) of the patches.

    Returns:
        [*size] int64: indices into the L regions, and from L on into the patches, row by row.
    """
    cells = torch.arange(grid[0] * grid[1], device=masks.device, dtype=torch.float64).reshape(1, 1, *grid)
    patches = len(masks) + F.interpolate(cells, size, mode="nearest-exact")[0, 0].long()
    if not len(masks):
        return patches
    sampled = F.interpolate(masks[None].byte(), size, mode="nearest-exact")[0]
    return torch.where(sampled.amax(dim=0) > 0, sampled.argmax(dim=0), patches)
