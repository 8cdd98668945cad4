"""The regression gate: passes on what was measured, fails on a drop, on a missing baseline and on other data."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.running import SQUARES, Outcome


@pytest.fixture
def gate(tmp_path: Path) -> Path:
    content = {
        "runs": {"fine": {"config": str(SQUARES), "set": {"data.count": 4}}, "coarse": {"config": str(SQUARES)}},
        "tolerances": {"miou": 0.5, "class": 1.0, "image": 2.0},
        "baseline": "baseline.json",
    }
    file = tmp_path / "gate.yaml"
    file.write_text(yaml.safe_dump(content, sort_keys=False))
    return file


def change(gate: Path, edit: Callable[[dict[str, Any]], None]) -> None:
    file = gate.parent / "baseline.json"
    content = json.loads(file.read_text())
    edit(content)
    file.write_text(json.dumps(content))


def test_what_was_measured_passes(gate: Path, ovseg: Callable[..., Outcome]) -> None:
    first = ovseg("regress", gate, "--update")
    assert first.code == 0, first.err
    baseline = json.loads((gate.parent / "baseline.json").read_text())
    assert list(baseline["runs"]) == ["fine", "coarse"]
    assert len(baseline["runs"]["fine"]["images"]) == 4
    assert baseline["runs"]["fine"]["command"].startswith("ovseg evaluate --config ")
    again = ovseg("regress", gate)
    assert again.code == 0, again.err
    assert "nothing moved" in again.out


def test_a_worse_method_fails_and_is_named(gate: Path, ovseg: Callable[..., Outcome]) -> None:
    ovseg("regress", gate, "--update")
    content = yaml.safe_load(gate.read_text())
    content["runs"]["fine"]["set"]["method.patch"] = 16
    gate.write_text(yaml.safe_dump(content, sort_keys=False))
    failed = ovseg("regress", gate)
    assert failed.code == 1
    assert "fell by more than allowed" in failed.out
    assert "fine" in failed.out
    assert "coarse" not in failed.out.split("fell by more")[1]


@pytest.mark.parametrize(("level", "allowed"), [("miou", 0.5), ("class", 1.0), ("image", 2.0)])
def test_tolerances_are_those_of_the_file(
    level: str, allowed: float, gate: Path, ovseg: Callable[..., Outcome]
) -> None:
    ovseg("regress", gate, "--update")

    def raised(by: float) -> Callable[[dict[str, Any]], None]:
        def edit(content: dict[str, Any]) -> None:
            run = content["runs"]["coarse"]
            if level == "miou":
                run["miou"] += by
            else:
                group = run["classes" if level == "class" else "images"]
                group[next(iter(group))] += by

        return edit

    change(gate, raised(allowed - 0.01))
    assert ovseg("regress", gate).code == 0
    change(gate, raised(0.02))
    assert ovseg("regress", gate).code == 1


def test_a_rise_passes_and_is_shown(gate: Path, ovseg: Callable[..., Outcome]) -> None:
    ovseg("regress", gate, "--update")
    change(gate, lambda content: content["runs"]["fine"].update(miou=1.0))
    risen = ovseg("regress", gate)
    assert risen.code == 0
    assert "mIoU" in risen.out


def test_without_a_whole_baseline_it_does_not_pass(gate: Path, ovseg: Callable[..., Outcome]) -> None:
    missing = ovseg("regress", gate)
    assert missing.code == 2
    assert "no baseline" in missing.err
    ovseg("regress", gate, "--update")
    change(gate, lambda content: content["runs"].pop("fine"))
    assert "has no run 'fine'" in ovseg("regress", gate).err
    ovseg("regress", gate, "--update")
    content = yaml.safe_load(gate.read_text())
    del content["runs"]["coarse"]
    gate.write_text(yaml.safe_dump(content, sort_keys=False))
    fewer = ovseg("regress", gate)
    assert fewer.code == 1
    assert "'coarse' was not made" in fewer.out
    (gate.parent / "baseline.json").write_text("{")
    assert "damaged" in ovseg("regress", gate).err


def test_other_data_cannot_be_compared(gate: Path, ovseg: Callable[..., Outcome]) -> None:
    ovseg("regress", gate, "--update")
    content = yaml.safe_load(gate.read_text())
    content["runs"]["fine"]["set"]["data.count"] = 3
    gate.write_text(yaml.safe_dump(content, sort_keys=False))
    failed = ovseg("regress", gate)
    assert failed.code == 2
    assert "another data" in failed.err


@pytest.mark.parametrize(
    ("edit", "said"),
    [
        ({"tolerances": {"miou": 1}}, "tolerances"),
        ({"tolerances": {"miou": -1, "class": 0, "image": 0}}, "tolerances"),
        ({"runs": {}}, "runs"),
        ({"runs": {"a": {"set": {}}}}, "config"),
        ({"more": 1}, "more"),
    ],
)
def test_what_is_wrong_with_the_file_is_said(
    edit: dict[str, Any], said: str, gate: Path, ovseg: Callable[..., Outcome]
) -> None:
    gate.write_text(yaml.safe_dump(yaml.safe_load(gate.read_text()) | edit))
    failed = ovseg("regress", gate)
    assert failed.code == 2
    assert said in failed.err
