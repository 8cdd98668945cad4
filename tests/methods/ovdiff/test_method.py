"""OVDiff's equations on hand-made prototypes, and the whole method on Miniature with a small support set."""

from pathlib import Path
from typing import ClassVar

import pytest
import torch
import torch.nn.functional as F

from harness import ConfigurationError, Protocol, Sample, Vocabulary
from harness.artifacts.precompute import precompute
from harness.artifacts.store import ArtifactStore
from methods import OVDiff
from methods.backbones import DenseFeatures, DiffusersTextToImage, HubViT, OpenCLIP, TextToImage
from methods.backbones.diffusion import GeneratedImages
from methods.ovdiff.category_filter import CategoryFilter
from methods.ovdiff.prototypes import LEVELS, masked_cells, prototypes, resize_mask
from methods.regions import FoundSeed, SalientObjects
from methods.support import Attribution
from tests.methods.doubles import Colours, make_without_global_randomness

PROTOCOL = Protocol("test", resize="none", window=None)
WORDS = Vocabulary(("background", "cat", "sky"), background=True, stuff=frozenset({"sky"}))


class ColourGenerator(TextToImage):
    """Generates the class's colour on the left of its background's, and says so; counts what it is asked for."""

    COLOURS: ClassVar = {
        "cat": ((255, 0, 0), (0, 0, 255)),
        "sky": ((0, 0, 255), (0, 255, 0)),
        "sun": ((255, 255, 0), (0, 0, 0)),
    }

    def __init__(self) -> None:
        super().__init__()
        self.asked: list[tuple[str, int]] = []
        self.level = torch.nn.Parameter(torch.tensor(1.0))

    def generate(self, prompts, seeds, words=(), attribution=None):  # type: ignore[no-untyped-def]
        images = torch.zeros(len(prompts), 3, 8, 8, dtype=torch.uint8)
        maps = torch.zeros(len(prompts), 1, 8, 8)
        for n, (prompt, seed) in enumerate(zip(prompts, seeds, strict=True)):
            word = prompt.removeprefix("A good picture of a ")
            self.asked.append((word, seed))
            for side, colour in zip((slice(0, 4), slice(4, 8)), self.COLOURS[word], strict=True):
                images[n, :, :, side] = torch.tensor(colour, dtype=torch.uint8)[:, None, None]
            maps[n, 0, :, :4] = 1 + 0.01 * n
            maps[n, 0, :, 4] = 0.5
        return GeneratedImages(images, maps)


def made(store: Path, words: Vocabulary = WORDS, **settings: object) -> OVDiff:
    settings = {"support_size": 2, "num_parts": 2, "extra_windows": (), **settings}
    method = OVDiff(ColourGenerator(), {"colour": Colours()}, **settings)
    method.bind(words, PROTOCOL)
    method.load()
    with torch.inference_mode():
        precompute(method, ArtifactStore(store))
        method.prepare()
    return method


def stripes(*colours: tuple[int, int, int]) -> Sample:
    image = torch.cat([torch.tensor(c, dtype=torch.uint8)[:, None, None].expand(3, 6, 4) for c in colours], dim=2)
    return Sample(0, "x", image, image, None, (6, 4 * len(colours)))


def columns(labels: torch.Tensor) -> list[int]:
    return labels[3, 1::4].tolist()


def test_prototypes_are_equations_2_and_3() -> None:
    torch.manual_seed(0)
    features = torch.randn(3, 5, 4, 4)
    masks = torch.zeros(3, 4, 4, dtype=torch.bool)
    masks[0, :2], masks[2, :, :3] = True, True
    cells = [c for n in range(3) if (c := masked_cells(n, features[n], masks[n])) is not None]
    assert [c.image for c in cells] == [0, 2]
    made = prototypes(cells, 3, parts=2)
    instances = torch.stack([features[n][:, masks[n]].mean(dim=1) for n in (0, 2)])
    sizes = masks.flatten(1).sum(dim=1)[[0, 2], None]
    torch.testing.assert_close(made["vectors"][0], (instances * sizes).sum(dim=0) / sizes.sum())
    torch.testing.assert_close(made["vectors"][1:3], instances)
    assert [LEVELS[level] for level in made["level"]] == ["class", "instance", "instance", "part", "part"]
    assert made["image"].tolist() == [-1, 0, 2, -1, -1]
    for index in (3, 4):
        own = torch.cat([features[n][:, made["parts"][n] == index].T for n in range(3)])
        torch.testing.assert_close(made["vectors"][index], own.mean(dim=0), atol=1e-4, rtol=1e-4)
    assert torch.equal(made["parts"] >= 3, masks)


def test_no_mask_at_all_gives_no_prototypes_and_fewer_cells_fewer_parts() -> None:
    assert len(prototypes([], 4, parts=8)["vectors"]) == 0
    one = masked_cells(0, torch.randn(5, 4, 4), torch.eye(4, dtype=torch.bool))
    assert one is not None
    assert len(prototypes([one], 1, parts=32)["vectors"]) == 1 + 1 + 4


def test_masks_dilate_or_keep_halves_on_a_coarser_grid() -> None:
    mask = torch.zeros(1, 8, 8, dtype=torch.bool)
    mask[0, :4, :3] = True
    assert resize_mask(mask, (4, 4), "any")[0].sum() == 4
    assert resize_mask(mask, (4, 4), "half")[0].sum() == 4
    mask[0, :, :3] = True
    assert resize_mask(mask, (2, 2), "any")[0, :, 0].all()


@torch.inference_mode()
def test_pixels_go_to_the_class_of_their_nearest_prototype(tmp_path: Path) -> None:
    # Red is the cat's foreground; blue the sky's, and no longer the cat's background; green the sky's background only.
    method = made(tmp_path, stuff_similarity_threshold=None)
    assert columns(method.predict_image(stripes((255, 0, 0), (0, 255, 0)))) == [1, 0]
    filtered = made(tmp_path, stuff_similarity_threshold=0.85)
    assert columns(filtered.predict_image(stripes((255, 0, 0), (0, 0, 255)))) == [1, 2]
    # Both of the sky's and the cat's negatives are gone: a stuff class has none, and the cat's were sky.
    assert [len(each) for each in filtered._prototypes["colour"]["background"]] == [0, 0]


@torch.inference_mode()
def test_threshold_takes_the_place_of_background_prototypes(tmp_path: Path) -> None:
    method = made(tmp_path, background="threshold", background_threshold=0.9)
    assert columns(method.predict_image(stripes((255, 0, 0), (255, 255, 0)))) == [1, 0]
    method = made(tmp_path, background="threshold", background_threshold=-1.0)
    assert columns(method.predict_image(stripes((255, 0, 0), (255, 255, 0)))) == [1, 1]


def test_what_is_generated_again(tmp_path: Path) -> None:
    def asked(**settings: object) -> list[str]:
        return [word for word, _ in made(tmp_path, **settings).generator.asked]

    assert sorted(set(asked())) == ["cat", "sky"]
    nothing_new = [
        {"num_parts": 1},
        {"levels": ("class",)},
        {"stuff_similarity_threshold": None},
        {"background": "threshold"},
        {"mask_resize": "half"},
        {"words_order": True},
    ]
    for change in nothing_new:
        if change.pop("words_order", False):
            change = {"words": Vocabulary(("background", "sky", "cat"), background=True)}
        assert asked(**change) == []
    more = Vocabulary(("background", "cat", "sun", "sky"), background=True)
    assert set(asked(words=more)) == {"sun"}
    assert set(asked(seed=1)) == {"cat", "sky"}
    # N in {1, 2, 4} out of one support set of 4.
    assert set(asked(num_generated=4)) == {"cat", "sky"}
    for size in (1, 2, 4):
        assert asked(num_generated=4, support_size=size) == []


def test_images_have_seeds_of_their_own(tmp_path: Path) -> None:
    seeds = [seed for word, seed in made(tmp_path, seed=7, support_size=3).generator.asked if word == "cat"]
    assert seeds == [700000, 700001, 700002]


@torch.inference_mode()
def test_evidence_names_the_support_region_that_decided(tmp_path: Path) -> None:
    method = made(tmp_path, stuff_similarity_threshold=None)
    method.store = ArtifactStore(tmp_path)
    sample = stripes((255, 0, 0), (0, 255, 0))
    evidence = method.explain(sample, method.predict_image(sample))
    by_label = {each.label: each for each in evidence}
    assert set(by_label) == {0, 1}
    assert by_label[1].region[:, :4].all()
    assert not by_label[1].region[:, 4:].any()
    assert (by_label[1].image[by_label[1].region] == (255, 0, 0)).all()
    assert (by_label[0].image[by_label[0].region] == (0, 255, 0)).all()


@torch.inference_mode()
def test_category_filter_is_the_best_multi_label_prompt() -> None:
    clip = OpenCLIP("local-dir:miniature/weights/clip")
    clip.load()
    names = ("cat", "tree", "boat", "sun")
    image = torch.randint(0, 256, (3, 40, 40), generator=torch.Generator().manual_seed(3), dtype=torch.uint8)
    embedded = clip.encode_images(image[None])[0]
    shares = (20 * clip.encode_text([f"a {name}" for name in names]) @ embedded).softmax(dim=0)
    likely = [n for n in range(4) if shares[n] >= 0.25]
    subsets = [[n for i, n in enumerate(likely) if bits >> i & 1] for bits in range(1, 2 ** len(likely))]
    scores = [
        (clip.encode_text([" and ".join(f"a {names[n]}" for n in subset)])[0] @ embedded).item() for subset in subsets
    ]
    expected = subsets[max(range(len(subsets)), key=scores.__getitem__)]
    assert CategoryFilter(clip, names, scale=20.0)(embedded) == expected
    assert len(CategoryFilter(clip, names, max_categories=1, scale=20.0)(embedded)) == 1


@pytest.mark.parametrize(
    ("settings", "word"),
    [
        ({"extractors": {}}, "extractors"),
        ({"support_size": 0}, "support_size"),
        ({"num_generated": 1, "support_size": 2}, "num_generated"),
        ({"prompt": "a picture"}, "prompt"),
        ({"levels": ()}, "levels"),
        ({"max_categories": 40}, "max_categories"),
    ],
)
def test_bad_settings_are_named(settings: dict[str, object], word: str) -> None:
    with pytest.raises(ConfigurationError, match=word):
        OVDiff(**{"generator": ColourGenerator(), "extractors": {"colour": Colours()}, **settings})


@torch.inference_mode()
def test_miniature_models_segment_a_scene_from_generated_support(tmp_path: Path) -> None:
    generator = DiffusersTextToImage("./miniature/weights/diffusion", steps=4, guidance=3.0)
    extractors = {"dino": DenseFeatures(HubViT("./miniature/weights/dino"))}
    method = OVDiff(generator, extractors, Attribution(), support_size=2, num_parts=2, extra_windows=())
    method.bind(Vocabulary(("background", "cat", "boat"), background=True), PROTOCOL)
    method.load()
    precompute(method, ArtifactStore(tmp_path))
    method.prepare()
    labels = method.predict_image(stripes((255, 0, 0), (0, 255, 0), (0, 0, 255), (9, 9, 9)))
    assert labels.shape == (6, 16)
    bank = method.precomputed.bank
    again = precompute(method, ArtifactStore(tmp_path))
    assert again.stages[0].computed_per_rank == (0,)
    assert bank is None or again.bank == bank


def test_features_of_clip_patches_are_the_models_own() -> None:
    from methods.backbones import OpenCLIPDense

    backbone = OpenCLIPDense(OpenCLIP("local-dir:miniature/weights/clip"))
    backbone.load()
    images = torch.randint(0, 256, (2, 3, 32, 32), dtype=torch.uint8)
    with torch.inference_mode():
        seen = {}
        block = backbone.visual.transformer.resblocks[-2]
        hook = block.ln_1.register_forward_hook(lambda module, inputs, output: seen.update(x=output))
        keys = backbone.features(images, "key", layer=-2).patches
        hook.remove()
        weight, bias = block.attn.in_proj_weight.chunk(3)[1], block.attn.in_proj_bias.chunk(3)[1]
        expected = F.linear(seen["x"], weight, bias)[:, 1:]
    torch.testing.assert_close(keys.flatten(2).transpose(1, 2), expected)


@torch.inference_mode()
def test_no_stage_draws_from_global_generators(tmp_path: Path) -> None:
    vit = HubViT("./miniature/weights/dino")
    method = OVDiff(
        DiffusersTextToImage("./miniature/weights/diffusion", steps=2, scheduler="EulerAncestralDiscreteScheduler"),
        {"dino": DenseFeatures(vit)},
        segmenter=SalientObjects(FoundSeed(vit)),
        support_size=2,
        num_parts=2,
    )
    method.make_ready(Vocabulary(("cat", "tree")), PROTOCOL)
    store = ArtifactStore(tmp_path)
    for stage in method.stages():
        make_without_global_randomness(stage, store)
