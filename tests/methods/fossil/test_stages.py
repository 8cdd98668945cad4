"""The reference collection on Miniature's models: images of captions, masks of nouns, embeddings, shards."""

import re
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from diffusers import StableDiffusionPipeline

from harness import ArtifactStore, ConfigurationError
from harness.artifacts.precompute import precompute
from methods.backbones import DenseFeatures, DiffusersTextToImage, HubViT, OpenCLIP
from methods.fossil.caption_attribution import CaptionAttribution
from methods.fossil.captions import Captions
from methods.fossil.collection import TEMPLATES, Collection, binary_maps
from methods.fossil.pooling import pool_regions
from methods.fossil.references import Reference, unpack
from methods.fossil.stages import ImageStage, ReferenceStage, TextStage
from methods.support import Attribution
from methods.support.nouns import RuleNouns
from tests.methods.doubles import make_without_global_randomness
from tests.running import Ranks, until

CAPTIONS = (
    "a red boat on the water",
    "a photo of a cat and two trees",
    "an empty background",
    "the sun above the sand",
    "a cat",
    "two cats and a cat on the grass",
)
WORDS = ("boat", "water", "cat", "tree", "sun", "sand", "grass", "house")
ATTRIBUTION = Attribution("daam", resolution=16)


class Counted(DiffusersTextToImage):
    """Miniature's Stable Diffusion at two steps, one image at a time; notes what it is asked for."""

    not_identity = DiffusersTextToImage.not_identity | {"pipeline"}

    def __init__(self, pipeline: StableDiffusionPipeline, **settings: Any) -> None:
        super().__init__(**{"steps": 2, "guidance": 1.0, "batch_size": 1, **settings})
        self.adopt(pipeline)
        self.asked: list[tuple[str, int]] = []

    def generate(self, prompts: Sequence[str], seeds: Sequence[int], *given: Any) -> Any:
        self.asked += zip(prompts, seeds, strict=True)
        return super().generate(prompts, seeds, *given)


@pytest.fixture(scope="session")
def dino() -> DenseFeatures:
    extractor = DenseFeatures(HubViT("./miniature/weights/dino"), size=48)
    extractor.load()
    return extractor


def another_dino() -> DenseFeatures:
    extractor = DenseFeatures(HubViT("./miniature/weights/dino", random_weights=True), size=48)
    extractor.load()
    return extractor


@pytest.fixture(scope="session")
def clip() -> OpenCLIP:
    model = OpenCLIP("local-dir:miniature/weights/clip")
    model.load()
    return model


class Bench:
    """A collection's stages over a store, and what they made."""

    def __init__(self, folder: Path, sd_pipeline: Any, dino: Any, clip: Any) -> None:
        self.folder, self.sd_pipeline, self.dino, self.clip = folder, sd_pipeline, dino, clip
        self.store = ArtifactStore(folder / "store")

    def stages(self, captions: Sequence[str] = CAPTIONS, dino: Any = None, **settings: Any) -> TextStage:
        (self.folder / "captions.txt").write_text("".join(f"{caption}\n" for caption in captions))
        given = {"shard": 4, "keep_images": True, **settings}
        collection = Collection(Captions(self.folder / "captions.txt"), RuleNouns(WORDS), **given)
        self.generator = Counted(self.sd_pipeline)
        references = ReferenceStage(ImageStage(collection, self.generator, ATTRIBUTION), dino or self.dino)
        return TextStage(references, self.clip)

    @torch.inference_mode()
    def make(self, captions: Sequence[str] = CAPTIONS, **settings: Any) -> tuple[TextStage, list[str]]:
        """The stages with all entries there, and the captions that had to be generated."""
        texts = self.stages(captions, **settings)
        references = texts.references
        stages = [references, texts]
        if references.image_stage.collection.keep_images:
            stages.insert(0, references.image_stage)
        method = SimpleNamespace(name="test", stages=lambda: stages, assemble=lambda store: {}, adopt=lambda bank: None)
        self.report = precompute(method, self.store).stages  # type: ignore[arg-type]
        return texts, [caption for caption, _ in self.generator.asked]

    def entries(self, texts: TextStage) -> list[dict[str, torch.Tensor]]:
        """All references, shard by shard, with their texts."""
        pairs = zip(texts.references.items(), texts.items(), strict=True)
        return [self.store.load(first.key) | self.store.load(second.key) for first, second in pairs]

    def references(self, texts: TextStage) -> list[Reference]:
        return [reference for entry in self.entries(texts) for reference in unpack(entry["provenance"])]


@pytest.fixture
def bench(tmp_path: Path, sd_pipeline: StableDiffusionPipeline, dino: DenseFeatures, clip: OpenCLIP) -> Bench:
    return Bench(tmp_path, sd_pipeline, dino, clip)


def test_every_noun_of_every_caption_is_a_pair_with_its_provenance(bench: Bench) -> None:
    texts, generated = bench.make()
    # "background" is no word of the list: a caption without nouns is not generated.
    assert generated == [caption for caption in CAPTIONS if caption != "an empty background"]
    found = [(r.caption.id, r.noun.text, r.noun.lemma) for r in bench.references(texts)]
    assert found == [
        (1, "boat", "boat"),
        (1, "water", "water"),
        (2, "cat", "cat"),
        (2, "trees", "tree"),
        (4, "sun", "sun"),
        (4, "sand", "sand"),
        (5, "cat", "cat"),
        (6, "cats", "cat"),
        (6, "cat", "cat"),
        (6, "grass", "grass"),
    ]
    assert all(r.seed == 420000000 + r.caption.id for r in bench.references(texts))
    assert all(r.caption.text[r.noun.start : r.noun.end] == r.noun.text for r in bench.references(texts))
    for entry in bench.entries(texts):
        assert entry["visual"].shape[1] == 128
        assert len(entry["visual"]) == len(entry["text"]) == len(entry["area"]) == len(unpack(entry["provenance"]))
        assert ((entry["area"] > 0) & (entry["area"] < 1)).all()


@torch.inference_mode()
def test_the_visual_embedding_is_the_mean_feature_under_the_heat_map(bench: Bench) -> None:
    texts, _ = bench.make()
    entry = bench.store.load(texts.references.image_stage.item(0).key)
    # The trees of the second caption, the fourth noun.
    maps = entry["maps"][3].float()
    mask = ((maps - maps.mean()) / maps.std()).sigmoid() > 0.45
    features = bench.dino.features(entry["images"][1:2])[0]
    weights = F.interpolate(mask[None, None].float(), features.shape[1:], mode="bilinear")[0, 0]
    expected = (features * weights).sum(dim=(1, 2)) / weights.sum()
    torch.testing.assert_close(bench.entries(texts)[0]["visual"][3].float(), expected, atol=1e-3, rtol=1e-3)


@torch.inference_mode()
@pytest.mark.parametrize("unit_parts", [True, False])
@pytest.mark.parametrize("singular", [True, False])
def test_the_textual_embedding_is_nine_parts_noun_and_one_part_caption(
    bench: Bench, clip: OpenCLIP, unit_parts: bool, singular: bool
) -> None:
    texts = bench.stages(unit_parts=unit_parts, singular=singular)
    prompts = [template.format("tree" if singular else "trees") for template in TEMPLATES]
    noun = clip.encode_text(prompts).mean(dim=0)
    noun = F.normalize(noun, dim=0) if unit_parts else noun
    caption = clip.encode_text([CAPTIONS[1]])[0]
    expected = F.normalize(0.9 * noun + 0.1 * caption, dim=0)
    texts, _ = bench.make(unit_parts=unit_parts, singular=singular)
    torch.testing.assert_close(bench.entries(texts)[0]["text"][3].float(), expected, atol=1e-3, rtol=1e-3)
    assert len(TEMPLATES) == 7


@torch.inference_mode()
@pytest.mark.parametrize("convention", ["daam", "ovdiff"])
def test_captions_of_a_batch_are_attributed_to_their_own_nouns(
    sd_pipeline: StableDiffusionPipeline, convention: Any
) -> None:
    attribution = Attribution(convention, resolution=16)
    words = {"a red boat on the water": ["boat", "water"], "a cat": ["cat"], "two trees and a cat": ["trees"]}
    own = CaptionAttribution(attribution, words)
    together = Counted(sd_pipeline).generate(list(words), [1, 2, 3], [""] * own.width, own)
    assert together.maps is not None
    assert together.maps.shape == (3, 2, 16, 16)
    for row, (caption, nouns) in enumerate(words.items()):
        alone = Counted(sd_pipeline).generate([caption], [row + 1], nouns, attribution)
        assert torch.equal(together.images[row], alone.images[0])
        assert alone.maps is not None
        assert torch.equal(together.maps[row, : len(nouns)], alone.maps[0])


def test_a_noun_beyond_what_the_model_reads_is_left_out(bench: Bench, sd_pipeline: StableDiffusionPipeline) -> None:
    long = "a cat " + "and " * sd_pipeline.tokenizer.model_max_length + "a house"
    texts, _ = bench.make([long, "a house"])
    assert [(r.caption.id, r.noun.text) for r in bench.references(texts)] == [(1, "cat"), (2, "house")]


def test_shards_without_nouns_have_empty_entries(bench: Bench) -> None:
    texts, generated = bench.make(["nothing"] * 4 + ["a cat"])
    assert generated == ["a cat"]
    assert [len(entry["visual"]) for entry in bench.entries(texts)] == [0, 1]
    assert [len(entry["text"]) for entry in bench.entries(texts)] == [0, 1]


def test_an_image_depends_on_its_caption_alone(bench: Bench) -> None:
    """Not on its shard, nor on the captions before it, nor on what is kept."""
    rows = []
    for number, settings in enumerate(({"shard": 4}, {"shard": 3}, {"shard": 2, "keep_images": False})):
        bench.store = ArtifactStore(bench.folder / f"store {number}")
        texts, _ = bench.make(**settings)
        rows.append(torch.cat([entry["visual"] for entry in bench.entries(texts)]))
    assert torch.equal(rows[0], rows[1])
    assert torch.equal(rows[0], rows[2])
    assert len(rows[0].unique(dim=0)) == len(rows[0])


@torch.inference_mode()
def test_no_stage_draws_from_global_generators(bench: Bench) -> None:
    texts = bench.stages()
    for stage in (texts.references.image_stage, texts.references, texts):
        make_without_global_randomness(stage, bench.store)


def test_what_is_generated_again(bench: Bench) -> None:
    generated = len(bench.make()[1])
    assert generated == 5
    for change in (
        {},
        {"threshold": 0.5},
        {"centre": "midrange"},
        {"dino": another_dino()},
        {"word_weight": 0.8},
        {"unit_parts": False},
        {"templates": ("a {}",)},
        {"singular": True},
    ):
        assert bench.make(**change)[1] == [], change
    # The first shard of four is full: captions that are appended change the second alone.
    assert bench.make([*CAPTIONS, "a house", "a boat", "a tree"])[1] == [*CAPTIONS[4:], "a house", "a boat", "a tree"]
    assert len(bench.make(seed=1)[1]) == generated


def test_what_is_embedded_again(bench: Bench) -> None:
    def made(**settings: Any) -> list[int]:
        bench.make(**settings)
        return [sum(stage.computed_per_rank) for stage in bench.report]

    assert made() == [2, 2, 2]
    assert made() == [0, 0, 0]
    assert made(word_weight=0.8) == [0, 0, 2]
    assert made(dino=another_dino()) == [0, 2, 0]
    assert made(threshold=0.5) == [0, 2, 2]
    assert made(keep_images=False) == [0, 0]


@torch.inference_mode()
@pytest.mark.parametrize("keep", [True, False])
def test_a_reference_is_seen_again(bench: Bench, keep: bool) -> None:
    texts, _ = bench.make(keep_images=keep)
    reference = bench.references(texts)[-1]
    assert reference.noun.text == "grass"
    image, heat = texts.references.image_stage.regenerate(reference, 1, bench.store)
    kept, _ = bench.make()
    entry = bench.store.load(kept.references.image_stage.item(1).key)
    assert torch.equal(image, entry["images"][-1])
    assert torch.equal(heat, entry["maps"][-1])


@torch.inference_mode()
@pytest.mark.parametrize("centre", ["standardise", "midrange"])
def test_masks_of_generated_nouns_are_neither_empty_nor_full(sd_pipeline: StableDiffusionPipeline, centre: Any) -> None:
    words = {f"a photo of a {word} and a {other}": [word, other] for word, other in pairwise(WORDS)}
    own = CaptionAttribution(Attribution("daam"), words)
    maps = Counted(sd_pipeline, steps=4, batch_size=8).generate(list(words), range(len(words)), ["", ""], own).maps
    assert maps is not None
    # The letter of the paper: the sigmoid of what is never negative passes everywhere.
    assert (maps.sigmoid() > 0.45).all()
    shares = binary_maps(maps.flatten(0, 1), centre=centre).flatten(1).float().mean(dim=1)
    assert ((shares > 0.02) & (shares < 0.98)).all()
    assert not binary_maps(torch.ones(1, 8, 8), centre=centre).any()


def test_centring_is_a_choice() -> None:
    maps = torch.full((1, 10, 10), 0.1)
    maps[0, :5] = torch.linspace(0.1, 1, 50).reshape(5, 10)
    standardised = (maps[0] - maps.mean()) / maps.std() > torch.logit(torch.tensor(0.45))
    assert torch.equal(binary_maps(maps)[0], standardised)
    middle = (maps[0] - 0.1) / 0.9 * 2 - 1 > torch.logit(torch.tensor(0.45))
    assert torch.equal(binary_maps(maps, centre="midrange")[0], middle)
    # A small peak on even ground: standardising lets the ground pass.
    peak = torch.full((1, 20, 20), 0.1)
    peak[0, :2, :2] = 1
    assert binary_maps(peak).all()
    assert binary_maps(peak, centre="midrange").sum() == 4


def test_pooling_is_equation_4() -> None:
    torch.manual_seed(0)
    features = torch.randn(6, 5, 7)
    masks = torch.rand(3, 5, 7) > 0.5
    for vector, mask in zip(pool_regions(features, masks), masks, strict=True):
        torch.testing.assert_close(vector, features[:, mask].mean(dim=1))
    # Half of the second row's cells at twice the size: bilinear weights of 0.5 and 1.
    fine = torch.zeros(1, 10, 14, dtype=torch.bool)
    fine[0, 1:4] = True
    expected = (0.5 * features[:, 0].sum(dim=1) + features[:, 1].sum(dim=1)) / 10.5
    torch.testing.assert_close(pool_regions(features, fine)[0], expected)


def test_a_region_between_the_samples_is_pooled_by_area() -> None:
    features = torch.randn(6, 2, 2)
    mask = torch.zeros(1, 40, 40, dtype=torch.bool)
    mask[0, 0, 0] = True
    torch.testing.assert_close(pool_regions(features, mask)[0], features[:, 0, 0])


def test_an_item_tells_what_it_is_made_of(bench: Bench) -> None:
    item = bench.stages().references.item(1)
    assert item.title == "captions 5 to 6"
    assert {"captions", "generator", "attribution", "nouns", "seed", "threshold", "centre", "extractor"} < set(
        item.spec
    )


@pytest.mark.parametrize(
    ("settings", "word"),
    [
        ({"shard": 0}, "shard"),
        ({"seed": -1}, "seed"),
        ({"threshold": 1.0}, "threshold"),
        ({"centre": "mean"}, "centre"),
        ({"word_weight": 1.1}, "word_weight"),
        ({"templates": ()}, "templates"),
        ({"templates": ("a photo",)}, "templates"),
    ],
)
def test_bad_settings_are_named(settings: dict[str, Any], word: str) -> None:
    with pytest.raises(ConfigurationError, match=word):
        Collection(Captions("captions.txt"), RuleNouns(WORDS), **settings)


def test_two_ranks_share_the_captions_and_a_killed_run_goes_on(ranks: Ranks, tmp_path: Path) -> None:
    def command(store: str) -> list[str]:
        settings = {"generator.steps": 2, "collection.shard": 2, "collection.captions.limit": 24, "regions": "null"}
        given = [word for key, value in settings.items() for word in (f"--method.{key}", str(value))]
        return ["precompute", "--config", "configs/experiments/fossil_miniature.yaml", "--store", store, *given]

    def counts(out: str) -> dict[str, tuple[int, int]]:
        found = re.findall(r"^(.+): (\d+) cached, (\d+) computed", out, re.MULTILINE)
        return {name: (int(there), int(made)) for name, there, made in found}

    (alone,) = ranks.ovseg(1, *command(str(tmp_path / "alone")))
    assert alone.code == 0, alone.err
    assert set(counts(alone.out).values()) == {(0, 12)}

    store = ArtifactStore(tmp_path / "shared")
    two = ("--trainer.devices", "2", "--trainer.strategy", "ddp")
    started = ranks.start(ranks.command, 2, *command(str(store.root)), *two)
    until(lambda: len(store.all_keys()) >= 3)
    for process in started:
        process.kill()
    for process in started:
        process.join()
    there = len(store.all_keys())
    assert 3 <= there < 36
    outcomes = ranks.ovseg(2, *command(str(store.root)))
    assert [outcome.code for outcome in outcomes] == [0, 0], outcomes
    found = counts(outcomes[0].out)
    assert sum(kept for kept, _ in found.values()) == there
    assert all(kept + made == 12 for kept, made in found.values())
    banks = [re.findall(r"^bank: (\w+)", outcome.out, re.MULTILINE) for outcome in (alone, outcomes[0])]
    assert banks[0] == banks[1] != []
