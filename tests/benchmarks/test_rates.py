"""``benchmarks/rates.py``: what it measures can be read by a dry run, and its arithmetic is that of the docstring."""

import json
from collections.abc import Callable
from itertools import chain, repeat
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from benchmarks import rates
from harness.studies import costs
from methods.backbones import HubViT


def test_a_tiny_method_has_a_rate_that_a_dry_run_reads(tmp_path: Path) -> None:
    rate = rates.measure(rates.CASES["clip_diy"], True, 1, True)
    file = tmp_path / "rates.json"
    file.write_text(json.dumps({"schema": 1, "hardware": "cpu: X, 1 thread", "rates": [rate]}))
    (found,) = costs.read(file)
    assert found.method == "methods.clip_diy.ClipDIY"
    assert found.image > 0
    assert found.stages == ()


def test_precompute_has_a_rate_per_stage(monkeypatch: pytest.MonkeyPatch) -> None:
    """OVDiff with Miniature's models: one image a class, as if 32 had been generated in all their steps."""
    # One step takes 1, two take 2; what precompute generates itself takes more than all the rest of it.
    clock = chain((1.0, 2.0), repeat(1e6))
    monkeypatch.setattr(rates, "seconds", lambda act: (act(), next(clock))[1])
    rate = rates.measure(rates.CASES["ovdiff"], True, 1, True)
    assert [stage["name"] for stage in rate["stages"]][:2] == ["support sets", "masks"]
    first = rate["stages"][0]
    # 25 steps take 25 an image; the classes' own generation is not counted again.
    assert first["seconds"] == 32 * 25
    assert (first["items"], first["per"]) == (2, "class")
    assert all(stage["seconds"] > 0 for stage in rate["stages"][1:])


@pytest.mark.parametrize(("extrapolate", "expected"), [(True, 5 + 29 * 3), (False, 2 + 30 * 3)])
def test_further_steps_cost_what_the_second_did(
    extrapolate: bool, expected: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    generator: Any = SimpleNamespace(steps=30)
    generator.generate = lambda prompts, seeds: None

    def clock(act: Callable[[], object]) -> float:
        act()
        return 2.0 + 3.0 * generator.steps

    monkeypatch.setattr(rates, "seconds", clock)
    assert rates.generation_seconds(generator, extrapolate) == expected
    assert generator.steps == 30


@pytest.mark.parametrize("name", rates.CASES)
def test_every_backbone_of_the_experiments_can_be_built_without_weights(name: str) -> None:
    method, _, _ = rates.built(rates.CASES[name], False)
    vits = {part.name for part in method.modules() if isinstance(part, HubViT)}
    assert vits <= set(rates.VITS)
