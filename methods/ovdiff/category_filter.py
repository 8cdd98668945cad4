"""Which categories are in an image at all, by CLIP (OVDiff Sec. 3.4, "Category pre-filtering")."""

from collections.abc import Sequence
from functools import lru_cache
from itertools import combinations

import torch
from torch import Tensor

from methods.backbones.image_text import ImageText


class CategoryFilter:
    """CLIP as a multi-label classifier.

    Args:
        clip: Loaded, on its device.
        names: The candidate categories, |C| of them.
        max_categories: η, how many categories at most enter the combinations.
        template: Prompt of a single category.
        joined_template: A category's text in multi-label prompts, where " and " joins several; null takes ``template``,
            as OVDiff's release does ("a cat and a dog"). In the paper it is the bare name ("cat and dog").
        scale: Factor on the cosines before the softmax; 1 in OVDiff's release, which leaves CLIP's own (about 100) out.
        multi_label: Let the best-scoring multi-label prompt decide, as in the paper; otherwise all categories that
            score at least 1/|C|, η at most, are kept.
    """

    def __init__(
        self,
        clip: ImageText,
        names: Sequence[str],
        max_categories: int = 10,
        template: str = "a {}",
        scale: float = 1.0,
        multi_label: bool = True,
        joined_template: str | None = None,
    ) -> None:
        self.clip = clip
        self.names = tuple(names)
        self.max_categories = max_categories
        self.template = template
        self.joined_template = template if joined_template is None else joined_template
        self.scale = scale
        self.multi_label = multi_label
        self._single = clip.encode_text([template.replace("{}", name) for name in names])
        # The combinations of categories that often come together are asked for again and again.
        self._combined = lru_cache(maxsize=4096)(self._encode)

    def __call__(self, embedded: Tensor) -> list[int]:
        """The categories that are taken to be in an image.

        Args:
            embedded: [D], its embedding by ``clip``.

        Returns:
            Indices into ``names``, ascending; at least one.
        """
        likely = self._likely(embedded)
        if not self.multi_label:
            return sorted(likely)
        texts = self._combined(tuple(likely))
        return sorted(_subsets(likely)[int((texts @ embedded).argmax())])

    def _likely(self, embedded: Tensor) -> list[int]:
        """The categories that enter the multi-label prompts, in the order in which these name them.

        That of the vocabulary, or where η cuts some off that of their scores, the best first, as in OVDiff's release
        (karazijal/sdov, ``utils/clip_class.py``); the paper gives no order.
        """
        share = (self._single @ embedded * self.scale).softmax(dim=0)
        order = share.argsort(descending=True, stable=True).tolist()
        likely = [index for index in order if share[index] >= 1 / len(self.names)] or order[:1]
        return likely[: self.max_categories] if len(likely) > self.max_categories else sorted(likely)

    def _encode(self, likely: tuple[int, ...]) -> Tensor:
        """Embeddings of the prompts of every non-empty subset, [2^len - 1, D]."""
        prompts = [
            " and ".join(self.joined_template.replace("{}", self.names[index]) for index in subset)
            for subset in _subsets(likely)
        ]
        with torch.no_grad():
            return self.clip.encode_text(prompts)


def _subsets(likely: Sequence[int]) -> list[tuple[int, ...]]:
    """All non-empty ones, the small first."""
    return [subset for size in range(1, len(likely) + 1) for subset in combinations(likely, size)]
