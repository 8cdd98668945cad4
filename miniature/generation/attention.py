"""Cross-attention maps of a word, recorded while the denoiser runs."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
import torch.nn.functional as F
from diffusers import UNet2DConditionModel
from diffusers.models.attention_processor import Attention, AttnProcessor
from torch import Tensor
from transformers import CLIPTokenizer

from miniature.generation import model


class WordMaps:
    """Running mean of attention maps over layers, heads and passes."""

    def __init__(self, weights: Tensor, side: tuple[int, int]) -> None:
        """
        Args:
            weights: float32 [B, T], how much each token of each prompt counts; a prompt's weights sum to 1.
            side: (height, width) of the latents, to which all layers' maps are brought.
        """
        self.weights, self.side = weights, side
        self.total, self.count = torch.zeros(len(weights), *side), 0

    def add(self, shares: Tensor, heads: int) -> None:
        """Add one layer's attention [B' * heads, h * w, T]; with guidance B' is 2 B, the unconditional half first."""
        size = len(self.weights)
        shares = shares.float().unflatten(0, (-1, heads)).mean(1)[-size:]
        maps = torch.einsum("bpt,bt->bp", shares, self.weights)
        height, width = self.side
        shrink = round((height * width / maps.shape[1]) ** 0.5)
        maps = maps.reshape(size, 1, height // shrink, width // shrink)
        self.total += F.interpolate(maps, self.side, mode="bilinear", align_corners=False)[:, 0]
        self.count += 1

    def mean(self) -> Tensor:
        """Maps float32 [B, h, w], at least 0."""
        return self.total / max(1, self.count)


class _Recorder:
    """An attention processor that records attention maps before applying them."""

    def __init__(self, maps: WordMaps) -> None:
        self.maps = maps

    def __call__(self, attn: Attention, hidden_states: Tensor, encoder_hidden_states: Tensor, **_: object) -> Tensor:
        query, key, value = (
            attn.head_to_batch_dim(part)
            for part in (attn.to_q(hidden_states), attn.to_k(encoder_hidden_states), attn.to_v(encoder_hidden_states))
        )
        shares = attn.get_attention_scores(query, key)
        self.maps.add(shares, attn.heads)
        return torch.as_tensor(attn.to_out[0](attn.batch_to_head_dim(torch.bmm(shares, value))))


@contextmanager
def record_attention(unet: UNet2DConditionModel, maps: WordMaps) -> Iterator[WordMaps]:
    """Record all cross-attention inside the `with` block into `maps`; afterwards restore the previous processors."""
    before = unet.attn_processors
    unet.set_attn_processor({name: _Recorder(maps) if "attn2" in name else AttnProcessor() for name in before})
    try:
        yield maps
    finally:
        unet.set_attn_processor(before)


def word_weights(tokens: CLIPTokenizer, texts: Sequence[str], word: Sequence[str]) -> Tensor:
    """Weights float32 [B, T] that select the tokens of one word in each text.

    Raises:
        ValueError: if a text does not contain its word.
    """
    ids = model.token_ids(tokens, list(texts))
    weights = torch.zeros(ids.shape)
    for row, name in enumerate(word):
        wanted = tokens(name, add_special_tokens=False).input_ids
        for first in range(1, ids.shape[1] - len(wanted)):
            if ids[row, first : first + len(wanted)].tolist() == wanted:
                weights[row, first : first + len(wanted)] = 1 / len(wanted)
                break
        else:
            raise ValueError(f"{texts[row]!r} does not contain the word {name!r}")
    return weights
