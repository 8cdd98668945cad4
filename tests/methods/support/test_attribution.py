"""Attribution against both conventions written out over all attention of all steps, kept."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from diffusers import StableDiffusionPipeline
from diffusers.models.attention_processor import Attention
from transformers import CLIPTokenizer

from harness import ConfigurationError
from methods.backbones import DiffusersTextToImage
from methods.support import Attribution, attribution
from methods.support.attribution import AttentionSums, min_max, word_positions

# The second has "cat" twice and three more tokens.
PROMPTS = ["a photo of a red cat", "a cat and a red cat on the grass"]
WORDS = ["cat", "red cat", "a"]
# Tokens of the words in the prompts, BOS being 0.
FIRST = [[[6], [5, 6], [1]], [[2], [5, 6], [1]]]
EVERY = [[[6], [5, 6], [1, 4]], [[2, 6], [5, 6], [1, 4]]]


class Keep:
    """diffusers' explicit attention, every probability of which is kept."""

    def __init__(self, name: str, kept: list[tuple[str, torch.Tensor]]) -> None:
        self.name, self.kept = name, kept

    def __call__(
        self, attn: Attention, hidden_states: torch.Tensor, encoder_hidden_states: torch.Tensor, **_: Any
    ) -> torch.Tensor:
        states = attn.to_q(hidden_states), attn.to_k(encoder_hidden_states), attn.to_v(encoder_hidden_states)
        query, key, value = (attn.head_to_batch_dim(state) for state in states)
        shares = attn.get_attention_scores(query, key)
        self.kept.append((self.name, shares.unflatten(0, (-1, attn.heads))))
        return attn.to_out[0](attn.batch_to_head_dim(shares @ value))


def generator(pipeline: StableDiffusionPipeline, guidance: float = 3.0) -> DiffusersTextToImage:
    made = DiffusersTextToImage("tiny", steps=2, guidance=guidance)
    made.adopt(pipeline)
    return made


def kept_attention(model: DiffusersTextToImage) -> list[tuple[str, torch.Tensor]]:
    """Per pass and layer the conditional half's [B, heads, h * w, tokens]."""
    unet, kept = model.pipeline.unet, list[tuple[str, torch.Tensor]]()
    before = unet.attn_processors
    unet.set_attn_processor({name: Keep(name, kept) if "attn2" in name else before[name] for name in before})
    model.generate(PROMPTS, [1, 2])
    unet.set_attn_processor(dict(before))
    return [(name, shares[-len(PROMPTS) :]) for name, shares in kept]


def token_maps(shares: torch.Tensor) -> torch.Tensor:
    """[B, heads, h * w, tokens] -> [B, heads, tokens, 64, 64], bicubic, clamped."""
    side = round(shares.shape[2] ** 0.5)
    maps = shares.transpose(2, 3).unflatten(3, (side, side))
    grown = F.interpolate(maps.flatten(1, 2), (64, 64), mode="bicubic").clamp(min=0)
    return grown.unflatten(1, maps.shape[1:3])


def word_maps(tokens: torch.Tensor, positions: list[list[list[int]]]) -> torch.Tensor:
    """[B, tokens, 64, 64] -> [B, words, 64, 64]."""
    return torch.stack(
        [
            torch.stack([image[word].mean(dim=0) for word in places])
            for image, places in zip(tokens, positions, strict=True)
        ]
    )


@pytest.mark.parametrize("guidance", [3.0, 1.0])
def test_ovdiff_is_the_mean_over_steps_layers_and_heads(sd_pipeline: StableDiffusionPipeline, guidance: float) -> None:
    model = generator(sd_pipeline, guidance)
    kept = kept_attention(model)
    count = sum(shares.shape[1] for _, shares in kept)
    expected = word_maps(sum(token_maps(shares).sum(dim=1) for _, shares in kept) / count, FIRST)
    found = model.generate(PROMPTS, [1, 2], WORDS, Attribution("ovdiff")).maps
    assert found is not None
    assert any("mid_block" in name for name, _ in kept)
    assert torch.allclose(found, expected, atol=1e-6)


@pytest.mark.parametrize("guidance", [3.0, 1.0])
def test_daam_is_the_sum_over_steps_and_the_mean_over_layers_and_heads(
    sd_pipeline: StableDiffusionPipeline, guidance: float
) -> None:
    model = generator(sd_pipeline, guidance)
    summed = dict[str, torch.Tensor]()
    for name, shares in kept_attention(model):
        if not name.startswith("mid_block"):
            summed[name] = summed.get(name, 0) + shares
    heads = torch.cat([token_maps(shares) for shares in summed.values()], dim=1)
    found = model.generate(PROMPTS, [1, 2], WORDS, Attribution("daam")).maps
    assert found is not None
    assert torch.allclose(found, word_maps(heads.mean(dim=1), EVERY), atol=1e-6)


def test_layers_can_be_chosen(sd_pipeline: StableDiffusionPipeline) -> None:
    model = generator(sd_pipeline)
    kept = [shares for name, shares in kept_attention(model) if name.startswith("mid_block")]
    expected = word_maps(token_maps(sum(kept)).mean(dim=1), EVERY)
    found = model.generate(PROMPTS, [1, 2], WORDS, Attribution("daam", layers=["mid_block.attentions.0"])).maps
    assert found is not None
    assert torch.allclose(found, expected, atol=1e-6)
    with pytest.raises(ConfigurationError, match=r"'mid' has no cross-attention; there is down_blocks\.0\.attentions"):
        model.generate(PROMPTS, [1, 2], WORDS, Attribution(layers=["mid"]))


def test_maps_do_not_depend_on_how_images_are_grouped(
    sd_pipeline: StableDiffusionPipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = generator(sd_pipeline)
    for convention in ("ovdiff", "daam"):
        together = model.generate(PROMPTS, [1, 2], WORDS, Attribution(convention, resolution=None)).maps
        monkeypatch.setattr(attribution, "BUDGET", 1)
        in_runs = model.generate(PROMPTS, [1, 2], WORDS, Attribution(convention, resolution=None)).maps
        monkeypatch.undo()
        model.batch_size = 1
        alone = model.generate(PROMPTS, [1, 2], WORDS, Attribution(convention, resolution=None)).maps
        model.batch_size = 8
        assert together is not None
        assert together.shape == (2, 3, 16, 16)
        assert torch.allclose(in_runs, together, atol=1e-7)
        assert torch.allclose(alone, together, atol=1e-6)


def test_processors_are_put_back(sd_pipeline: StableDiffusionPipeline) -> None:
    before = sd_pipeline.unet.attn_processors
    failing = Attribution().collect(sd_pipeline, PROMPTS, WORDS, (16, 16))
    failing.__enter__()
    assert sd_pipeline.unet.attn_processors != before
    assert not failing.__exit__(RuntimeError, RuntimeError(), None)
    assert sd_pipeline.unet.attn_processors == before


def test_given_images_are_attributed_in_one_pass(sd_pipeline: StableDiffusionPipeline) -> None:
    images = torch.randint(0, 256, (2, 3, 64, 96), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    model = generator(sd_pipeline)
    maps = model.attribute(images, PROMPTS, WORDS, Attribution())
    assert maps.shape == (2, 3, 43, 64)
    assert maps.min() >= 0
    assert maps.std(dim=(2, 3)).min() > 0
    alone = model.attribute(images[1:], PROMPTS[1:], WORDS, Attribution())
    assert torch.allclose(alone, maps[1:], atol=1e-6)
    assert not torch.allclose(model.attribute(images[1:], PROMPTS[1:], WORDS, Attribution(), timestep=20), alone)


@pytest.fixture(scope="module")
def spelling(tmp_path_factory: pytest.TempPathFactory) -> CLIPTokenizer:
    """A CLIP tokenizer without merges: every letter is a token, the last of a word with ``</w>``."""
    folder: Path = tmp_path_factory.mktemp("tokenizer")
    letters = "abcdefghijklmnopqrstuvwxyz/"
    names = [*letters, *(f"{letter}</w>" for letter in letters), "<|startoftext|>", "<|endoftext|>"]
    (folder / "vocab.json").write_text(json.dumps({name: number for number, name in enumerate(names)}))
    (folder / "merges.txt").write_text("#version: 0.2\n")
    tokenizer = CLIPTokenizer.from_pretrained(folder)
    tokenizer.model_max_length = 40
    return tokenizer


@pytest.mark.parametrize(
    ("prompt", "word", "first", "every"),
    [
        ("a bus", "bus", [2, 3, 4], [2, 3, 4]),
        ("an omnibus a bus", "bus", [11, 12, 13], [11, 12, 13]),
        ("big pot pot big pot", "pot", [4, 5, 6], [4, 5, 6, 7, 8, 9, 13, 14, 15]),
        ("a BIG Pot", " big  pot ", [2, 3, 4, 5, 6, 7], [2, 3, 4, 5, 6, 7]),
        ("a a a", "a a", [1, 2], [1, 2]),
        ("a tv/pc", "tv/pc", [2, 3, 4, 5, 6], [2, 3, 4, 5, 6]),
    ],
)
def test_word_positions(spelling: CLIPTokenizer, prompt: str, word: str, first: list[int], every: list[int]) -> None:
    assert word_positions(spelling, prompt, word) == first
    assert word_positions(spelling, prompt, word, every=True) == every


@pytest.mark.parametrize(
    ("prompt", "word"), [("a cat", "dog"), ("a cats", "cat"), ("a cat", " "), ("x" * 38 + " a", "a")]
)
def test_a_word_that_is_not_there_is_an_error(spelling: CLIPTokenizer, prompt: str, word: str) -> None:
    with pytest.raises(ConfigurationError, match=f"the word '{word}' is not among the first 38 tokens of the prompt"):
        word_positions(spelling, prompt, word)


def test_the_last_token_that_is_read_counts(spelling: CLIPTokenizer) -> None:
    assert word_positions(spelling, "x" * 37 + " a", "a") == [38]


def test_daam_leaves_out_eight_times_coarser_layers() -> None:
    sums = AttentionSums([[[1]]], (64, 64), (64, 64), "daam", skip_coarse=True)
    assert [sums.grid(side * side) for side in (64, 32, 16, 8)] == [(64, 64), (32, 32), (16, 16), None]
    assert AttentionSums([[[1]]], (64, 64), (64, 64), "ovdiff", skip_coarse=False).grid(64) == (8, 8)
    # 96 latents a side: 768 pixels.
    assert AttentionSums([[[1]]], (96, 96), (64, 64), "daam", skip_coarse=True).grid(144) is None
    with pytest.raises(ConfigurationError, match="no cross-attention layer took part"):
        sums.maps()


def test_maps_on_the_image_span_zero_to_one() -> None:
    maps = torch.rand(2, 3, 16, 16, generator=torch.Generator().manual_seed(0)) * 0.01 + 0.2
    maps[1, 2] = 0.3
    for convention in ("ovdiff", "daam"):
        grown = Attribution(convention).on_image(maps, (40, 60))
        assert grown.shape == (2, 3, 40, 60)
        assert torch.equal(grown[1, 2], torch.zeros(40, 60))
        grown[1, 2] = torch.linspace(0, 1, 40 * 60).reshape(40, 60)
        assert torch.allclose(grown.amin(dim=(2, 3)), torch.zeros(2, 3))
        assert torch.allclose(grown.amax(dim=(2, 3)), torch.ones(2, 3))
    assert torch.equal(min_max(torch.zeros(4, 4)), torch.zeros(4, 4))


def test_settings_are_all_that_matters() -> None:
    assert Attribution(layers=["a", "b"]).identity() == Attribution(layers=["b", "a"]).identity()
    different = [Attribution(), Attribution("daam"), Attribution(layers=["a"]), Attribution(resolution=None)]
    assert len({json.dumps(each.identity()) for each in different}) == 4
