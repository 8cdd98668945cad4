"""What a reference collection is made of (FOSSIL, Section 3.2), and how heat maps become masks.

No code was released; what the paper leaves open is a parameter here.
"""

from collections.abc import Sequence
from functools import cached_property
from typing import Any, Literal

from torch import Tensor

from harness.artifacts.work_item import key_of
from harness.data.prompts import check_templates
from harness.method.part import Part
from harness.system.errors import ConfigurationError
from methods.fossil.captions import Captions, CaptionShards
from methods.support.attribution import ROUNDING, min_max
from methods.support.nouns import NounReader

# CLIP's (Radford et al., ICML 2021) seven, as in TCL and FreeDA.
TEMPLATES = (
    "itap of a {}.",
    "a bad photo of a {}.",
    "a origami {}.",
    "a photo of the large {}.",
    "a {} in a video game.",
    "art of the {}.",
    "a photo of the small {}.",
)
# Seeds of one collection lie this far from those of the next; ids of COCO's captions stay below.
SEEDS_APART = 10_000_000

Centre = Literal["standardise", "midrange"]


def binary_maps(maps: Tensor, threshold: float = 0.45, centre: Centre = "standardise") -> Tensor:
    """Heat maps made binary by a sigmoid and a threshold (Section 3.2).

    Attention is never negative and its sigmoid never below 0.5, so that every pixel would pass a threshold of 0.45;
    the paper does not say how maps are centred. Two readings:

    - ``standardise``: by mean and deviation (``fossil_masks``), so that what lies above the mean less 0.2 deviations
      passes. Where a small peak stands on even ground, the ground passes, too.
    - ``midrange``: minimum and maximum become -1 and 1, so that what lies above two fifths of the range passes. A
      single high pixel narrows the mask.

    Args:
        maps: [R, h, w], at least 0.
        threshold: In (0, 1).
        centre: See above.

    Returns:
        [R, h, w] bool; a map that varies by no more than rounding has an empty mask.
    """
    if not len(maps):
        return maps.bool()
    if centre == "standardise":
        return fossil_masks(maps, threshold)
    stretched = min_max(maps.float())
    return ((2 * stretched - 1).sigmoid() > threshold) & (stretched > 0)


def fossil_masks(maps: Tensor, threshold: float = 0.45) -> Tensor:
    """FOSSIL's binary heat maps (Sec. 3.2): a sigmoid, then a threshold.

    Attention is never negative and its sigmoid never below 0.5, so that every pixel would pass; the paper does not say
    how it is centred. Here each map is standardised first: the mask is what exceeds the mean by more than
    logit(threshold) deviations (-0.2 at 0.45).

    Args:
        maps: [..., h, w], at least 0.
        threshold: In (0, 1).

    Returns:
        [..., h, w] bool; a map that varies by no more than rounding has an empty mask.
    """
    maps = maps.float()
    mean, deviation = maps.mean(dim=(-2, -1), keepdim=True), maps.std(dim=(-2, -1), keepdim=True)
    varies = deviation > ROUNDING * mean.abs()
    return (((maps - mean) / deviation).sigmoid() > threshold) & varies


class Collection(Part):
    """What goes into a reference collection, and how.

    Args:
        captions: The paper takes all of COCO's training captions, five per image.
        nouns: Finds the nouns of a caption.
        shard: Captions per entry of the store.
        seed: The image of caption ``id`` has the seed ``seed * 10000000 + id``, whatever its shard, batch or rank.
        threshold: Of the heat maps after centring and sigmoid, see ``binary_maps``.
        centre: How heat maps are centred first, see ``binary_maps``.
        keep_images: Keep images and heat maps, so that another backbone or threshold costs no generation: 0.8 MB a
            caption at 512 pixels, uncompressed, plus 8 kB a noun. Otherwise they are generated again from their seeds.
        templates: Prompts that a noun, and later a class name, is put into, with one ``{}``.
        word_weight: Of the noun against its caption in the textual embedding, in [0, 1].
        unit_parts: Bring noun and caption to unit length before they are mixed; otherwise the mean over the templates,
            which is shorter, is mixed as it is. The sum is brought to unit length in any case, cosines being taken.
        singular: Embed a noun in its singular instead of as it stands in the caption.

    Raises:
        ConfigurationError: A setting is out of range.
    """

    def __init__(
        self,
        captions: Captions,
        nouns: NounReader,
        shard: int = 64,
        seed: int = 42,
        threshold: float = 0.45,
        centre: Centre = "standardise",
        keep_images: bool = False,
        templates: Sequence[str] = TEMPLATES,
        word_weight: float = 0.9,
        unit_parts: bool = True,
        singular: bool = False,
    ) -> None:
        super().__init__()
        if shard < 1 or seed < 0:
            raise ConfigurationError("collection: shard must be at least 1 and seed at least 0")
        if not 0 < threshold < 1 or not 0 <= word_weight <= 1:
            raise ConfigurationError("collection: threshold must lie in (0, 1) and word_weight in [0, 1]")
        self.captions = captions
        self.nouns = nouns
        self.shard = shard
        self.seed = seed
        self.threshold = threshold
        self.centre: Centre = centre
        self.keep_images = keep_images
        self.templates = check_templates(templates, "collection.templates")
        self.word_weight = word_weight
        self.unit_parts = unit_parts
        self.singular = singular

    def build(self) -> None:
        """List the captions.

        Raises:
            DataError: The captions cannot be read.
        """
        self.shards()

    def configuration(self) -> Any:
        """A hash of all captions."""
        return {"captions": key_of({"shards": self.shards().fingerprints})}

    def shards(self) -> CaptionShards:
        """The captions in shards, listed once."""
        return self._listed

    @cached_property
    def _listed(self) -> CaptionShards:
        return CaptionShards(self.captions, self.shard)
