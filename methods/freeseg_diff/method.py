"""FreeSeg-Diff (Corradini et al., FreeSeg-Diff: Training-Free Open-Vocabulary Segmentation with Diffusion Models).

Symbols as in the paper: C the classes, C' the candidates, K the number of clusters, B_v the mask of cluster v, V and T
CLIP's encoders. Facts that only the release has are from bcorrad/FreeSegDiff-release.
"""

from collections.abc import Sequence
from itertools import count
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from harness.data.datamodule import Sample
from harness.data.prompts import check_templates
from harness.method.method import SegmentationMethod
from harness.method.refiner import Refiner
from harness.method.windows import Box, ScoreMap
from harness.system.errors import ConfigurationError
from methods.backbones.captioner import Captioner, stored_caption
from methods.backbones.image_text import ImageText
from methods.freeseg_diff.candidates import CandidateFilter
from methods.regions.base import Regions
from methods.support.nouns import NounReader, SpacyNouns

UNLABELED = -1
View = Literal["whole", "centre", "box"]
Keywords = Literal["lemmas", "tokens"]


class EncodedImage(NamedTuple):
    """What the frozen models see in an image.

    Attributes:
        caption: One sentence; None without a captioner.
        masks: [K, h, w] bool, B_v of every region.
        embeddings: [K, D] float32, V of every region.
    """

    caption: str | None
    masks: Tensor
    embeddings: Tensor


class FreeSegDiff(SegmentationMethod):
    """Clusters of diffusion features, named by CLIP among the nouns of a caption, and refined.

    Paper and release differ in eight places. The default is the paper's; the release's way is reached so:

    1. Features: outputs of the UNet's res-blocks (Sec. 3.1.2); the release takes cross-attention queries
       (``regions.extractor.kind`` query, ``layers`` down_blocks.2.attentions.0 and .1, up_blocks.1.attentions.0 to .2).
    2. Noise: t = 0 is "without noise" (Sec. 4.1; ``regions.extractor.noise`` false); the release adds the noise of step
       0 all the same (``noise`` true).
    3. Captions: BLIP-2 is cited (Sec. 3.1.1; ``captioner`` configs/models/blip2_opt.yaml); the release runs BLIP
       (configs/models/blip_base.yaml), which the paper's text and figures name, too.
    4. Candidates: CLIP's text encoder, and keywords beyond the average distance to all classes are ignored
       (Sec. 3.1.1); the release has Stable Diffusion's text encoder, correlation distance, and the average over the
       keywords' nearest classes (``candidates``). Its keywords are the caption's words as they stand there, an
       adjective's head once more for every adjective, and count in that average as often as they come (``keywords``
       tokens, ``nouns.adjectives`` heads); the paper has a "set of keywords", here the nouns' singulars.
    5. Naming: every region alone has the closest of all classes, and is unlabeled if that is no candidate (Sec. 3.1.3);
       in the release other classes do not compete (``reject`` false) and a class names only the one region that is
       most like it (``one_region`` true).
    6. What CLIP sees: in the paper "image crops" that the masks give (Fig. 2), "the sub-image highlighted by the mask"
       (Sec. 3.1), here the smallest square around the region with nothing else in it; the release masks the image
       (Sec. 3.1.3) and leaves the rest to CLIP's own processing, which keeps its middle square (``view`` centre).
    7. The border of PASCAL VOC's objects has no label, and the paper does not speak of it: it is not scored. The
       release counts it as background (``data.void`` background).
    8. The score is a mean IoU of the data set; the release averages each image's own, which is given beside it under
       its own name (``per_image_miou``).

    An unlabeled region is background. Where the vocabulary has none, a region takes the closest candidate instead, or
    the closest class if there is no candidate.

    Both append attention maps to the features for "A + F"; the paper does not say which. The release's are logits of
    cross-attention to the texts of all classes (``regions.extractor.attention`` classes and ``attention_layers``).

    Args:
        regions: Class-agnostic masks: ``FeatureClusters`` of Stable Diffusion's features.
        clip: V and T; ViT-B/32 in the paper.
        captioner: What captions images; null takes all classes as candidates (the "Baseline" of Table 2).
        nouns: What reads nouns from a caption; null is spaCy, as in the release.
        candidates: From nouns to classes.
        refiner: CRF, PAMR, or null; it refines every region on its own.
        templates: Prompt templates of the classes in naming; null takes the protocol's.
        background_names: Further names that compete with the classes for keywords and for regions, are always
            candidates, and mean background; none in the paper. Names that the vocabulary has itself are left out.
        fill: RGB of what lies outside a region when CLIP sees it, black in paper and release; ``region`` takes the
            region's mean colour, against which its outline shows least.
        view: What CLIP sees of a masked image: a ``box``, the smallest square around the region (the paper, see 6);
            its ``centre`` square, as CLIP's own processor would (the release); or the ``whole``, squashed.
        keywords: ``lemmas``: the singular of every noun of the caption, each once. ``tokens``: every noun that
            ``nouns`` gives as it stands in the caption, repeats among them (the release).
        fine_names: Where classes are groups of finer ones, as in COCO-27, the finer names are asked for, as keywords'
            and regions' classes, and the one that is found stands for its group (the release); false asks for the
            groups' own names.
        reject: See 5.
        one_region: See 5.
        scale: CLIP's logit scale; it matters with ``one_region`` alone.
        threshold: Refined score above which a pixel belongs to a region.
        relative: First divide a region's refined scores by their largest, as the release does with PAMR.
        overlap: Of several refined regions at a pixel, the one of ``highest`` score, or the ``first``, that is, the
            largest before refinement; the release takes the lowest number that k-means happened to give.

    Raises:
        ConfigurationError: A setting is out of range.
    """

    name = "freeseg_diff"
    scores_background = True
    image_settings = frozenset({"regions", "clip", "captioner", "fill", "view", "fine_names"})

    def __init__(
        self,
        regions: Regions,
        clip: ImageText,
        captioner: Captioner | None = None,
        nouns: NounReader | None = None,
        candidates: CandidateFilter | None = None,
        refiner: Refiner | None = None,
        templates: Sequence[str] | None = None,
        background_names: Sequence[str] = (),
        fill: Sequence[int] | Literal["region"] = (0, 0, 0),
        view: View = "box",
        reject: bool = True,
        one_region: bool = False,
        scale: float = 100.0,
        threshold: float = 0.5,
        relative: bool = False,
        overlap: Literal["highest", "first"] = "highest",
        keywords: Keywords = "lemmas",
        fine_names: bool = True,
    ) -> None:
        super().__init__()
        if fill != "region" and (len(fill) != 3 or not all(0 <= int(level) <= 255 for level in fill)):
            raise ConfigurationError(f"method.fill is 'region' or an RGB colour of levels in 0 to 255, not {fill}")
        if scale <= 0 or not 0 < threshold < 1:
            raise ConfigurationError("method: scale must be positive and threshold lie between 0 and 1")
        self.regions = regions
        self.clip = clip
        self.captioner = captioner
        # Without a captioner there is no caption to read, and nothing to load for it.
        self.nouns = None if captioner is None else nouns or SpacyNouns()
        self.candidates = None if captioner is None else candidates or CandidateFilter()
        self.region_refiner = refiner
        self.templates = None if templates is None else check_templates(templates, "method.templates")
        self.background_names = tuple(background_names)
        self.fill = None if fill == "region" else tuple(fill)
        self.view: View = view
        self.reject = reject
        self.one_region = one_region
        self.scale = scale
        self.threshold = threshold
        self.relative = relative
        self.overlap = overlap
        self.keywords: Keywords = keywords
        self.fine_names = fine_names

    def prepare(self) -> None:
        """T: encode the classes, for naming and for filtering."""
        first = int(self.vocabulary.background)
        own = dict(self.vocabulary.fine_names if self.fine_names else zip(self.vocabulary.foreground, count(first)))
        further = [] if self.names_found or not self.vocabulary.background else self.background_names
        # What a name's pixels are labelled: its class, or the background for a further name or none.
        labels = own | {name: 0 for name in further if name not in own}
        self._names, self._labels = list(labels), list(labels.values())
        self._num_own = len(own)
        self._text = self.clip.encode_classes(self._names, self.templates or self.protocol.templates)
        if self.candidates is not None and not self.names_found:
            self._encoded = self.candidates.prepare(self._names, self.clip)

    def encode_image(self, sample: Sample) -> EncodedImage:
        """What the frozen models see in the whole image: its caption, its regions (3.1.2), and V of each region."""
        caption = None if self.captioner is None else self._caption(sample.original, sample.id)
        masks = self.regions.class_masks(sample.image, self._class_names(caption))
        embeddings = [self.clip.encode_images(self._seen(sample.image, mask)[None]) for mask in masks]
        return EncodedImage(caption, masks, torch.cat(embeddings).float())

    def _class_names(self, caption: str | None) -> list[str]:
        """The classes that the regions' features may look at; names that other images' captions gave are none."""
        own = self._names[: self._num_own]
        if caption is None or not self.names_found:
            return own
        keywords = self._distinct_nouns(caption)
        return [name for name in own if name in keywords]

    def image_context(self, sample: Sample, image: EncodedImage) -> Tensor:
        """The rest of Section 3.1: the label map, [h, w] at the size of ``sample.image``."""
        candidates = self._candidate_classes(image.caption)  # 3.1.1
        names = self._classify(image.embeddings, candidates)  # 3.1.3
        return self._refined_map(sample.image, image.masks, names)

    # Section 3.1.1: candidate classes filtering.

    def _caption(self, image: Tensor, title: str) -> str:
        if self.captioner is None:
            raise ConfigurationError("without --classes there must be a captioner: method.captioner is null")
        return stored_caption(self.captioner, image, self.store, title)

    def _keywords(self, caption: str) -> list[str]:
        """What is compared with the classes, see ``keywords``."""
        if self.keywords == "lemmas":
            return self._distinct_nouns(caption)
        return [noun.text for noun in self.nouns.nouns(caption)] if self.nouns is not None else []

    def _distinct_nouns(self, caption: str) -> list[str]:
        """The nouns of a caption, singular, each once."""
        nouns = [] if self.nouns is None else self.nouns.nouns(caption)
        return list(dict.fromkeys(noun.lemma for noun in nouns))

    def _candidate_classes(self, caption: str | None) -> Tensor:
        """C' as a mask over the names, [C] bool; all of them without a caption."""
        if caption is None or self.candidates is None:
            return torch.ones(len(self._names), dtype=torch.bool)
        if self.names_found:
            nouns = self._distinct_nouns(caption)
            return torch.tensor([name in nouns for name in self._names])
        chosen = torch.zeros(len(self._names), dtype=torch.bool)
        chosen[self.candidates(self._keywords(caption), self._encoded, self.clip)] = True
        chosen[self._num_own :] = True
        return chosen

    @property
    def finds_names(self) -> bool:
        """Whether there is a captioner to find them."""
        return self.captioner is not None

    def find_names(self, image: Tensor) -> tuple[str, ...]:
        """Figure 1: what is in an image, in words of its own caption and without any list of classes.

        Args:
            image: [3, H, W] uint8 RGB, as read.

        Raises:
            ConfigurationError: There is no captioner.
        """
        return tuple(self._distinct_nouns(self._caption(image, "an image")))

    # Section 3.1.3: masks classification and refinement.

    def _classify(self, embeddings: Tensor, candidates: Tensor) -> list[int]:
        """The name of each region, or UNLABELED; from V of the regions, [K, D]."""
        cosines = (embeddings @ self._text.float().T).cpu()
        if self.names_found and candidates.any():
            # The words of other images do not compete.
            cosines = cosines.masked_fill(~candidates, -torch.inf)
        named = name_regions((self.scale * cosines).softmax(dim=1), candidates, self.reject, self.one_region)
        if not self.vocabulary.background:
            closest = name_regions(cosines, candidates if candidates.any() else ~candidates, False, False)
            named = torch.where(named == UNLABELED, closest, named)
        return named.tolist()

    def _seen(self, image: Tensor, mask: Tensor) -> Tensor:
        """The image times B_v as CLIP sees it, [3, h', w'] uint8."""
        colour = image[:, mask].float().mean(dim=1) if self.fill is None else torch.tensor(self.fill)
        filled = colour.to(image)[:, None, None]
        masked = torch.where(mask, image, filled)
        height, width = mask.shape
        if self.view == "centre":
            side = min(height, width)
            top, left = (height - side) // 2, (width - side) // 2
            return masked[:, top : top + side, left : left + side]
        if self.view == "box":
            rows, columns = mask.any(dim=1).nonzero()[:, 0], mask.any(dim=0).nonzero()[:, 0]
            box = masked[:, rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
            side = max(box.shape[1:])
            square = filled.repeat(1, side, side)
            top, left = (side - box.shape[1]) // 2, (side - box.shape[2]) // 2
            square[:, top : top + box.shape[1], left : left + box.shape[2]] = box
            return square
        return masked

    def _refined_map(self, image: Tensor, masks: Tensor, names: Sequence[int]) -> Tensor:
        """Refine each classified region on its own and put them together, [h, w] long label values."""
        named = [(mask, name) for mask, name in zip(masks, names, strict=True) if name != UNLABELED]
        if not named:
            return torch.zeros_like(masks[0], dtype=torch.long)
        planes = torch.stack([mask for mask, _ in named]).float()
        if self.region_refiner is not None:
            planes = self.region_refiner(image, planes)
            if self.relative:
                planes = planes / planes.amax(dim=(1, 2), keepdim=True).clamp(min=1e-8)
        claimed = planes > self.threshold
        best = claimed.int().argmax(dim=0) if self.overlap == "first" else planes.argmax(dim=0)
        values = torch.tensor([self._labels[name] for _, name in named], device=masks.device)
        # A pixel that no region claims is unlabeled; without a background it goes to the region of highest score.
        if self.vocabulary.background:
            return torch.where(claimed.any(dim=0), values[best], 0)
        return values[torch.where(claimed.any(dim=0), best, planes.argmax(dim=0))]

    # The map as the engine wants it.

    def windows(self, height: int, width: int) -> list[Box]:
        """The image is seen whole."""
        return [Box(0, 0, height, width)]

    def encode(self, windows: Tensor, boxes: Sequence[Box], image: EncodedImage) -> None:
        """Nothing: ``encode_image`` has seen the whole image."""

    def score(self, encoded: None, boxes: Sequence[Box], context: Tensor) -> list[ScoreMap]:
        """Nothing: ``image_context`` decided on the whole image, and ``fuse`` gives its planes class by class."""
        return [ScoreMap(torch.zeros(len(boxes), len(self.vocabulary), 1, 1, device=context.device))]

    def fuse(self, planes: Tensor, classes: slice, context: Tensor) -> Tensor:
        """1 where the label map has a class, else 0."""
        values = torch.arange(classes.start, classes.stop, device=context.device)[:, None, None]
        return (context == values).to(planes.dtype)


def name_regions(scores: Tensor, candidates: Tensor, reject: bool, one_region: bool) -> Tensor:
    """Names of regions (Sec. 3.1.3, and the release's ``segment.py``).

    Args:
        scores: [K, C], how well each class fits each region.
        candidates: [C] bool, C'.
        reject: A region whose best class of all is no candidate has no name; without it, candidates alone compete.
        one_region: A class names only the region that it fits best; the others have the next candidate that is theirs,
            or no name.

    Returns:
        [K] long indices into the classes, or UNLABELED.
    """
    kept = scores.masked_fill(~candidates, -torch.inf)
    if reject:
        kept[~candidates[scores.argmax(dim=1)]] = -torch.inf
    if one_region:
        best = kept.argmax(dim=0)
        elsewhere = torch.arange(len(kept))[:, None] != best
        kept = kept.masked_fill(elsewhere, -torch.inf)
    best_score, names = kept.max(dim=1)
    return torch.where(best_score == -torch.inf, UNLABELED, names)
