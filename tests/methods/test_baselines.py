"""What all baselines keep: CLIP as is, MaskCLIP, GroupViT and CLIPSeg; and their configurations."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from harness import ConfigurationError, SegmentationMethod, Vocabulary
from harness.commands import evaluate
from harness.studies.readers import read_paper
from harness.studies.study import Cell, Published
from methods import CLIPDense, CLIPSeg, GroupViT, MaskCLIP
from methods.backbones import OpenCLIP
from methods.backbones.clip_patches import CLIPPatches
from methods.backbones.hub_clip_seg import HubCLIPSeg
from methods.backbones.hub_group_vit import HubGroupViT
from tests.methods.baselines import CLIP, CLOSED, WORDS, patches, random_images, ready, sample
from tests.methods.doubles import window_scores
from tests.running import REPOSITORY

SIZES = ((1, 9), (9, 1), (1, 1), (3, 60), (64, 64), (70, 100))

# All of them.


@pytest.fixture(params=["clip_dense", "maskclip", "group_vit", "clip_seg"])
def make(request: pytest.FixtureRequest, group_vit: Path, clip_seg: Path) -> Callable[[], SegmentationMethod]:
    return {
        "clip_dense": lambda: CLIPDense(patches(), background_threshold=0.3),
        "maskclip": lambda: MaskCLIP(patches(), background_threshold=0.1),
        "group_vit": lambda: GroupViT(HubGroupViT(str(group_vit)), background_threshold=0.3),
        "clip_seg": lambda: CLIPSeg(HubCLIPSeg(str(clip_seg), size=32), background_threshold=0.5),
    }[request.param]


@torch.inference_mode()
def test_images_of_any_size_and_vocabularies_of_any_length(make: Callable[[], SegmentationMethod]) -> None:
    for words in (WORDS, CLOSED, Vocabulary(("cat",)), Vocabulary.from_class_names("cat")):
        method = ready(make(), words)
        for height, width in SIZES:
            found = method.predict_step([sample(height, width)], 0)[0].labels
            assert found is not None
            assert found.shape == (height, width)
            assert found.dtype == torch.uint8
            assert found.max() < len(words)


@torch.inference_mode()
def test_a_window_does_not_depend_on_its_batch(make: Callable[[], SegmentationMethod]) -> None:
    method = ready(make())
    windows = random_images(3)
    together = window_scores(method, windows)[0].scores
    for number in range(3):
        alone = window_scores(method, windows[number : number + 1])[0].scores
        torch.testing.assert_close(together[number : number + 1], alone, atol=1e-5, rtol=1e-4)


def test_weights_are_told_by_one_hash_per_model(make: Callable[[], SegmentationMethod]) -> None:
    assert list(ready(make()).weights()) in (["clip"], ["model"])


@pytest.mark.parametrize(
    ("build", "word"),
    [
        (lambda: CLIPDense(patches(), temperature=0), "temperature"),
        (lambda: CLIPDense(patches(), templates=["no name"]), "templates"),
        (lambda: CLIPPatches(OpenCLIP(CLIP), size=0), "size"),
        (lambda: MaskCLIP(patches(), prompt_denoising=1.5), "prompt_denoising"),
        (lambda: GroupViT(HubGroupViT(), background_threshold=2), "background_threshold"),
        (lambda: GroupViT(HubGroupViT(), top_classes=0), "top_classes"),
        (lambda: CLIPSeg(HubCLIPSeg(), score_stride=0), "score_stride"),
        (lambda: HubCLIPSeg(class_batch=0), "class_batch"),
        (lambda: HubGroupViT(text_batch=0), "text_batch"),
    ],
)
def test_bad_settings_are_named(build: Callable[[], Any], word: str) -> None:
    with pytest.raises(ConfigurationError, match=word):
        build()


# Their configurations.

CELLS = read_paper(REPOSITORY / "configs" / "papers" / "baselines.yaml")
BENCHMARKS = {"voc21", "context60", "coco_object_tcl", "context59", "coco_stuff", "ade20k", "cityscapes"}


def names_of(cell: Cell) -> tuple[str, str]:
    """The baseline and the benchmark."""
    _, row, column = cell.name.split("/")
    return row, column


def published(cell: Cell) -> Published:
    assert cell.published is not None
    return cell.published


def test_every_baseline_has_a_row_for_every_benchmark() -> None:
    running = [cell for cell in CELLS if not cell.quoted]
    methods = ("clip_dense", "maskclip", "group_vit", "clip_seg")
    assert sorted(map(names_of, running)) == sorted((name, data) for name in methods for data in BENCHMARKS)
    for cell in running:
        name, data = names_of(cell)
        assert published(cell).paper == "baselines"
        assert (published(cell).value is None) == published(cell).table.startswith("in none")
        files = {key: Path(cell.overrides[key]).stem for key in ("protocol", "method", "data")}
        assert files == {"protocol": "tcl", "method": name, "data": data}


def test_rows_parse_and_name_the_published_models() -> None:
    parser = evaluate.parser()
    chosen = [cell for cell in CELLS if not cell.quoted and names_of(cell)[1] in ("voc21", "ade20k")]
    named = {"_".join(names_of(cell)): parser.parse_args(cell.arguments).method.init_args for cell in chosen}
    assert named["group_vit_voc21"].model.init_args.name == "nvidia/groupvit-gcc-yfcc"
    assert named["group_vit_ade20k"].model.init_args.name == "nvidia/groupvit-gcc-redcaps"
    assert named["clip_seg_ade20k"].model.init_args.name == "CIDAS/clipseg-rd64-refined"
    for name in ("clip_dense", "maskclip"):
        assert named[f"{name}_voc21"].clip.init_args.clip.init_args.pretrained == "openai"
        assert (named[f"{name}_voc21"].temperature, named[f"{name}_ade20k"].temperature) == (0.01, None)


def test_reco_is_given_as_published_for_every_benchmark() -> None:
    quoted = {names_of(cell)[1]: published(cell) for cell in CELLS if cell.quoted}
    assert set(quoted) == BENCHMARKS
    assert all(each.row == "ReCo" and each.value is not None for each in quoted.values())
