"""FOSSIL's equations on prototypes made by hand, and the whole method on Miniature's models."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from diffusers import StableDiffusionPipeline

from harness import ArtifactStore, ConfigurationError, OvsegError, Protocol, Sample, Vocabulary
from harness.artifacts.precompute import precompute
from harness.commands.evaluate import parser
from harness.method.windows import Box
from harness.studies.readers import read_paper, select
from harness.studies.study import arguments_of
from methods.backbones import DenseFeatures, DiffusersTextToImage, HubViT, OpenCLIP
from methods.fossil.captions import Captions
from methods.fossil.clustering import KMeans
from methods.fossil.collection import Collection
from methods.fossil.method import FOSSIL, cover, mean_and_maximum, mix
from methods.fossil.pooling import pool_regions
from methods.fossil.retrieval import Retrieval
from methods.fossil.search import FlatIndex, HNSWIndex
from methods.regions.base import Regions
from methods.support import Attribution
from methods.support.nouns import RuleNouns
from tests.methods.doubles import Colours, window_scores

PROTOCOL = Protocol("test", resize="none", window=None)
WORDS = Vocabulary(("cat", "boat", "grass"))
CAPTIONS = ("a red boat on the water", "a cat on the grass", "two cats", "a boat", "the grass", "a cat and a boat")


class Bright(Regions):
    """Two regions: what is bright in the left and in the right half; counts how often it is asked."""

    asked = 0

    def masks(self, image: torch.Tensor) -> torch.Tensor:
        self.asked += 1
        bright = image.float().mean(dim=0) > 100
        left = torch.arange(image.shape[2]) < image.shape[2] // 2
        found = torch.stack([bright & left, bright & ~left])
        return found[found.flatten(1).any(dim=1)]


class Counted(DiffusersTextToImage):
    """Miniature's Stable Diffusion at two steps; notes what it is asked for."""

    not_identity = DiffusersTextToImage.not_identity | {"pipeline"}

    def __init__(self, pipeline: StableDiffusionPipeline) -> None:
        super().__init__(steps=2, guidance=1.0)
        self.given = pipeline
        self.asked: list[str] = []

    def build(self) -> None:
        self.adopt(self.given)

    def generate(self, prompts: Sequence[str], *given: Any) -> Any:
        self.asked += prompts
        return super().generate(prompts, *given)


class Bench:
    """FOSSIL over one store, and how often its models and the index were asked."""

    def __init__(self, folder: Path, sd_pipeline: Any, monkeypatch: pytest.MonkeyPatch) -> None:
        self.folder, self.sd_pipeline = folder, sd_pipeline
        self.store = ArtifactStore(folder / "store")
        self.searches: list[int] = []
        search = FlatIndex.search

        def counted(index: Any, vectors: Any, queries: Any, count: int) -> Any:
            self.searches.append(len(queries))
            return search(index, vectors, queries, count)

        monkeypatch.setattr(FlatIndex, "search", counted)

    def build(self, captions: Sequence[str] = CAPTIONS, words: Vocabulary = WORDS, **settings: Any) -> FOSSIL:
        (self.folder / "captions.txt").write_text("".join(f"{caption}\n" for caption in captions))
        nouns = RuleNouns(["cat", "boat", "grass", "water", "sun"])
        collection = Collection(Captions(self.folder / "captions.txt"), nouns, shard=4)
        extractor = settings.pop("extractor", None) or DenseFeatures(HubViT("./miniature/weights/dino"), size=48)
        given = {
            "attribution": Attribution("daam", resolution=16),
            "num_references": 4,
            "num_prototypes": 2,
            **settings,
        }
        method = FOSSIL(
            Counted(self.sd_pipeline), extractor, OpenCLIP("local-dir:miniature/weights/clip"), collection, **given
        )
        method.bind(words, PROTOCOL)
        method.load()
        return method

    @torch.inference_mode()
    def make(self, **settings: Any) -> FOSSIL:
        method = self.build(**settings)
        self.searches.clear()
        method.store = self.store
        method.precomputed = precompute(method, self.store)
        method.prepare()
        return method


@pytest.fixture
def bench(tmp_path: Path, sd_pipeline: StableDiffusionPipeline, monkeypatch: pytest.MonkeyPatch) -> Bench:
    return Bench(tmp_path, sd_pipeline, monkeypatch)


def matching(prototypes: dict[str, list[tuple[float, ...]]], /, **settings: Any) -> FOSSIL:
    """FOSSIL on colours, with the prototypes of every class."""
    vocabulary = settings.pop("vocabulary", Vocabulary(tuple(prototypes)))
    collection = Collection(Captions("none.txt"), RuleNouns(["cat"]))
    method = FOSSIL(DiffusersTextToImage(), Colours(), OpenCLIP(), collection, **{"score_stride": 1, **settings})
    method.bind(vocabulary, settings.get("protocol", PROTOCOL))
    vectors = [torch.tensor(each) - 127.5 for each in prototypes.values()]
    most = max(map(len, vectors))
    padded = torch.stack([F.pad(each, (0, 0, 0, most - len(each))) for each in vectors])
    count = torch.tensor([len(each) for each in vectors])
    method.adopt({"prototypes": padded, "count": count, "centroid": torch.zeros(len(vectors), 1, dtype=torch.int64)})
    return method


RED, GREEN, BLUE = (255.0, 0.0, 0.0), (0.0, 255.0, 0.0), (0.0, 0.0, 255.0)


def striped(*columns: tuple[float, float, float]) -> Sample:
    pixels = torch.tensor(columns).T[:, None].expand(3, 6, -1).to(torch.uint8)
    image = pixels.repeat_interleave(4, dim=2)
    return Sample(0, "x", image, image, None, (6, 4 * len(columns)))


@pytest.mark.parametrize("sigmoid", ["each", "mixed"])
def test_similarity_is_equation_5(sigmoid: Any) -> None:
    torch.manual_seed(0)
    cosines = torch.rand(3, 4, 5) * 2 - 1
    count = torch.tensor([4, 2, 1])
    found = mix(*mean_and_maximum(cosines, count, torch.eye(5), sigmoid), 0.7, sigmoid)
    for concept, held in enumerate(count.tolist()):
        for region in range(5):
            s = cosines[concept, :held, region].double()
            if sigmoid == "each":
                s = 1 / (1 + torch.exp(-s))
            mixed = 0.3 * s.sum() / held + 0.7 * s.max()
            expected = mixed if sigmoid == "each" else 1 / (1 + torch.exp(-mixed))
            torch.testing.assert_close(found[concept, region].double(), expected, atol=1e-6, rtol=1e-6)


def test_similarity_takes_cosines_and_concepts_in_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    vectors = {name: [tuple(row) for row in (torch.rand(2, 3) * 255).tolist()] for name in "abcde"}
    method = matching(vectors, gamma=0.25)
    regions = torch.randn(7, 3)
    whole = method.similarity(regions)
    for number, rows in enumerate(vectors.values()):
        s = F.cosine_similarity(regions[:, None], torch.tensor(rows) - 127.5, dim=2).sigmoid()
        torch.testing.assert_close(whole[number], 0.75 * s.mean(dim=1) + 0.25 * s.amax(dim=1))
    monkeypatch.setattr("harness.method.windows.PLANE_BUDGET", 30)
    torch.testing.assert_close(method.similarity(regions), whole)


@torch.inference_mode()
def test_the_mean_and_the_maximum_decide_differently() -> None:
    # "one" has a perfect and a bad prototype, "both" two fair ones.
    prototypes = {"one": [RED, (0.0, 255.0, 255.0)], "both": [(255.0, 90.0, 0.0), (255.0, 0.0, 90.0)]}
    sample = striped(RED)
    assert matching(prototypes, gamma=1.0).predict_image(sample).unique().tolist() == [0]
    assert matching(prototypes, gamma=0.0).predict_image(sample).unique().tolist() == [1]


@torch.inference_mode()
def test_a_region_has_one_label_and_what_no_region_covers_its_patches() -> None:
    # Bright columns 0 and 1 are one region, of mean colour nearest to red; dark blue columns are in no region.
    dark = (0.0, 0.0, 120.0)
    sample = striped((255, 100, 0), (190, 255, 0), dark, (0, 60, 0))
    prototypes = {
        "red": [(255.0, 170.0, 0.0)],
        "blue": [dark],
        "green": [(190.0, 255.0, 0.0)],
        "dark": [(0.0, 60.0, 0.0)],
    }
    with_regions = matching(prototypes, regions=Bright()).predict_image(sample)
    without = matching(prototypes).predict_image(sample)
    assert with_regions[3, 1::4].tolist() == [0, 0, 1, 3]
    assert without[3, 1::4].tolist() == [0, 2, 1, 3]
    assert (with_regions == with_regions[0]).all()


def test_a_pixel_shows_the_first_region_that_covers_it_or_its_patch() -> None:
    masks = torch.zeros(2, 8, 8, dtype=torch.bool)
    masks[0, :4, :4], masks[1, 2:6, 2:6] = True, True
    shown = cover(masks, (8, 8), (2, 2))
    assert shown[:4, :4].unique().tolist() == [0]
    assert shown[4:6, 2:6].unique().tolist() == [1]
    # The four patches come after the two regions.
    assert shown[0].tolist() == [0] * 4 + [3] * 4
    assert shown[7].tolist() == [4] * 4 + [5] * 4
    assert cover(masks, (4, 4), (2, 2)).tolist() == [[0, 0, 3, 3], [0, 0, 1, 3], [4, 1, 1, 5], [4, 4, 5, 5]]
    assert cover(masks[:0], (2, 4), (1, 2)).tolist() == [[0, 0, 1, 1]] * 2


class Nothing(Bright):
    def masks(self, image: torch.Tensor) -> torch.Tensor:
        return super().masks(image)[:0]


class Coarse(Colours):
    """A patch is four pixels wide."""

    def features(self, images: torch.Tensor) -> torch.Tensor:
        return super().features(images)[..., ::4]


@torch.inference_mode()
def test_where_no_region_lies_a_pixel_takes_its_patch_or_what_is_interpolated_between_patches() -> None:
    # Halfway from red to blue the third class has the highest score.
    sample = striped(RED, BLUE, RED)
    prototypes = {"red": [RED], "blue": [BLUE], "between": [(127.5, 0.0, 127.5)]}

    def row(**settings: Any) -> list[int]:
        method = matching(prototypes, **settings)
        method.extractor = Coarse()
        labels = method.predict_image(sample)
        assert (labels == labels[0]).all()
        return labels[0].tolist()

    by_patch = row(regions=Nothing())
    assert by_patch == [0] * 4 + [1] * 4 + [0] * 4
    interpolated = row(regions=Nothing(), uncovered="interpolated")
    assert interpolated == row()
    assert interpolated[3:5] == [2, 2]


@torch.inference_mode()
def test_regions_of_the_whole_image_are_cut_at_the_windows() -> None:
    sample = striped(RED, (255, 255, 0), (255, 0, 255), BLUE)
    regions = Bright()
    method = matching({"red": [RED], "blue": [BLUE]}, regions=regions, regions_on="image")
    context = method.encode_image(sample)
    assert context is not None
    assert regions.asked == 1
    masks = method._masks(sample.image, Box(0, 4, 6, 12), context)
    assert torch.equal(masks, context[:, :, 4:12])
    padded = method._masks(sample.image, Box(0, 8, 10, 20), context)
    assert padded.shape == (1, 10, 12)
    assert torch.equal(padded[0, :6, :8], context[1, :, 8:])
    assert not padded[0, 6:].any()
    assert method.predict_image(sample).shape == (6, 16)
    assert regions.asked == 2


@torch.inference_mode()
def test_a_background_scores_a_constant() -> None:
    words = Vocabulary(("background", "red"), background=True)
    with pytest.raises(ConfigurationError, match="background_threshold"):
        matching({"red": [RED]}, vocabulary=words)
    sample = striped(RED, GREEN, (255, 60, 0))
    found = matching({"red": [RED]}, vocabulary=words, background_threshold=0.7).predict_image(sample)
    assert found[3, 1::4].tolist() == [1, 0, 1]


@torch.inference_mode()
def test_a_mask_is_pooled_on_the_features_grid_whatever_the_stride(bench: Bench) -> None:
    for stride in (1, 3, 4):
        method = matching({"red": [RED], "blue": [BLUE]}, regions=Bright(), score_stride=stride)
        window = striped(RED, BLUE, (255, 200, 200)).image
        features, masks = method.extractor.features(window[None]), Bright().masks(window)
        (scores,) = window_scores(method, window[None], [Box(0, 0, 6, 12)])
        assert scores.scores.shape == (1, 2, -(-6 // stride), -(-12 // stride))
        own = method.similarity(pool_regions(features[0], masks))
        torch.testing.assert_close(scores.scores[0, :, -1, -1], own[:, -1])


def test_nothing_after_feature_extraction_paints_or_extracts_again(bench: Bench) -> None:
    first = bench.make()
    assert first.generator.asked == list(CAPTIONS)  # type: ignore[union-attr]
    assert bench.searches == [3]
    extracted: list[int] = []
    for change, searched in (
        ({}, []),
        ({"gamma": 0.9}, []),
        ({"num_prototypes": 3}, []),
        ({"sigmoid": "mixed"}, []),
        ({"clustering": KMeans(seed=1)}, []),
        ({"regions": Bright()}, []),
        ({"num_references": 3}, [3]),
        ({"words": Vocabulary(("grass", "boat", "cat"))}, []),
        ({"words": Vocabulary(("grass", "sun", "boat", "water"))}, [2]),
        ({"index": HNSWIndex()}, []),
    ):
        method = bench.make(**change)
        assert method.generator.asked == [], change  # type: ignore[union-attr]
        assert bench.searches == searched, change
        extracted += [sum(stage.computed_per_rank) for stage in method.precomputed.stages]
    assert extracted == [0] * len(extracted)
    # A caption more is one caption more, and a search for all classes.
    assert bench.make(captions=[*CAPTIONS, "the sun"]).generator.asked == [*CAPTIONS[4:], "the sun"]  # type: ignore[union-attr]
    assert bench.searches == [3]


def test_prototypes_are_centroids_of_the_nearest_references(bench: Bench) -> None:
    method = bench.make(num_references=3, num_prototypes=2)
    texts = method._texts
    entries = [bench.store.load(item.key)["text"].float() for item in texts.items()]
    visual = torch.cat([bench.store.load(item.key)["visual"].float() for item in texts.references.items()])
    query = method.clip.encode_classes(["boat"], method.collection.templates)[0]
    nearest = (torch.cat(entries) @ query).topk(3)
    found = Retrieval(texts, method.clip, method.index, 3).read("boat", bench.store)
    torch.testing.assert_close(found.similarities, nearest.values, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(found.visual, visual[nearest.indices])
    assert {reference.noun.lemma for reference in found.references} == {"boat"}
    bank = method.assemble(bench.store)
    centroids, own = KMeans()(found.visual, 2)
    torch.testing.assert_close(bank["prototypes"][1], centroids)
    assert torch.equal(bank["centroid"][1], own)
    assert bank["count"].tolist() == [2, 2, 2]


def test_fewer_references_than_asked_for_are_all_taken(bench: Bench) -> None:
    bank = bench.make(num_references=100, num_prototypes=50).assemble(bench.store)
    everything = 9
    assert bank["count"].tolist() == [everything] * 3
    assert bank["prototypes"].shape == (3, everything, 128)


def test_the_bank_is_the_same_twice(bench: Bench, tmp_path: Path) -> None:
    first = bench.make().precomputed.bank
    bench.store = ArtifactStore(tmp_path / "again")
    assert bench.make().precomputed.bank == first is not None


def test_captions_without_nouns_are_an_error(bench: Bench) -> None:
    with pytest.raises(OvsegError, match="collection is empty"):
        bench.make(captions=["nothing to be seen"])


@torch.inference_mode()
@pytest.mark.parametrize("regions", [None, Bright()])
def test_an_image_is_segmented_and_explained_by_captions(bench: Bench, regions: Any) -> None:
    method = bench.make(regions=regions)
    sample = striped(RED, GREEN, BLUE, (200, 200, 200))
    labels = method.predict_image(sample)
    assert labels.shape == (6, 16)
    evidence = method.explain(sample, labels)
    assert {each.label for each in evidence} == set(labels.unique().tolist())
    for each in evidence:
        assert any(f'"{caption}"' in each.title for caption in CAPTIONS)
        assert each.image.shape == (64, 64, 3)
        assert each.region.shape == (64, 64)
        assert 0 < each.region.mean() < 1


@pytest.mark.parametrize(
    ("settings", "word"),
    [
        ({"num_references": 0}, "references"),
        ({"num_prototypes": 0}, "prototypes"),
        ({"gamma": 1.2}, "gamma"),
        ({"score_stride": 0}, "score_stride"),
        ({"sigmoid": "none"}, "sigmoid"),
        ({"regions_on": "picture"}, "regions_on"),
        ({"uncovered": "nothing"}, "uncovered"),
    ],
)
def test_bad_settings_are_named(settings: dict[str, Any], word: str) -> None:
    with pytest.raises(ConfigurationError, match=word):
        matching({"red": [RED]}, **settings)


@pytest.mark.parametrize(
    ("name", "numbers"),
    [
        ("context59", (70, 10, 0.7)),
        ("coco_stuff", (95, 25, 0.5)),
        ("ade20k", (150, 10, 0.5)),
        ("cityscapes", (95, 30, 0.55)),
    ],
)
def test_table_3_is_a_column_each(name: str, numbers: tuple[int, int, float]) -> None:
    built = parser()
    (cell,) = select("fossil", f"table1/fossil/{name}", read_paper(Path("configs/papers/fossil.yaml")))
    own = arguments_of(cell.column.overrides | {"data": "configs/data/miniature.yaml"})
    parsed = built.parse_args(["--config", "configs/experiments/fossil_miniature.yaml", *own])
    method = built.instantiate(parsed).method
    assert (method.num_references, method.num_prototypes, method.gamma) == numbers


@pytest.mark.crf
@pytest.mark.parametrize("extractor", ["dinov2_vitl14", "dinov3_vitl16", "dino_vitb8_tokens", "mae_vitl16_tokens"])
def test_the_papers_configuration_and_table_2_are_configurations(extractor: str) -> None:
    built = parser()
    fixed = ["--protocol", "configs/protocols/tcl.yaml", "--data", "configs/data/miniature.yaml"]
    own = ["--method", "configs/methods/fossil.yaml", "--method.extractor", f"configs/models/{extractor}.yaml"]
    method = built.instantiate(built.parse_args([*fixed, *own])).method
    assert method.extractor.size == (518 if extractor == "dinov2_vitl14" else 512)
    assert (method.regions.size, method.regions.stages, method.regions.crf.iterations) == (480, 3, 10)
    assert (method.regions.min_area, method.regions.merge_iou, method.regions.max_overlap) == (16, 0.8, 0.7)
    assert (method.generator.steps, method.collection.threshold, method.collection.word_weight) == (50, 0.45, 0.9)
