"""OVDiff (Karazija et al., Diffusion Models for Open-Vocabulary Segmentation, ECCV 2024).

Symbols as in the paper: C the vocabulary, N the size of a support set, K the number of parts, Γ the unsupervised
segmenter, Φ_v a feature extractor, P^fg and P^bg the prototypes. Facts that only the release has are from
karazijal/sdov.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from harness.artifacts.stage import Stage
from harness.artifacts.store import ArtifactStore
from harness.data.datamodule import Sample
from harness.data.prompts import check_templates
from harness.method.method import Evidence, SegmentationMethod
from harness.method.refiner import Refiner
from harness.method.windows import Box, ScoreMap, window_grid
from harness.system.errors import ConfigurationError
from methods.backbones.diffusion import TextToImage
from methods.backbones.features import FeatureExtractor
from methods.backbones.image_text import ImageText
from methods.ovdiff.category_filter import CategoryFilter
from methods.ovdiff.masks import RULES, MaskRules, ReleaseRule
from methods.ovdiff.prototypes import LEVELS, Level, MaskResize
from methods.ovdiff.provenance import support_region
from methods.ovdiff.stages import MaskStage, PrototypeStage, SupportStage, ThresholdSize
from methods.ovdiff.stuff import chatgpt_stuff
from methods.regions.base import Regions
from methods.support.attribution import Attribution
from methods.support.provenance import stretch, winners

# Below any cosine: the score of a category that was filtered out, and of all that has no prototype (Eq. 4).
ABSENT = -2.0
REGIONS = ("foreground", "background")


class OVDiff(SegmentationMethod):
    """Segmentation by matching features with prototypes of generated support sets.

    Where paper and release differ, the default is the paper's. The release's way is reached by ``release_rules``,
    ``threshold_size``, ``support_extractors``, ``joined_prompt``, ``whole_image`` and ``zero_negative_scores``, by the
    settings of its extractors (``interpolation``, ``positions``, ``fresh_noise``) and by ``ReleaseCLIP``.

    Args:
        generator: Generates the support sets; Stable Diffusion 1.5 in the paper.
        extractors: Φ_v by name; several are an ensemble whose similarities are averaged (Table 2).
        attribution: How cross-attention becomes attribution maps.
        segmenter: Γ, CutLER in the paper; null thresholds the attribution maps ("- CutLER").
        clip: For category pre-filtering; null leaves it out.
        refiner: PAMR, or null.
        support_size: N.
        num_generated: How many images a support set holds; N of them are used. Null generates N.
        num_parts: K.
        prompt: The support sets' prompt, with one ``{}``.
        prompt_names: What to call a class in prompts, where its name in the vocabulary is not what one would say.
        seed: Of the support sets.
        levels: Which prototypes are matched (Eq. 3).
        background: ``prototypes`` matches the background with the union of all negative prototypes of the categories in
            an image; where all of these were filtered out, it wins nowhere (Eq. 4; -1 in the release). ``threshold``
            gives it a constant score (Table 3), which the protocol may leave unrefined.
        background_threshold: That constant, a cosine; 0.72 in the paper.
        stuff: Which classes are stuff: ``chatgpt`` for the paper's answers as published, and the data's own list for
            names that these lack; null for the data's own list alone; or names.
        stuff_similarity_threshold: Cosine with a stuff prototype above which a negative prototype of a thing is
            dropped; null drops none. 0.85 in the release.
        stuff_negatives: Whether stuff has negative prototypes; null: only if ``stuff_similarity_threshold`` is null, so
            that this alone leaves the whole "stuff" filter out. Without in the release.
        prefilter_stuff: Whether stuff classes, too, must pass the category filter; the release always keeps them.
        max_categories: η.
        prefilter_scale: Factor on CLIP's cosines in the category filter, 1 in the release.
        multi_label: Whether the best-scoring of the 2^η multi-label prompts decides in the category filter, as in the
            paper; otherwise all categories that score at least 1/|C|, η at most, are kept.
        joined_prompt: A category's text in those prompts; the bare name in the paper, ``a {}`` in the release.
        extra_windows: Sides of further square windows, matched at the protocol's stride, in pixels.
        whole_image: Match the whole image, too.
        release_rules: Which of the release's rules choose masks on top of Eq. 1, see ``select_masks``: all, none, or
            some of ``overlaps``, ``cut`` and ``erosion``.
        threshold_size: Without a segmenter, whether maps are thresholded at their own size (``map``) or stretched to
            the images' (``image``), as in the release.
        zero_negative_scores: Count scores below 0 as 0 where classes are compared, as the release does: where nothing
            scores more, the first class wins, which is the background if there is one.
        mask_resize: How masks reach the features' grid.
        support_extractors: In the place of the extractors of the same name for support images. In the release CLIP sees
            these at 512 pixels and crops at 448; Stable Diffusion meets one noise in these and a fresh one in crops.
        window_batch: Windows that are matched at once.

    Raises:
        ConfigurationError: A setting is out of range.
    """

    name = "ovdiff"
    scores_background = True
    image_settings = frozenset({"clip"})
    encode_settings = frozenset({"extractors", "extra_windows", "whole_image"})

    def __init__(
        self,
        generator: TextToImage,
        extractors: dict[str, FeatureExtractor],
        attribution: Attribution | None = None,
        segmenter: Regions | None = None,
        clip: ImageText | None = None,
        refiner: Refiner | None = None,
        support_size: int = 32,
        num_generated: int | None = None,
        num_parts: int = 32,
        prompt: str = "A good picture of a {}",
        prompt_names: dict[str, str] | None = None,
        seed: int = 42,
        levels: Sequence[Level] = LEVELS,
        background: Literal["prototypes", "threshold"] = "prototypes",
        background_threshold: float = 0.72,
        stuff: Literal["chatgpt"] | Sequence[str] | None = None,
        stuff_similarity_threshold: float | None = 0.85,
        stuff_negatives: bool | None = None,
        prefilter_stuff: bool = False,
        max_categories: int = 10,
        prefilter_scale: float = 1.0,
        multi_label: bool = True,
        joined_prompt: str = "{}",
        extra_windows: Sequence[int] = (336,),
        whole_image: bool = False,
        release_rules: bool | Sequence[ReleaseRule] = False,
        threshold_size: ThresholdSize = "map",
        zero_negative_scores: bool = False,
        mask_resize: MaskResize = "any",
        support_extractors: dict[str, FeatureExtractor] | None = None,
        window_batch: int = 8,
    ) -> None:
        super().__init__(window_batch, background_threshold)
        if not extractors or any("." in name for name in extractors):
            raise ConfigurationError("method.extractors needs at least one extractor, and names without a dot")
        if unknown := set(support_extractors or {}) - set(extractors):
            raise ConfigurationError(f"method.support_extractors: '{min(unknown)}' is not among method.extractors")
        if support_size < 1 or num_parts < 0 or (num_generated is not None and num_generated < support_size):
            raise ConfigurationError(
                "method: support_size must be at least 1, num_parts 0, num_generated at least support_size"
            )
        if isinstance(stuff, str) and stuff != "chatgpt":
            raise ConfigurationError(f"method.stuff is 'chatgpt', null or a list of class names, not '{stuff}'")
        if not isinstance(release_rules, bool) and (wrong := set(release_rules) - set(RULES)):
            raise ConfigurationError(f"method.release_rules: '{min(wrong)}' is none of {', '.join(RULES)}")
        check_templates((prompt,), "method.prompt")
        check_templates((joined_prompt,), "method.joined_prompt")
        if not levels:
            raise ConfigurationError(f"method.levels needs at least one of {', '.join(LEVELS)}")
        if not 1 <= max_categories <= 16:
            raise ConfigurationError("method.max_categories (η) must lie in 1 to 16: 2^η prompts are compared")
        self.generator = generator
        self.extractors = nn.ModuleDict(extractors)
        self.support_extractors = nn.ModuleDict(support_extractors or {})
        self.attribution = attribution or Attribution()
        self.segmenter = segmenter
        self.clip = clip
        self.refiner = refiner
        self.support_size = support_size
        self.num_generated = num_generated or support_size
        self.num_parts = num_parts
        self.prompt = prompt
        self.prompt_names = prompt_names or {}
        self.seed = seed
        self.levels = tuple(levels)
        self.background = background
        self.scores_background = background == "prototypes"
        self.stuff = stuff
        self.stuff_similarity_threshold = stuff_similarity_threshold
        self.stuff_negatives = stuff_similarity_threshold is None if stuff_negatives is None else stuff_negatives
        self.prefilter_stuff = prefilter_stuff
        self.max_categories = max_categories
        self.prefilter_scale = prefilter_scale
        self.multi_label = multi_label
        self.joined_prompt = joined_prompt
        self.extra_windows = tuple(extra_windows)
        self.whole_image = whole_image
        self.mask_rules = MaskRules.of_release(release_rules)
        self.threshold_size: ThresholdSize = threshold_size
        self.score_floor = 0.0 if zero_negative_scores else None
        self.mask_resize = mask_resize

    def _extractors(self) -> Mapping[str, FeatureExtractor]:
        return dict(self.extractors.items())  # type: ignore[arg-type]

    # Section 3.2 and 3.3: support sets, masks and prototypes, each class once.

    def stages(self) -> Sequence[Stage]:
        """Support sets, their masks, and the prototypes in every extractor's space."""
        support, masks, prototypes = self._stages()
        return [support, masks, *prototypes.values()]

    def _stages(self) -> tuple[SupportStage, MaskStage, dict[str, PrototypeStage]]:
        words = self.vocabulary.prompt_names(self.prompt_names)
        support = SupportStage(self.generator, self.attribution, words, self.prompt, self.num_generated, self.seed)
        masks = MaskStage(support, self.support_size, self.segmenter, self.mask_rules, self.threshold_size)
        extractors = {**self._extractors(), **dict(self.support_extractors.items())}
        prototypes = {
            name: PrototypeStage(masks, extractor, name, self.num_parts, self.mask_resize)  # type: ignore[arg-type]
            for name, extractor in extractors.items()
        }
        return support, masks, prototypes

    def assemble(self, store: ArtifactStore) -> dict[str, Tensor]:
        """The bank: per extractor, class and region the prototypes with their level, as ``extractor.class.region``."""
        bank = {}
        for extractor, stage in self._stages()[2].items():
            for number, name in enumerate(self.vocabulary.foreground):
                entry = store.load(stage.item(name).key)
                for region in REGIONS:
                    for part in ("vectors", "level"):
                        bank[f"{extractor}.{number}.{region}.{part}"] = entry[f"{region}.{part}"]
        return bank

    def adopt(self, bank: dict[str, Tensor]) -> None:
        """P^fg and P^bg of every class, normalised, after "stuff" filtering."""
        wanted = torch.tensor([LEVELS.index(level) for level in self.levels], dtype=torch.uint8)
        self._prototypes: dict[str, dict[str, list[Tensor]]] = {}
        self._kept: dict[str, dict[str, list[Tensor]]] = {}
        for extractor in self.extractors:
            vectors: dict[str, list[Tensor]] = {region: [] for region in REGIONS}
            kept: dict[str, list[Tensor]] = {region: [] for region in REGIONS}
            for number in range(len(self.vocabulary.foreground)):
                for region in REGIONS:
                    found = bank[f"{extractor}.{number}.{region}.vectors"]
                    chosen = torch.isin(bank[f"{extractor}.{number}.{region}.level"], wanted).nonzero()[:, 0]
                    kept[region].append(chosen)
                    vectors[region].append(F.normalize(found[chosen].float(), dim=-1))
            self._drop_negatives_like_stuff(vectors, kept)
            self._prototypes[extractor] = {
                region: [each.to(self.device) for each in vectors[region]] for region in REGIONS
            }
            self._kept[extractor] = kept

    def _drop_negatives_like_stuff(self, vectors: dict[str, list[Tensor]], kept: dict[str, list[Tensor]]) -> None:
        """The "stuff" filter (Sec. 3.4): stuff has no negative prototypes, and things none that look like stuff."""
        stuff = [number for number, name in enumerate(self.vocabulary.foreground) if name in self._stuff()]
        positives = [vectors["foreground"][number] for number in stuff if len(vectors["foreground"][number])]
        like = torch.cat(positives) if positives else None
        limit = self.stuff_similarity_threshold
        for number, negatives in enumerate(vectors["background"]):
            keep = torch.ones(len(negatives), dtype=torch.bool)
            if number in stuff:
                keep[:] = self.stuff_negatives
            elif limit is not None and like is not None and len(negatives):
                keep = (negatives @ like.T).amax(dim=1) <= limit
            vectors["background"][number] = negatives[keep]
            kept["background"][number] = kept["background"][number][keep]

    def _stuff(self) -> frozenset[str]:
        if self.stuff == "chatgpt":
            return chatgpt_stuff(self.vocabulary.prompt_names(self.prompt_names), self.vocabulary.stuff)
        return self.vocabulary.stuff if self.stuff is None else frozenset(self.stuff)

    # Section 3.4: segmentation via prototype matching.

    def prepare(self) -> None:
        """Encode the category filter's prompts."""
        names = self.vocabulary.foreground
        self._filtered = [n for n, name in enumerate(names) if self.prefilter_stuff or name not in self._stuff()]
        self._filter: CategoryFilter | None = None
        if self.clip is not None and self._filtered:
            words = self.vocabulary.prompt_names(self.prompt_names)
            asked = [words[names[n]] for n in self._filtered]
            self._filter = CategoryFilter(
                self.clip,
                asked,
                self.max_categories,
                scale=self.prefilter_scale,
                multi_label=self.multi_label,
                joined_template=self.joined_prompt,
            )

    def encode_image(self, sample: Sample) -> Tensor | None:
        """CLIP's embedding of the image, [D], for category pre-filtering."""
        return None if self.clip is None else self.clip.encode_images(sample.image[None])[0]

    def image_context(self, sample: Sample, image: Tensor | None) -> frozenset[int]:
        """C' ⊆ C: the categories that appear in the image, as indices of the foreground."""
        everything = frozenset(range(len(self.vocabulary.foreground)))
        if self._filter is None or image is None:
            return everything
        present = {self._filtered[index] for index in self._filter(image)}
        return frozenset(present | (everything - set(self._filtered)))

    def windows(self, height: int, width: int) -> list[Box]:
        """The protocol's windows, further ones of other sides, and the whole image if asked for."""
        boxes = window_grid(height, width, self.protocol.window, self.protocol.stride)
        for side in self.extra_windows:
            boxes += window_grid(height, width, side, self.protocol.stride)
        return boxes + ([Box(0, 0, height, width)] if self.whole_image else [])

    def encode(self, windows: Tensor, boxes: Sequence[Box], image: Tensor | None) -> dict[str, Tensor]:
        """Φ_v(I) of every extractor, [B, D, h, w] normalised."""
        return {
            name: F.normalize(extractor.features(windows).float(), dim=1)
            for name, extractor in self._extractors().items()
        }

    def score(self, encoded: dict[str, Tensor], boxes: Sequence[Box], context: frozenset[int]) -> list[ScoreMap]:
        """The highest s(Φ_v(I), P) over P, per class and extractor (Eq. 4); the engine averages and compares."""
        return [ScoreMap(self._match(features, name, context)) for name, features in encoded.items()]

    def _match(self, features: Tensor, extractor: str, present: frozenset[int]) -> Tensor:
        """[B, D, h, w] normalised features -> [B, C, h, w] cosines; absent classes get ABSENT."""
        prototypes = self._prototypes[extractor]
        sets = [each if number in present else each[:0] for number, each in enumerate(prototypes["foreground"])]
        if self.vocabulary.background and self.scores_background:
            # P^fg of c_bg is the union of the P^bg of all categories in the image.
            negatives = [prototypes["background"][n] for n in sorted(present) if len(prototypes["background"][n])]
            sets.insert(0, torch.cat(negatives) if negatives else sets[0][:0])
        return torch.stack([_best(features, each) for each in sets], dim=1)

    # Section 4.4: explaining segmentations.

    def explain(self, sample: Sample, labels: Tensor, num_evidence: int = 3) -> list[Evidence]:
        """For each class found, the support regions whose prototypes decided most of it, over all extractors."""
        present = self.image_context(sample, self.encode_image(sample))
        evidence = []
        for label in labels.unique().tolist():
            votes: Counter[tuple[str, int, int]] = Counter()
            for name, extractor in self._extractors().items():
                features = F.normalize(extractor.features(sample.image[None])[0].float(), dim=0)
                region, owners = self._owners(label, name, present)
                vectors = [self._prototypes[name][region][n] for n, _ in owners]
                every = [(n, int(index)) for n, kept in owners for index in kept]
                if every:
                    won_by = winners(features, torch.cat(vectors), labels == label)
                    votes.update({(name, *every[i]): won for i, won in won_by})
            for (name, number, index), won in votes.most_common(num_evidence):
                share = won / votes.total()
                evidence.append(self._evidence(label, name, number, index, share))
        return evidence

    def _owners(self, label: int, extractor: str, present: frozenset[int]) -> tuple[str, list[tuple[int, Tensor]]]:
        """The region kind and the classes whose prototypes stand for a label, with their indices in the store."""
        background = self.vocabulary.background
        region = "background" if background and label == 0 else "foreground"
        numbers = sorted(present) if region == "background" else [label - int(background)]
        return region, [(number, self._kept[extractor][region][number]) for number in numbers]

    def _evidence(self, label: int, extractor: str, number: int, index: int, share: float) -> Evidence:
        support, masks, prototypes = self._stages()
        name = self.vocabulary.foreground[number]
        region = "background" if self.vocabulary.background and label == 0 else "foreground"
        made = self.store.load(prototypes[extractor].item(name).key)
        image, cells = support_region(made, self.store.load(masks.item(name).key), region, index)
        support_image = self.store.load(support.item(name).key)["images"][image]
        level = LEVELS[int(made[f"{region}.level"][index])]
        title = f"{level} of '{name}' #{image} ({extractor}), {100 * share:.0f} %"
        return Evidence(
            label,
            title,
            support_image.permute(1, 2, 0).numpy(),
            stretch(cells, (support_image.shape[1], support_image.shape[2])).numpy(),
        )


def _best(features: Tensor, prototypes: Tensor) -> Tensor:
    """The highest cosine with any prototype: [B, D, h, w] and [P, D], both normalised -> [B, h, w].

    Without any prototype it is ABSENT: what has none never wins (Eq. 4).
    """
    if not len(prototypes):
        return features.new_full((features.shape[0], *features.shape[2:]), ABSENT)
    return torch.einsum("bdhw,pd->bphw", features, prototypes).amax(dim=1)
