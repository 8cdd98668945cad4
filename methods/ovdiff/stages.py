"""From a class name to its prototypes in three stages, each kept in the store: support set, masks, prototypes.

An entry's key holds what determines it and nothing else, so that changing K makes only prototypes again, changing the
segmenter only masks and prototypes, and adding a class only that class.
"""

from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from harness.artifacts.stage import Stage
from harness.artifacts.store import ArtifactStore
from harness.artifacts.work_item import WorkItem
from methods.backbones.diffusion import TextToImage
from methods.backbones.features import FeatureExtractor
from methods.ovdiff.masks import FALLBACK, PAPER_RULES, MaskRules, choose_masks, otsu_thresholds, threshold_masks
from methods.ovdiff.prototypes import MaskResize, masked_cells, prototypes
from methods.regions.base import Regions
from methods.support.attribution import Attribution, min_max

ThresholdSize = Literal["map", "image"]
# Seeds of one support set lie this far from those of the next.
SEEDS_APART = 100_000


class SupportStage(Stage):
    """S and A: N images of every class and where they attended to its name (OVDiff Sec. 3.2 and 3.3).

    Args:
        generator: Loaded, on its device.
        attribution: How attention becomes a map.
        words: Class name -> the words that stand for it in the prompt.
        prompt: With one ``{}``.
        images: How many images of each class.
        seed: Image n has the seed ``seed * 100000 + n``, the same for every class.
    """

    name = "support sets"

    def __init__(
        self,
        generator: TextToImage,
        attribution: Attribution,
        words: Mapping[str, str],
        prompt: str,
        images: int,
        seed: int,
    ) -> None:
        self.generator = generator
        self.attribution = attribution
        self.words = words
        self.prompt = prompt
        self.images = images
        self.seed = seed

    @cached_property
    def _shared(self) -> dict[str, Any]:
        return {"generator": self.generator.identity(), "attribution": self.attribution.identity()}

    def item(self, name: str) -> WorkItem:
        """The support set of one class."""
        spec = {
            "kind": "support",
            **self._shared,
            "prompt": self.prompt.replace("{}", self.words[name]),
            "word": self.words[name],
            "seed": self.seed,
            "images": self.images,
        }
        return WorkItem(spec, name)

    def items(self) -> Sequence[WorkItem]:
        """One per class."""
        return [self.item(name) for name in self.words]

    def compute(self, item: WorkItem, store: ArtifactStore) -> dict[str, Tensor]:
        """``images`` [N, 3, H, W] uint8 and ``maps`` [N, h, w] float16, the raw attribution."""
        seeds = [self.seed * SEEDS_APART + n for n in range(self.images)]
        prompts = [item.spec["prompt"]] * self.images
        made = self.generator.generate(prompts, seeds, [item.spec["word"]], self.attribution)
        if made.maps is None:
            raise RuntimeError(f"{type(self.generator).__name__} gave no attribution")
        return {"images": made.images.cpu(), "maps": made.maps[:, 0].half().cpu()}


class MaskStage(Stage):
    """M^fg and M^bg of every support image: Eq. 1 with a segmenter Γ, or multi-Otsu of the maps without one.

    Args:
        support: The stage before.
        images: N, how many images of each support set are used, from the first on.
        segmenter: Γ; null thresholds the maps.
        rules: What comes on top of Eq. 1.
        threshold_size: Without Γ, whether the maps are thresholded at their own size or at the images'.
    """

    name = "masks"

    def __init__(
        self,
        support: SupportStage,
        images: int,
        segmenter: Regions | None,
        rules: MaskRules = PAPER_RULES,
        threshold_size: ThresholdSize = "map",
    ) -> None:
        self.support = support
        self.images = images
        self.segmenter = segmenter
        self.rules = rules
        self.threshold_size = threshold_size

    @cached_property
    def _rule(self) -> dict[str, Any]:
        if self.segmenter is None:
            return {"rule": "multi-otsu", "size": self.threshold_size}
        rule = {"eq1": True, "no_instance": list(FALLBACK), **self.rules._asdict()}
        return {"rule": rule, "segmenter": self.segmenter.identity()}

    def item(self, name: str) -> WorkItem:
        """The masks of one class."""
        support = self.support.item(name).key
        return WorkItem({"kind": "masks", "support": support, "images": self.images, **self._rule}, name)

    def items(self) -> Sequence[WorkItem]:
        """One per class."""
        return [self.item(name) for name in self.support.words]

    def compute(self, item: WorkItem, store: ArtifactStore) -> dict[str, Tensor]:
        """``foreground`` and ``background`` [N, h, w] bool: at the images' size with Γ, else at ``threshold_size``."""
        entry = store.load(item.spec["support"])
        maps = min_max(entry["maps"][: self.images].float())
        images = entry["images"][: self.images]
        heats = min_max(F.interpolate(maps[:, None], images.shape[2:], mode="bilinear", align_corners=False)[:, 0])
        if self.segmenter is None:
            # The release finds the thresholds in the maps at their own size in both cases.
            masks = threshold_masks(maps if self.threshold_size == "map" else heats, otsu_thresholds(maps))
            return {"foreground": masks.foreground, "background": masks.background}
        device = self.segmenter.device
        chosen = [
            choose_masks(self.segmenter.masks(image.to(device)).cpu(), heat, self.rules)
            for image, heat in zip(images, heats, strict=True)
        ]
        return {
            "foreground": torch.stack([foreground for foreground, _ in chosen]),
            "background": torch.stack([background for _, background in chosen]),
        }


class PrototypeStage(Stage):
    """P^fg and P^bg of every class in one extractor's space (Eq. 2 and 3).

    Args:
        masks: The stage before.
        extractor: Φ_v, loaded, on its device.
        extractor_name: What the configuration calls it.
        parts: K.
        mask_resize: How masks reach the features' grid, see ``prototypes.resize_mask``.
    """

    def __init__(
        self,
        masks: MaskStage,
        extractor: FeatureExtractor,
        extractor_name: str,
        parts: int,
        mask_resize: MaskResize,
    ) -> None:
        self.name = f"{extractor_name} prototypes"
        self.masks = masks
        self.extractor = extractor
        self.parts = parts
        self.mask_resize = mask_resize

    @cached_property
    def _extractor_identity(self) -> dict[str, Any]:
        return self.extractor.identity()

    def item(self, name: str) -> WorkItem:
        """The prototypes of one class."""
        spec = {
            "kind": "prototypes",
            "masks": self.masks.item(name).key,
            "extractor": self._extractor_identity,
            "parts": self.parts,
            "mask_resize": self.mask_resize,
        }
        return WorkItem(spec, name)

    def items(self) -> Sequence[WorkItem]:
        """One per class."""
        return [self.item(name) for name in self.masks.support.words]

    def compute(self, item: WorkItem, store: ArtifactStore) -> dict[str, Tensor]:
        """What ``prototypes`` gives, under ``foreground.`` and ``background.``."""
        masks = store.load(item.spec["masks"])
        images = store.load(self.masks.support.item(item.title).key)["images"][: self.masks.images]
        device = self.extractor.device
        made: dict[str, Tensor] = {}
        found: dict[str, list[Any]] = {"foreground": [], "background": []}
        for n, image in enumerate(images):
            # One image at a time: features then do not depend on what shares their batch.
            features = self.extractor.features(image[None].to(device))[0]
            for region, cells in found.items():
                cells.append(masked_cells(n, features, masks[region][n].to(device), self.mask_resize))
        for region, cells in found.items():
            kept = [each for each in cells if each is not None]
            packed = prototypes(kept, len(images), self.parts)
            made |= {f"{region}.{key}": value for key, value in packed.items()}
        return made
