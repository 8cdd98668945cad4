"""Where an image attended to a word: cross-attention of a denoising UNet, summed up while it generates.

Two conventions, which share little more than their subject: OVDiff's release (karazijal/sdov, ``sd.py``) and DAAM
(Tang et al., What the DAAM: Interpreting Stable Diffusion Using Cross Attention, ACL 2023; castorini/daam,
``trace.py`` and ``heatmap.py``).
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Literal

import torch
import torch.nn.functional as F
from diffusers import DiffusionPipeline
from diffusers.models.attention_processor import Attention
from torch import Tensor

from harness.method.part import Part
from harness.system.errors import ConfigurationError
from methods.backbones.diffusion_pipeline import grid_of, longer_side

Convention = Literal["ovdiff", "daam"]
# Attention values that are held at once (64 MB); images go through a layer in runs that keep to it.
BUDGET = 1 << 24
# Differences of this share of a float32 value are rounding's.
ROUNDING = 4e-6
# DAAM leaves out layers this many times coarser than the latents, 8x8 at 512 pixels.
COARSE = 8


class Attribution(Part):
    """Attention maps of words, gathered while a UNet runs. Keeps sums only, never a step.

    - ``ovdiff``: every map of every layer, head and step is upsampled (bicubic), clamped at 0 and averaged; a word's
      map is the mean over the tokens of its first occurrence. All cross-attention layers take part.
    - ``daam``: maps are summed over the steps, then upsampled (bicubic), clamped at 0 and averaged over layers and
      heads; a word's map is the mean over the tokens of all its occurrences. Layers of the up and down blocks take
      part, without those 8 times coarser than the latents.

    Both look at the conditional half alone where guidance doubles the batch, and at all of it where it does not (the
    DAAM library then drops half of the heads).

    Args:
        convention: See above.
        layers: Names of blocks whose cross-attention takes part, such as ``up_blocks`` or ``mid_block.attentions.0``;
            null takes the convention's.
        resolution: Longer side of the maps; null takes the latents'. 64 in both releases (512 pixels).
    """

    def __init__(
        self, convention: Convention = "ovdiff", layers: Sequence[str] | None = None, resolution: int | None = 64
    ) -> None:
        super().__init__()
        if resolution is not None and resolution < 1:
            raise ConfigurationError(f"attribution.resolution must be positive, not {resolution}")
        self.convention = convention
        self.layers = None if layers is None else tuple(layers)
        self.resolution = resolution

    def resolved(self) -> Mapping[str, Any]:
        """The layers' order does not matter."""
        return {"layers": None if self.layers is None else sorted(self.layers)}

    @contextmanager
    def collect(
        self, pipeline: DiffusionPipeline, prompts: Sequence[str], words: Sequence[str], latents: tuple[int, int]
    ) -> Iterator["AttentionSums"]:
        """Record what the pipeline's UNet attends to until the block ends; its own processors are then put back.

        Args:
            pipeline: A pipeline with ``unet`` and ``tokenizer``; of two tokenizers (SDXL) the first counts.
            prompts: B prompts, those of the passes that will be made.
            words: W words or phrases, the same for every prompt.
            latents: The latents' (height, width).

        Yields:
            The sums, whose ``maps`` can be read afterwards.

        Raises:
            ConfigurationError: A prompt does not contain a word, or there is no such layer.
        """
        before = pipeline.unet.attn_processors
        chosen = self._chosen(list(before))
        sums = AttentionSums(
            self.positions(pipeline.tokenizer, prompts, words),
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

    def positions(self, tokenizer: Any, prompts: Sequence[str], words: Sequence[str]) -> list[list[list[int]]]:
        """For every prompt and word the places of the word's tokens.

        Raises:
            ConfigurationError: A prompt does not contain a word.
        """
        every = self.convention == "daam"
        return [[word_positions(tokenizer, prompt, word, every) for word in words] for prompt in prompts]

    def on_image(self, maps: Tensor, size: tuple[int, int]) -> Tensor:
        """Maps at an image's size in [0, 1], each stretched by its own minimum and maximum.

        OVDiff's release stretches, resizes (bilinear) and stretches again; DAAM (``expand_as``) resizes (bicubic) and
        stretches. A map of one value becomes 0.

        Args:
            maps: [B, W, h, w].
            size: (height, width) in pixels.

        Returns:
            [B, W, height, width] float32.
        """
        if self.convention == "daam":
            return min_max(F.interpolate(maps.float(), size, mode="bicubic"))
        return min_max(F.interpolate(min_max(maps.float()), size, mode="bilinear"))

    def _chosen(self, processors: Sequence[str]) -> set[str]:
        """Names of the processors of the layers that take part."""
        crossing = [name for name in processors if ".attn2." in name]
        if self.layers is None:
            return {name for name in crossing if self.convention == "ovdiff" or not name.startswith("mid_block")}
        for layer in self.layers:
            if not any(name.startswith(f"{layer}.") for name in crossing):
                known = ", ".join(sorted({name.split(".transformer_blocks")[0] for name in crossing}))
                raise ConfigurationError(f"attribution.layers: '{layer}' has no cross-attention; there is {known}")
        return {name for name in crossing if name.startswith(tuple(f"{layer}." for layer in self.layers))}


class AttentionSums:
    """Running sums of the attention of some tokens.

    Args:
        positions: For every image and word, the places of its tokens in the text.
        latents: (height, width) of the latents.
        target: (height, width) of the maps.
        convention: See ``Attribution``.
        skip_coarse: Leave out layers that are eight times coarser than the latents.
    """

    def __init__(
        self,
        positions: Sequence[Sequence[Sequence[int]]],
        latents: tuple[int, int],
        target: tuple[int, int],
        convention: Convention,
        skip_coarse: bool,
    ) -> None:
        self._latents, self._target, self._convention = latents, target, convention
        self._skip_coarse = skip_coarse
        tokens = [[place for word in image for place in word] for image in positions]
        width = max(len(places) for places in tokens)
        # Images may have different numbers of tokens: the shorter ones are filled up with a token of no weight.
        self.index = torch.tensor([places + [0] * (width - len(places)) for places in tokens])
        self._weights = torch.zeros(len(positions), len(positions[0]), width)
        for row, image in enumerate(positions):
            first = 0
            for column, word in enumerate(image):
                self._weights[row, column, first : first + len(word)] = 1 / len(word)
                first += len(word)
        self._sums: dict[str, Tensor] = {}
        self._count = 0

    def grid(self, pixels: int) -> tuple[int, int] | None:
        """The (height, width) of a layer's queries, or None if the layer does not take part."""
        height, width = grid_of(pixels, self._latents)
        coarse = self._latents[0] / height > COARSE / 2
        return None if coarse and self._skip_coarse else (height, width)

    def add(self, layer: str, start: int, attention: Tensor, grid: tuple[int, int]) -> None:
        """Add one pass of one layer, for a run of images.

        Args:
            layer: The layer's name.
            start: Index of the run's first image.
            attention: [b, heads, h * w, tokens] float32, softmax over the whole text, its tokens chosen by ``index``.
            grid: (h, w).
        """
        maps = attention.transpose(2, 3).unflatten(3, grid)
        if self._convention == "ovdiff":
            # Heads differ in number between the layers of some models: sum and count, then divide.
            maps, layer = self._upsampled(maps).sum(dim=1, keepdim=True), ""
            if start == 0:
                self._count += attention.shape[1]
        if layer not in self._sums:
            self._sums[layer] = maps.new_zeros(len(self.index), *maps.shape[1:])
        self._sums[layer][start : start + len(maps)] += maps

    def maps(self) -> Tensor:
        """The words' maps so far, [B, words, height, width] float32, at least 0.

        Raises:
            ConfigurationError: No layer took part.
        """
        if not self._sums:
            raise ConfigurationError(
                "attribution: no cross-attention layer took part; name some with attribution.layers"
            )
        if self._convention == "ovdiff":
            tokens = self._sums[""][:, 0] / self._count
        else:
            count = sum(maps.shape[1] for maps in self._sums.values())
            tokens = torch.stack([self._upsampled(maps).sum(dim=1) for maps in self._sums.values()]).sum(dim=0) / count
        return torch.einsum("bwt,bthx->bwhx", self._weights.to(tokens), tokens)

    def _upsampled(self, maps: Tensor) -> Tensor:
        """[b, heads, tokens, h, w] at the target's size."""
        grown = F.interpolate(maps.flatten(1, 2), self._target, mode="bicubic").clamp_(min=0)
        return grown.unflatten(1, maps.shape[1:3])


class _Recorder:
    """An attention processor that computes a layer's softmax for the chosen tokens and leaves the output to another.

    The output stays that of the processor before it, bit for bit; the projections that are made twice, for the
    conditional half alone, are about one part in a hundred of Stable Diffusion's work.
    """

    def __init__(self, before: Any, layer: str, sums: AttentionSums) -> None:
        self.before, self.layer, self.sums = before, layer, sums

    def __call__(
        self,
        attn: Attention,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor | None = None,
        attention_mask: Tensor | None = None,
        temb: Tensor | None = None,
    ) -> Tensor:
        if encoder_hidden_states is not None:
            self._record(attn, hidden_states, encoder_hidden_states)
        return self.before(attn, hidden_states, encoder_hidden_states, attention_mask, temb)

    def _record(self, attn: Attention, hidden_states: Tensor, context: Tensor) -> None:
        index = self.sums.index = self.sums.index.to(context.device)
        grid = self.sums.grid(hidden_states.shape[1])
        count = len(index)
        if len(context) not in (count, 2 * count):
            raise ConfigurationError(f"attribution: passes of {len(context)} images for {count} prompts are unknown")
        if grid is None:
            return
        if attn.norm_cross:
            context = attn.norm_encoder_hidden_states(context)
        # With guidance the unconditional half comes first.
        query = attn.to_q(hidden_states[-count:]).float().unflatten(2, (attn.heads, -1)).transpose(1, 2)
        key = attn.to_k(context[-count:]).float().unflatten(2, (attn.heads, -1)).permute(0, 2, 3, 1)
        run = max(1, BUDGET // (attn.heads * query.shape[2] * key.shape[3]))
        for start in range(0, count, run):
            some = slice(start, start + run)
            shares = torch.matmul(query[some] * attn.scale, key[some]).softmax(dim=-1)
            places = index[some, None, None, :].expand(-1, *shares.shape[1:3], -1)
            self.sums.add(self.layer, start, shares.gather(3, places), grid)


def word_positions(tokenizer: Any, prompt: str, word: str, every: bool = False) -> list[int]:
    """Where a word or phrase stands in a prompt's tokens, counted with the first special token (BOS is 0).

    Args:
        tokenizer: A CLIP tokenizer, whose tokens end in ``</w>`` at the end of a word.
        prompt: The prompt.
        word: One or several words.
        every: All occurrences, instead of the first.

    Raises:
        ConfigurationError: The prompt does not contain the word, or only beyond the tokens that the model reads.
    """
    wanted = tokenizer(word, add_special_tokens=False).input_ids
    ids = tokenizer(prompt, truncation=True, max_length=tokenizer.model_max_length).input_ids[:-1]
    tokens = tokenizer.convert_ids_to_tokens(ids)
    found: list[int] = []
    for first in range(1, len(ids) - len(wanted) + 1) if wanted else ():
        # "bus" is a token of "omnibus" as well: an occurrence begins where a word begins.
        begins = first == 1 or tokens[first - 1].endswith("</w>")
        if begins and ids[first : first + len(wanted)] == wanted and first > max(found, default=0):
            found += range(first, first + len(wanted))
            if not every:
                break
    if not found:
        length = tokenizer.model_max_length - 2
        raise ConfigurationError(f"the word '{word}' is not among the first {length} tokens of the prompt '{prompt}'")
    return found


def min_max(maps: Tensor) -> Tensor:
    """[..., h, w] stretched to [0, 1] map by map; a map that varies by no more than rounding becomes 0."""
    low, high = maps.amin(dim=(-2, -1), keepdim=True), maps.amax(dim=(-2, -1), keepdim=True)
    varies = high - low > ROUNDING * high.abs().maximum(low.abs())
    return torch.where(varies, (maps - low) / (high - low).clamp(min=torch.finfo(maps.dtype).tiny), 0.0)
