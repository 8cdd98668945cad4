"""Attribution of pictures of captions, each to the nouns of its own caption."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from diffusers import DiffusionPipeline

from harness.errors import ConfigurationError
from methods.backbones.diffusion_pipeline import longer_side
from methods.support.attribution import AttentionSums, Attribution, _Recorder, word_positions

# The first special token: what stands in for a word that a caption does not have.
BOS = 0


class CaptionAttribution(Attribution):
    """An attribution in which every prompt has words of its own, so that captions can be painted in batches.

    Args:
        attribution: How attention becomes a map.
        words: The words of every prompt that will be painted.

    Attributes:
        width: The most words of a prompt; maps beyond a prompt's own words mean nothing.
        unread: (prompt, word) where the word lies beyond the tokens that the model reads; known after painting.
    """

    def __init__(self, attribution: Attribution, words: Mapping[str, Sequence[str]]) -> None:
        super().__init__(attribution.convention, attribution.layers, attribution.resolution)
        self._words = words
        self.width = max(len(each) for each in words.values())
        self.unread: set[tuple[str, str]] = set()

    def positions(self, tokenizer: Any, prompts: Sequence[str]) -> list[list[list[int]]]:
        """The tokens' places of ``width`` words for every prompt."""
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

    @contextmanager
    def collect(
        self, pipeline: DiffusionPipeline, prompts: Sequence[str], words: Sequence[str], latents: tuple[int, int]
    ) -> Iterator[AttentionSums]:
        """See ``Attribution.collect``; the prompts' own words are taken, not those given here."""
        before = pipeline.unet.attn_processors
        chosen = self._chosen(list(before))
        sums = AttentionSums(
            self.positions(pipeline.tokenizer, prompts),
            latents,
            longer_side(latents, self.resolution),
            self.convention,
            skip_coarse=self.convention == "daam" and self.layers is None,
        )
        during = {name: _Recorder(before[name], name, sums) if name in chosen else before[name] for name in before}
        pipeline.unet.set_attn_processor(during)
        try:
            yield sums
        finally:
            pipeline.unet.set_attn_processor(before)
