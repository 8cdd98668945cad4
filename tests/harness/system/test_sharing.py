"""Shared work: equal calls give equal results, and nothing else is ever taken for equal."""

from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor, nn

from harness.system.sharing import alone, once, shared


class Named(NamedTuple):
    total: Tensor
    label: str | None


class Model(nn.Module):
    """Counts its calls."""

    def __init__(self, factor: float = 2.0) -> None:
        super().__init__()
        self.factor = factor
        self.calls = 0

    @once
    def features(self, image: Tensor, kind: str = "token", layer: int = -1) -> Tensor:
        self.calls += 1
        return image * self.factor

    @once
    def named(self, image: Tensor, names: list[str]) -> Named:
        self.calls += 1
        return Named(image.sum(), names[0])

    @once
    def listed(self, image: Tensor) -> list[Tensor]:
        self.calls += 1
        return [image + 1, image + 2]

    @once
    def told(self, other: Any) -> str:
        self.calls += 1
        return "a cat"


def picture() -> Tensor:
    return torch.arange(24, dtype=torch.float32).reshape(2, 3, 4)


def test_outside_nothing_is_shared() -> None:
    model = Model()
    for _ in range(2):
        model.features(picture())
    assert model.calls == 2
    with shared():
        model.features(picture())
        with alone():
            model.features(picture())
    model.features(picture())
    assert model.calls == 5


def test_equal_calls_are_computed_once_until_the_end() -> None:
    model = Model()
    for _ in range(2):
        with shared() as memory:
            first, second = model.features(picture()), model.features(picture().clone())
        assert memory.hits == 1
        assert torch.equal(first, second)
        assert torch.equal(first, picture() * 2)
    assert model.calls == 2


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (picture(), picture() + 1),
        (picture(), picture().double()),
        (picture(), picture().reshape(3, 2, 4)),
        (picture(), picture().transpose(0, 1).contiguous().transpose(0, 1)),
        (torch.zeros(3), -torch.zeros(3)),
        (torch.tensor([1]), torch.tensor([True])),
    ],
    ids=["values", "dtype", "shape", "layout", "sign of zero", "kind"],
)
def test_other_tensors_are_other_calls(one: Tensor, other: Tensor) -> None:
    model = Model()
    with shared():
        model.features(one)
        model.features(other)
    assert model.calls == 2


def test_other_settings_and_objects_are_other_calls() -> None:
    model, other = Model(), Model(3.0)
    with shared():
        model.features(picture())
        model.features(picture(), "key")
        model.features(picture(), "key", 1)
        model.features(picture(), "key", True)
        with torch.autocast("cpu"):
            model.features(picture())
        with torch.inference_mode():
            model.features(picture())
        assert torch.equal(other.features(picture()), picture() * 3)
    assert (model.calls, other.calls) == (6, 1)


def test_a_call_may_be_written_in_several_ways() -> None:
    model = Model()
    with shared() as memory:
        model.features(picture())
        model.features(picture(), "token", -1)
        model.features(layer=-1, image=picture())
    assert (model.calls, memory.hits) == (1, 2)


def test_nan_equals_itself() -> None:
    model = Model()
    with shared():
        for _ in range(2):
            model.features(torch.tensor([torch.nan, 1.0]))
    assert model.calls == 1


def test_what_callers_write_into_changes_nobody_elses_result() -> None:
    model, image = Model(), picture()
    with shared():
        model.features(image).zero_()
        assert torch.equal(model.features(image), picture() * 2)
        # Through a view, too.
        model.features(image)[0].zero_()
        assert torch.equal(model.features(image), picture() * 2)
        assert model.calls == 3
        # The same object with other values is another call.
        image += 1
        assert torch.equal(model.features(image), (picture() + 1) * 2)
        image -= 1
        assert torch.equal(model.features(image), picture() * 2)
    assert model.calls == 5


def test_lists_are_every_callers_own() -> None:
    model = Model()
    with shared() as memory:
        model.listed(picture()).append(torch.ones(1))
        model.listed(picture()).clear()
        assert len(model.listed(picture())) == 2
    assert memory.hits == 2


def test_a_view_of_a_result_is_known_without_a_look_at_its_numbers(monkeypatch: pytest.MonkeyPatch) -> None:
    model, image = Model(), picture()
    with shared() as memory:
        model.features(model.features(image)[1])
        monkeypatch.setattr(torch, "equal", lambda *tensors: pytest.fail("compared"))
        model.features(model.features(image)[1])
    assert (model.calls, memory.hits) == (2, 2)


@torch.inference_mode()
def test_inference_mode_is_off_inside() -> None:
    model, image = Model(), picture()
    with shared():
        result = model.features(image)
        assert not result.is_inference()
        assert not result.requires_grad
        result += 1
        assert torch.equal(model.features(image), picture() * 2)
        with torch.inference_mode():
            model.features(image).zero_()
            assert torch.equal(model.features(image), picture() * 2)
    assert model.calls == 4


def test_layout_and_structure_are_kept() -> None:
    model = Model()
    turned = picture().transpose(0, 2)
    with shared():
        first, second = model.features(turned), model.features(turned)
        named = [model.named(turned, ["cat", "dog"]) for _ in range(2)]
    assert first.stride() == second.stride() != second.contiguous().stride()
    assert named[1].label == "cat"
    assert isinstance(named[1], Named)
    assert torch.equal(named[0].total, named[1].total)
    assert model.calls == 2


def test_what_cannot_be_compared_is_not_shared() -> None:
    model = Model()
    with shared() as memory:
        for _ in range(2):
            model.told(object())
            model.told(torch.ones(2, 2).to_sparse())
    assert memory.hits == 0
    assert model.calls == 4


def test_no_more_is_kept_than_the_budget_allows() -> None:
    model = Model()
    with shared(budget=2 * 24 * 4 + 10) as memory:
        for _ in range(2):
            model.features(picture())
            model.features(picture() + 1)
    assert model.calls == 3
    assert memory.held <= 2 * 24 * 4 + 10


def test_an_error_is_not_kept() -> None:
    model = Model()
    with shared():
        for _ in range(2):
            with pytest.raises(IndexError):
                model.named(picture(), [])
    assert model.calls == 2
