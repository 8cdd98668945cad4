"""``ovseg protocol``: every field of one, and only the differing ones of two."""

import dataclasses
from collections.abc import Callable
from pathlib import Path

import pytest

from harness import Protocol
from harness.commands.protocol import fields, load
from tests.running import REPOSITORY, Outcome

FOLDER = REPOSITORY / "configs" / "protocols"
PROTOCOLS = sorted(path.stem for path in FOLDER.glob("*.yaml"))


def rows(text: str) -> dict[str, list[str]]:
    """The cells of each field in a table; lines without a field belong to the one above."""
    found: dict[str, list[str]] = {}
    last = ""
    for line in text.splitlines():
        cells = [cell.strip() for cell in line.split("│")[1:-1]]
        if not cells:
            continue
        if cells[0]:
            last = cells[0]
            found[last] = cells[1:]
        else:
            found[last] = [f"{old}\n{new}".strip() for old, new in zip(found[last], cells[1:], strict=True)]
    return found


@pytest.mark.parametrize("name", PROTOCOLS)
def test_show_prints_every_field(name: str, ovseg: Callable[..., Outcome]) -> None:
    outcome = ovseg("protocol", "show", name)
    assert (outcome.code, outcome.err) == (0, "")
    protocol = load(name)
    assert protocol.name == name
    found = rows(outcome.out)
    assert found.keys() == {*fields(protocol), "fingerprint"}
    assert found["fingerprint"] == [protocol.fingerprint]
    assert found["templates"] == ["\n".join(protocol.templates)]
    assert found["size"] == [str(list(protocol.size))]


@pytest.mark.parametrize("name", PROTOCOLS)
def test_diff_prints_the_fields_that_differ_and_no_others(name: str, ovseg: Callable[..., Outcome]) -> None:
    one, other = load("tcl"), load(name)
    differing = {
        field.name
        for field in dataclasses.fields(Protocol)
        if field.name != "name" and getattr(one, field.name) != getattr(other, field.name)
    }
    outcome = ovseg("protocol", "diff", "tcl", FOLDER / f"{name}.yaml")
    assert outcome.code == 0
    if not differing:
        assert outcome.out == f"tcl and {name} do not differ: fingerprint {one.fingerprint}\n"
        return
    found = rows(outcome.out)
    assert found.keys() == {*differing, "fingerprint"}
    assert found["fingerprint"] == [one.fingerprint, other.fingerprint]


def test_names_are_found_elsewhere_too(
    ovseg: Callable[..., Outcome], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A protocol of one's own in the current folder, and the repository's from any folder."""
    monkeypatch.chdir(tmp_path)
    own = tmp_path / "configs" / "protocols"
    own.mkdir(parents=True)
    (own / "mine.yaml").write_text("name: mine\nstride: 112\n")
    found = rows(ovseg("protocol", "diff", "mine", "tcl").out)
    assert found["stride"] == ["112", "224"]


WRONG = {
    "name": (["show", "tlc"], ["no protocol 'tlc' (did you mean 'tcl'?)"]),
    "file": (["show", "x/tcl.yaml"], ["x/tcl.yaml does not exist"]),
    "one for diff": (["diff", "tcl"], ["diff takes 2, not 1"]),
    "two for show": (["show", "tcl", "tcl"], ["show takes 1, not 2"]),
    "action": (["shwo", "tcl"], ["shwo"]),
    "field": (["show", "field.yaml"], ["field.yaml", "strid", "did you mean"]),
    "value": (["show", "value.yaml"], ["value.yaml", "stride", "many"]),
    "contradiction": (["show", "contradiction.yaml"], ["contradiction.yaml", "stride 9 leaves gaps in window 5"]),
    "YAML": (["show", "yaml.yaml"], ["yaml.yaml", "no valid YAML"]),
}


@pytest.mark.parametrize("case", WRONG)
def test_mistakes_are_one_sentence(
    case: str, ovseg: Callable[..., Outcome], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("field.yaml").write_text("name: x\nstrid: 3\n")
    Path("value.yaml").write_text("name: x\nstride: many\n")
    Path("contradiction.yaml").write_text("name: x\nwindow: 5\nstride: 9\n")
    Path("yaml.yaml").write_text("name: [1, 2\n")
    arguments, named = WRONG[case]
    outcome = ovseg("protocol", *arguments)
    assert outcome.code == 2
    assert outcome.out == ""
    assert len(outcome.err.splitlines()) == 1, outcome.err
    for each in named:
        assert each in outcome.err
