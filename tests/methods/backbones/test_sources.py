"""Where models come from: a revision everywhere, and the commit that it stood for in the results."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import yaml

from harness.method.part import Part, sources_of
from methods.backbones import DenseFeatures, HubCaptioner, HubViT, OpenCLIP, OpenCLIPDense
from methods.backbones.diffusion import DiffusersTextToImage
from methods.backbones.diffusion_features import DiffusionFeatures
from methods.backbones.hub import how_to_fetch
from methods.backbones.hub_clip_seg import HubCLIPSeg
from methods.backbones.hub_group_vit import HubGroupViT
from methods.freeseg_diff.candidates import DiffusionTextEncoder
from tests.running import REPOSITORY

WEIGHTS = REPOSITORY / "miniature" / "weights"
OLD, NEW = "1" * 40, "2" * 40
HUB = [
    HubViT,
    HubCaptioner,
    HubGroupViT,
    HubCLIPSeg,
    OpenCLIP,
    DiffusersTextToImage,
    DiffusionFeatures,
    DiffusionTextEncoder,
]
GONE = ("runwayml/stable-diffusion-v1-5", "stabilityai/stable-diffusion-2-1-base")


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The Hub's cache with two commits of ``org/dino``: main is at the second."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    repository = tmp_path / "models--org--dino"
    for commit in (OLD, NEW):
        shutil.copytree(WEIGHTS / "dino", repository / "snapshots" / commit)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text(NEW)
    (repository / "refs" / "v1").write_text(OLD)
    return tmp_path


@pytest.mark.parametrize(
    ("revision", "asked", "commit"), [(None, "main", NEW), ("main", "main", NEW), ("v1", "v1", OLD), (OLD, OLD, OLD)]
)
def test_the_commit_is_the_one_of_the_cache(revision: str | None, asked: str, commit: str, cache: Path) -> None:
    part = DenseFeatures(HubViT("org/dino", revision))
    assert sources_of({"extractors": {"dino": part}, "gamma": 1}) == {
        "extractors.dino.backbone": {"name": "org/dino", "revision": asked, "commit": commit}
    }


def test_what_is_not_here_and_what_is_a_folder_has_no_commit(cache: Path) -> None:
    assert HubViT("org/other").source() == {"name": "org/other", "revision": "main", "commit": None}
    folder = str(WEIGHTS / "dino")
    assert HubViT(folder).source() == {"name": folder, "revision": None, "commit": None}
    clip = OpenCLIPDense(OpenCLIP(f"local-dir:{WEIGHTS / 'clip'}"))
    expected = {"name": str(WEIGHTS / "clip"), "revision": None, "commit": None}
    assert sources_of({"sides": [clip]}) == {"sides.0.clip": expected}
    assert OpenCLIP("ViT-B-32").source() is None
    weights = OpenCLIP("ViT-B-16-quickgelu", "openai").source()
    assert weights == {"name": "timm/vit_base_patch16_clip_224.openai", "revision": "main", "commit": None}


def test_clip_is_read_at_its_revision(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    repository = tmp_path / "models--org--clip"
    shutil.copytree(WEIGHTS / "clip", repository / "snapshots" / OLD)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text(NEW)
    clip, folder = OpenCLIP("hf-hub:org/clip", revision=OLD), OpenCLIP(f"local-dir:{WEIGHTS / 'clip'}")
    clip.load()
    folder.load()
    assert clip.identity() == folder.identity()
    assert clip.source() == {"name": "org/clip", "revision": OLD, "commit": OLD}
    need = next(iter(OpenCLIP("ViT-B-16-quickgelu", "openai", revision=OLD).requirements("--method.clip")))
    assert f"--revision {OLD}" in str(need.missing)


@pytest.mark.parametrize("part", HUB, ids=lambda part: part.__name__)
def test_a_revision_is_an_argument_and_no_part_of_the_identity(part: type[Part]) -> None:
    made: Any = part("org/model", revision="v1")  # type: ignore[call-arg]
    assert made.arguments["revision"] == "v1"
    assert "revision" in part.not_identity


def test_the_main_branch_needs_no_mention() -> None:
    assert how_to_fetch("a/b", "main") == how_to_fetch("a/b") == "HF_HUB_OFFLINE=0 hf download a/b"
    assert how_to_fetch("a/b", "v1").endswith("--revision v1")


def hub_models(content: Any) -> list[dict[str, Any]]:
    """The arguments of every model of the Hub in a configuration, at any depth."""
    if isinstance(content, list):
        return [found for item in content for found in hub_models(item)]
    if not isinstance(content, dict):
        return []
    found = [model for item in content.values() for model in hub_models(item)]
    name = str(content.get("class_path", "")).rpartition(".")[2]
    arguments = content.get("init_args", {})
    local = str(arguments.get("name", "")).startswith(("./", "local-dir:")) if isinstance(arguments, dict) else True
    return [*found, arguments] if name in {part.__name__ for part in HUB} and not local else found


FILES = sorted((REPOSITORY / "configs").rglob("*.yaml"))


def test_every_model_file_states_a_revision() -> None:
    told = {file: hub_models(yaml.safe_load(file.read_text())) for file in FILES}
    assert sum(map(len, told.values())) > 40
    for file, models in told.items():
        for arguments in models:
            # No commit id is known here, and none is made up.
            assert arguments.get("revision") == "main", file
            assert arguments["name"] not in GONE, file


def test_a_mirror_is_named_as_such_beside_its_name() -> None:
    for file in FILES:
        text = file.read_text()
        for gone, mirror in zip(GONE, ("stable-diffusion-v1-5/", "sd2-community/"), strict=True):
            if f"name: {mirror}" in text:
                assert gone in text, file
                assert "mirror" in text, file


def test_results_hold_the_commit(cache: Path, tmp_path: Path) -> None:
    from tests.harness.engine.test_identity import Ramp, Threshold, run

    class Named(Threshold):
        def __init__(self, extractor: HubViT) -> None:
            super().__init__()
            self.extractor = extractor

    run(tmp_path / "run", Named(HubViT("org/dino", "v1")), Ramp())
    results = json.loads((tmp_path / "run" / "results.json").read_text())
    assert results["models"] == {"extractor": {"name": "org/dino", "revision": "v1", "commit": OLD}}
    assert len(results["weights"]["extractor"]) == 16
