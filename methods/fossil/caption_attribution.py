"""Attribution of images of captions, each to the nouns of its own caption."""

from collections.abc import Mapping, Sequence
from typing import Any

from harness.system.errors import ConfigurationError
from methods.support.attribution import Attribution, word_positions

# The first special token: what stands in for a word that a caption does not have.
BOS = 0


class CaptionAttribution(Attribution):
    """An attribution in which every prompt has words of its own, so that captions can be generated in batches.

    Args:
        attribution: How attention becomes a map.
        words: The words of every prompt that will be generated.

    Attributes:
        width: The most words of a prompt; maps beyond a prompt's own words mean nothing.
        unread: (prompt, word) where the word lies beyond the tokens that the model reads; known after generation.
    """

    def __init__(self, attribution: Attribution, words: Mapping[str, Sequence[str]]) -> None:
        super().__init__(attribution.convention, attribution.layers, attribution.resolution)
        self._words = words
        self.width = max(len(each) for each in words.values())
        self.unread: set[tuple[str, str]] = set()

    def positions(self, tokenizer: Any, prompts: Sequence[str], words: Sequence[str]) -> list[list[list[int]]]:
        """See ``Attribution.positions``; ``width`` of the prompt's own words are taken, not those given here."""
        return [self._positions(tokenizer, prompt) for prompt in prompts]

    def _positions(self, tokenizer: Any, prompt: str) -> list[list[int]]:
        found = []
        for word in self._words[prompt]:
            try:
                found.append(word_positions(tokenizer, prompt, word, every=self.convention == "daam"))
            except ConfigurationError:
                self.unread.add((prompt, word))
                found.append([BOS])
        return found + [[BOS]] * (self.width - len(found))
