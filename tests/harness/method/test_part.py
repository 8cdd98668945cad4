"""A part loads once, knows what it is and what it needs, and is shared where it is equal."""

import json
import shutil
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from harness import ConfigurationError, Protocol, SegmentationMethod, Vocabulary
from harness.method.part import Part, Requirement, SharedParts, required_by, required_file
from methods.backbones import DenseFeatures, HubViT, OpenCLIP, OpenCLIPDense


class Model(Part):
    """A network of one number, which its file holds."""

    not_identity = frozenset({"path"})

    def __init__(self, path: str = "a", size: int | None = None) -> None:
        super().__init__()
        self.path, self.size, self.builds = path, size, 0

    def requirements(self, flag: str) -> Iterable[Requirement]:
        yield required_file(self.path, f"{flag}.path")

    def build(self) -> None:
        if self.path == "broken":
            raise ConfigurationError("broken")
        self.builds += 1
        self.layer = nn.Linear(1, 1, bias=False)
        self.layer.weight.data.fill_(len(self.path))

    def adopt(self, layer: nn.Linear) -> None:
        self.layer = layer
        self.mark_loaded()

    def configuration(self) -> Any:
        return {"width": self.layer.in_features}

    def resolved(self) -> Mapping[str, Any]:
        return {"size": self.size or 64}


class Outer(Part):
    def __init__(self, inner: Part, others: dict[str, Part] | None = None, sides: list[int] | None = None) -> None:
        super().__init__()
        self.inner = inner
        self.order: list[bool] = []

    def build(self) -> None:
        self.order.append(self.inner.loaded)


class Method(SegmentationMethod):
    def __init__(self, model: Part, threshold: float = 0.5) -> None:
        super().__init__()
        self.model = model

    def load(self) -> None:
        for part in self.parts():
            part.load()


def test_a_part_loads_once_and_after_its_own_parts() -> None:
    inner, other = Model(), Model("other")
    outer = Outer(inner, {"other": other})
    assert not outer.loaded
    for _ in range(2):
        outer.load()
        inner.load()
    assert (inner.builds, other.builds, outer.order) == (1, 1, [True])


def test_an_adopted_part_is_loaded() -> None:
    model = Model()
    model.adopt(nn.Linear(1, 1))
    Outer(model).load()
    assert model.builds == 0


def test_a_part_that_could_not_be_built_is_not_loaded() -> None:
    model = Model("broken")
    with pytest.raises(ConfigurationError):
        model.load()
    assert not model.loaded


def test_load_cannot_be_overridden() -> None:
    with pytest.raises(TypeError, match="fill in build"):
        type("Wrong", (Part,), {"load": lambda self: None})


def test_identity_adds_what_was_loaded_and_leaves_out_where_it_lies() -> None:
    def identity(*arguments: Any) -> dict[str, Any]:
        model = Model(*arguments)
        model.load()
        return model.identity()

    same = identity("b")
    assert {key: same[key] for key in ("class", "size", "configuration")} == {
        "class": "Model",
        "size": 64,
        "configuration": {"width": 1},
    }
    assert identity("a") == identity("b", 64) == same
    # Other numbers, another size.
    assert identity("aa")["weights"] != same["weights"]
    assert identity("a", 32) != same


def test_weights_are_those_of_the_files() -> None:
    model = Model()
    model.load()
    before = model.weights()
    model.half()
    assert model.weights() == before
    fresh = Model()
    fresh.adopt(model.layer)
    assert fresh.weights() != before


def test_identity_and_weights_of_nested_parts_are_nested() -> None:
    outer = Outer(Model(), {"other": Model("other")})
    outer.load()
    found = outer.identity()
    assert "weights" not in found
    assert found["inner"] == outer.inner.identity()
    assert found["others"]["other"]["weights"] != found["inner"]["weights"]
    alone = Outer(Model())
    alone.load()
    assert alone.all_weights() == alone.inner.weights()
    assert outer.all_weights() not in (None, alone.all_weights())


def test_requirements_name_the_setting_and_come_once(tmp_path: Path) -> None:
    here = tmp_path / "here"
    here.touch()
    outer = Outer(Model("gone"), {"here": Model(str(here)), "again": Model("gone")})
    assert outer.requires("--method.outer") == [
        Requirement("file", "gone", "put the file there, or give its path with --method.outer.inner.path"),
        Requirement("file", str(here), None),
    ]
    assert not outer.inner.loaded
    assert required_by({"a": [Model("x")], "b": 3}, "--m")[0].missing == (
        "put the file there, or give its path with --m.a.path"
    )


def test_a_method_is_told_by_its_parts() -> None:
    method = Method(Outer(Model("gone")))
    assert [need.name for need in method.requires()] == ["gone"]
    assert "--method.model.inner.path" in str(method.requires()[0].missing)
    assert method.settings() == {
        "class": "Method",
        "model": {"class": "Outer", "inner": {"class": "Model", "size": None}, "others": None, "sides": None},
        "threshold": 0.5,
        "window_batch": 8,
        "background_threshold": None,
    }
    method.make_ready(Vocabulary(("a", "b")), Protocol("test", window=None))
    assert method.identity()["model"]["inner"]["weights"] == method.weights()["model"]
    other = Method(Outer(Model("g")))
    other.make_ready(Vocabulary(("a", "b")), Protocol("test", window=None))
    assert other.settings() == method.settings()
    assert other.identity() != method.identity()


def test_the_activation_of_a_clip_is_part_of_its_identity(tmp_path: Path) -> None:
    def identity(folder: str) -> dict[str, Any]:
        clip = OpenCLIP(f"local-dir:{folder}")
        features = DenseFeatures(OpenCLIPDense(clip))
        features.load()
        found = features.identity()
        assert found["backbone"]["clip"] == clip.identity()
        return found

    ours = "miniature/weights/clip"
    copies = [tmp_path / "same", tmp_path / "other"]
    for copy in copies:
        shutil.copytree(ours, copy)
    config = json.loads((copies[1] / "open_clip_config.json").read_text())
    config["model_cfg"]["quick_gelu"] = not config["model_cfg"].get("quick_gelu", False)
    (copies[1] / "open_clip_config.json").write_text(json.dumps(config))
    plain, same, other = (identity(str(folder)) for folder in (ours, *copies))
    assert plain == same
    assert plain != other
    weights = [found["backbone"]["clip"]["weights"] for found in (plain, other)]
    assert weights[0] == weights[1]


def test_a_model_is_told_by_its_normalisation_and_weights_not_by_its_name(tmp_path: Path) -> None:
    ours = "miniature/weights/dino"
    shutil.copytree(ours, tmp_path / "copy")

    def identity(name: str = f"./{ours}", **settings: Any) -> dict[str, Any]:
        model = HubViT(name, **settings)
        model.load()
        return model.identity()

    plain = identity()
    assert identity(str(tmp_path / "copy")) == plain
    assert identity(mean=[0.4, 0.4, 0.4]) != plain
    torch.manual_seed(1)
    assert identity(random_weights=True)["weights"] != plain["weights"]


class Derived(Model):
    pass


def test_equal_parts_are_one_object_and_loaded_once() -> None:
    shared = SharedParts()
    inner, same = shared(Model, path="a"), shared(Model, path="a")
    assert inner is same
    assert shared(Model, path="b") is not inner
    assert shared(Derived, path="a") is not inner
    assert shared(Derived, path="a") is shared(Derived, path="a")
    outer = shared(Outer, inner=inner, sides=[1, 2])
    assert shared(Outer, inner=same, sides=[1, 2]) is outer
    assert shared(Outer, inner=shared(Model, path="b"), sides=[1, 2]) is not outer
    assert shared(Outer, inner=inner, sides=[2, 1]) is not outer
    assert shared(Outer, inner=inner, sides=[1, True]) is not shared(Outer, inner=inner, sides=[1, 1])
    for part in (inner, same):
        part.load()
    assert inner.builds == 1
    assert SharedParts()(Model, path="a") is not inner


def test_what_is_no_part_or_contains_such_is_constructed_anew() -> None:
    shared = SharedParts()
    loose = [shared(nn.Identity) for _ in range(2)]
    assert loose[0] is not loose[1]
    assert shared(Outer, inner=loose[0]) is not shared(Outer, inner=loose[0])
    method = shared(Method, model=shared(Model))
    assert shared(Method, model=shared(Model)) is not method
    assert shared(Method, model=shared(Model)).model is method.model
