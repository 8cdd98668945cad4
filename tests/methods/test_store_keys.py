"""A key holds everything that determines the value: two parts that differ in one thing alone have different keys."""

import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from harness.method.part import Part
from methods.backbones import DenseFeatures, DiffusionFeatures, HubCaptioner, HubViT, OpenCLIP, OpenCLIPDense
from methods.backbones.diffusion import DiffusersTextToImage
from methods.fossil.captions import Captions
from methods.fossil.collection import Collection
from methods.fossil.stages import ImageStage, ReferenceStage, TextStage
from methods.freeseg_diff.candidates import DiffusionTextEncoder
from methods.ovdiff.stages import MaskStage, PrototypeStage, SupportStage
from methods.regions import Found, SalientObjects
from methods.support.attribution import Attribution
from methods.support.nouns import RuleNouns, SpacyNouns
from tests.running import REPOSITORY

WEIGHTS = REPOSITORY / "miniature" / "weights"


def loaded(part: Any) -> Any:
    part.load()
    return part


def clip(folder: Path) -> OpenCLIP:
    found: OpenCLIP = loaded(OpenCLIP(f"local-dir:{folder}"))
    return found


def change_json(file: Path, *keys: str, value: Any) -> None:
    content = inner = json.loads(file.read_text())
    for key in keys[:-1]:
        inner = inner[key]
    assert inner.get(keys[-1]) != value
    inner[keys[-1]] = value
    file.write_text(json.dumps(content))


def swap_lines(file: Path, first: int) -> None:
    lines = file.read_text().splitlines()
    lines[first], lines[first + 1] = lines[first + 1], lines[first]
    file.write_text("\n".join(lines) + "\n")


def swap_merges(file: Path) -> None:
    content = json.loads(file.read_text())
    merges = content["model"]["merges"]
    merges[5], merges[6] = merges[6], merges[5]
    file.write_text(json.dumps(content))


# What is changed -> the model's folder, the change, and what reads it. Weights stay as they are.
CHANGES: dict[str, tuple[str, Callable[[Path], None], list[Callable[[str], Part]]]] = {
    "activation of CLIP": (
        "clip",
        lambda folder: change_json(folder / "open_clip_config.json", "model_cfg", "quick_gelu", value=True),
        [lambda name: OpenCLIP(f"local-dir:{name}"), lambda name: OpenCLIPDense(OpenCLIP(f"local-dir:{name}"))],
    ),
    "normalisation of CLIP": (
        "clip",
        lambda folder: change_json(folder / "open_clip_config.json", "preprocess_cfg", "std", value=[0.3, 0.3, 0.3]),
        [lambda name: OpenCLIP(f"local-dir:{name}"), lambda name: OpenCLIPDense(OpenCLIP(f"local-dir:{name}"))],
    ),
    "merges of CLIP's tokenizer": (
        "clip",
        lambda folder: swap_lines(folder / "merges.txt", 5),
        [lambda name: OpenCLIP(f"local-dir:{name}")],
    ),
    "normalisation of DINO": (
        "dino",
        lambda folder: change_json(folder / "preprocessor_config.json", "image_mean", value=[0.4, 0.4, 0.4]),
        [HubViT, lambda name: DenseFeatures(HubViT(name))],
    ),
    "norm of DINO": (
        "dino",
        lambda folder: change_json(folder / "config.json", "layer_norm_eps", value=1e-3),
        [HubViT, lambda name: Found(HubViT(name), str(WEIGHTS / "found" / "found.safetensors"))],
    ),
    "input of BLIP": (
        "blip",
        lambda folder: change_json(folder / "processor_config.json", "image_processor", "image_std", value=[0.3] * 3),
        [HubCaptioner],
    ),
    "case in BLIP's tokenizer": (
        "blip",
        lambda folder: change_json(folder / "tokenizer_config.json", "do_lower_case", value=False),
        [HubCaptioner],
    ),
    "merges of the diffusion model's tokenizer": (
        "diffusion",
        lambda folder: swap_merges(folder / "tokenizer" / "tokenizer.json"),
        [DiffusersTextToImage, lambda name: DiffusionFeatures(name, layers=["up_blocks.0"], kind="output")],
    ),
    "scale of the latents": (
        "diffusion",
        lambda folder: change_json(folder / "vae" / "config.json", "scaling_factor", value=0.5),
        [DiffusersTextToImage, lambda name: DiffusionFeatures(name, layers=["up_blocks.0"], kind="output")],
    ),
    "noise schedule": (
        "diffusion",
        lambda folder: change_json(folder / "scheduler" / "scheduler_config.json", "beta_end", value=0.03),
        [DiffusersTextToImage, lambda name: DiffusionFeatures(name, layers=["up_blocks.0"], kind="output")],
    ),
    "norm of the text encoder": (
        "diffusion",
        lambda folder: change_json(folder / "text_encoder" / "config.json", "layer_norm_eps", value=1e-3),
        [DiffusersTextToImage, DiffusionTextEncoder],
    ),
}


@pytest.mark.parametrize("change", CHANGES)
def test_files_of_a_model_other_than_its_weights_count(change: str, tmp_path: Path) -> None:
    model, edit, constructors = CHANGES[change]
    for name in ("same", "other"):
        shutil.copytree(WEIGHTS / model, tmp_path / name)
    edit(tmp_path / "other")
    for construct in constructors:
        original, same, other = (
            loaded(construct(str(folder))) for folder in (WEIGHTS / model, tmp_path / "same", tmp_path / "other")
        )
        assert same.identity() == original.identity()
        assert other.identity() != original.identity()
        assert other.all_weights() == original.all_weights()


def test_what_the_weights_are_held_in_counts() -> None:
    extractor = loaded(DenseFeatures(HubViT(str(WEIGHTS / "dino"))))
    before = extractor.identity()
    assert before["backbone"]["dtype"] == "float32"
    extractor.half()  # as a Trainer of precision 16-true does
    assert extractor.identity()["backbone"]["dtype"] == "float16"
    assert extractor.identity() != before
    extractor.float()
    assert extractor.identity() == before


def test_a_part_given_another_model_is_another() -> None:
    first, second = (loaded(HubViT(str(WEIGHTS / "dino"))) for _ in range(2))
    before = first.identity()
    for weights in second.model.parameters():
        weights.data.add_(1)
    first.adopt(second.model)
    assert first.identity()["weights"] != before["weights"]


def keys(clip_folder: Path, dino_folder: Path, words: list[str], tmp_path: Path) -> dict[str, str]:
    """The key of one item of every stage of OVDiff and FOSSIL."""
    captions = tmp_path / "captions.txt"
    captions.write_text("a cat and a tree\n")
    image_text = clip(clip_folder)
    generator = loaded(DiffusersTextToImage(str(WEIGHTS / "diffusion"), steps=1))
    extractor = loaded(DenseFeatures(HubViT(str(dino_folder))))
    support = SupportStage(generator, Attribution(), {"cat": "cat"}, "a {}", 1, 0)
    objects = loaded(SalientObjects(Found(HubViT(str(dino_folder)), str(WEIGHTS / "found" / "found.safetensors"))))
    masks = MaskStage(support, 1, objects)
    collection = loaded(Collection(Captions(captions), RuleNouns(words)))
    images = ImageStage(collection, generator, Attribution("daam"))
    references = ReferenceStage(images, extractor)
    dense = loaded(DenseFeatures(OpenCLIPDense(image_text)))
    stages: dict[str, Any] = {
        "support": support,
        "masks": masks,
        "prototypes": PrototypeStage(masks, extractor, "dino", 2, "any"),
        "prototypes of CLIP": PrototypeStage(masks, dense, "clip", 2, "any"),
        "images": images,
        "references": references,
        "texts": TextStage(references, image_text),
    }
    return {name: stage.items()[0].key for name, stage in stages.items()}


def test_keys_of_all_stages_follow_what_they_read(tmp_path: Path) -> None:
    for name in ("clip", "dino"):
        shutil.copytree(WEIGHTS / name, tmp_path / name)
    before = keys(WEIGHTS / "clip", WEIGHTS / "dino", ["cat"], tmp_path)
    assert keys(tmp_path / "clip", tmp_path / "dino", ["cat"], tmp_path) == before

    def changed(*arguments: Any) -> set[str]:
        now = keys(*arguments, tmp_path)
        return {name for name, key in before.items() if now[name] != key}

    change_json(tmp_path / "clip" / "open_clip_config.json", "model_cfg", "quick_gelu", value=True)
    assert changed(tmp_path / "clip", WEIGHTS / "dino", ["cat"]) == {"prototypes of CLIP", "texts"}
    change_json(tmp_path / "dino" / "config.json", "layer_norm_eps", value=1e-3)
    dino = {"masks", "prototypes", "prototypes of CLIP", "references"}
    assert changed(WEIGHTS / "clip", tmp_path / "dino", ["cat"]) == dino
    assert changed(WEIGHTS / "clip", WEIGHTS / "dino", ["cat", "tree"]) == {"images", "references", "texts"}


def test_nouns_follow_the_model_and_the_version_of_spacy(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "tagger").mkdir()
    (tmp_path / "tagger" / "model").write_bytes(b"1")

    def identity(version: str, model: str) -> dict[str, Any]:
        language = SimpleNamespace(meta={"lang": "en", "name": "core_web_sm", "version": model}, path=tmp_path)
        spacy = SimpleNamespace(load=lambda name, **_: language, __version__=version)
        monkeypatch.setitem(sys.modules, "spacy", spacy)
        found: dict[str, Any] = loaded(SpacyNouns()).identity()
        return found

    first = identity("3.8.2", "3.8.0")
    assert identity("3.8.2", "3.8.0") == first
    assert identity("3.8.7", "3.8.0") != first
    assert identity("3.8.2", "3.7.1") != first
    (tmp_path / "tagger" / "model").write_bytes(b"2")
    assert identity("3.8.2", "3.8.0") != first
