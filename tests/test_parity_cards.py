"""Parity cards (docs/parity): every value that a card gives as ours is what ``ovseg evaluate`` reads from that file."""

import re
from collections.abc import Iterator
from dataclasses import asdict
from functools import cache
from typing import Any, NamedTuple

import pytest
import yaml

from harness.commands import evaluate
from harness.commands.arguments import Parser, plain
from harness.studies.readers import read_paper, select
from tests.running import REPOSITORY

CELL = re.compile(r"`(\w+/\w+/\w+/\w+)`")
CARDS = sorted((REPOSITORY / "docs" / "parity").glob("*.md"))
SETTING = re.compile(r"`([\w.]+) = ([^`]+)`")
MISSING = object()
# How much is computed at once, and what a protocol is called.
NO_CHOICE = (
    "batch_size",
    "text_batch",
    "class_batch",
    "patch_batch",
    "window_batch",
    "protocol.name",
    "protocol.version",
)


class Claim(NamedTuple):
    card: str
    file: str
    key: str
    value: Any


def cells(line: str) -> list[str]:
    return [cell.strip() for cell in line.strip().strip("|").split("|")]


def claims(text: str, card: str) -> Iterator[Claim]:
    """Every setting in a column whose head names one of our cells; each row must have one in the first of them."""
    lines = [line for line in text.splitlines() if line.startswith("|")]
    head = cells(lines[0])
    files = {number: found[1] for number, cell in enumerate(head) if (found := re.search(r"`(\w+/\w+/\w+/\w+)`", cell))}
    assert files, f"{card} names no cell of ours"
    for line in lines[2:]:
        row = cells(line)
        assert len(row) == len(head), line
        assert SETTING.search(row[min(files)]), f"{card}: nothing of ours in '{row[0]}'"
        for number, file in files.items():
            # "same" as the column to the left.
            source = row[number - 1] if row[number] == "same" else row[number]
            assert SETTING.search(source), f"{card}: no setting in '{row[0]}', column {number}"
            for key, value in SETTING.findall(source):
                yield Claim(card, file, key, yaml.safe_load(value))


def claims_below(text: str, card: str) -> Iterator[Claim]:
    """Settings of other cells, below the table: a cell and, up to the next cell, settings of it."""
    prose = " ".join(line.strip() for line in text.split("Choices of other cells:")[-1].splitlines())
    _, *parts = CELL.split(prose) if "Choices of other cells:" in text else [""]
    for file, words in zip(parts[::2], parts[1::2], strict=True):
        found = SETTING.findall(words)
        assert found, f"{card}: no setting of {file}"
        for key, value in found:
            yield Claim(card, file, key, yaml.safe_load(value))


def value_at(settings: Any, key: str) -> Any:
    """The value of a setting; a part is known by the name of its class."""
    for name in key.split("."):
        if isinstance(settings, dict) and isinstance(settings.get("init_args"), dict):
            settings = settings["init_args"]
        if not isinstance(settings, dict) or name not in settings:
            return MISSING
        settings = settings[name]
    if isinstance(settings, dict) and "class_path" in settings:
        return settings["class_path"].rpartition(".")[2]
    return settings


def settings_of(value: Any, key: str) -> Iterator[str]:
    """The names of all settings, at any depth; those of a part begin with the part's own."""
    if isinstance(value, dict) and "class_path" in value:
        yield key
        value = value.get("init_args") or {}
    elif not _has_parts(value):
        yield key
        return
    for name, item in value.items():
        yield from settings_of(item, f"{key}.{name}")


def _has_parts(value: Any) -> bool:
    """Whether it is a mapping of parts."""
    return isinstance(value, dict) and any(isinstance(item, dict) and "class_path" in item for item in value.values())


def unmentioned(text: str, card: str) -> list[str]:
    """The settings of a card's cells, of method and protocol, of which the card says nothing.

    An entry of a mapping stands for the mapping, and a part's own settings for its class.
    """
    told: dict[str, set[str]] = {}
    for claim in claims(text, card):
        told.setdefault(claim.file, set()).add(claim.key)
    missing = []
    for file, keys in told.items():
        cell = resolved(file)
        names = [*settings_of(cell["method"], "method"), *(f"protocol.{name}" for name in cell["protocol"])]
        for name in names:
            if name.endswith(NO_CHOICE) or name in keys or any(key.startswith(f"{name}.") for key in keys):
                continue
            missing.append(f"{file}: {name} = {value_at(cell, name)!r}")
    return missing


@cache
def parser() -> Parser:
    return evaluate.parser()


@cache
def resolved(file: str) -> dict[str, Any]:
    """A cell of a paper as the command reads it: the constructors' defaults are in it."""
    paper, _, name = file.partition("/")
    (cell,) = select(paper, name, read_paper(REPOSITORY / "configs" / "papers" / f"{paper}.yaml"))
    assert cell.published is not None
    return {**plain(parser().parse_args(cell.arguments)), "published": asdict(cell.published)}


@pytest.mark.parametrize("card", CARDS, ids=lambda card: card.stem)
def test_a_card_says_what_the_configuration_does(card: Any) -> None:
    made = [*claims(card.read_text(), card.stem), *claims_below(card.read_text(), card.stem)]
    assert len(made) > 20
    wrong = [
        f"{claim.file}: {claim.key} = {found!r}, not {claim.value!r}"
        for claim in made
        if (found := value_at(resolved(claim.file), claim.key)) != claim.value
    ]
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize("card", CARDS, ids=lambda card: card.stem)
def test_a_card_mentions_every_setting_of_its_cells(card: Any) -> None:
    missing = unmentioned(card.read_text(), card.stem)
    assert not missing, f"{card.name} says nothing of:\n" + "\n".join(missing)


def test_a_setting_that_is_not_mentioned_is_found() -> None:
    text = (REPOSITORY / "docs" / "parity" / "ovdiff.md").read_text()
    for key in ("method.extractors.clip.layer", "method.extractors.clip.backbone.clip.name", "protocol.size"):
        assert f"`{key} = " in text
        cut = re.sub(rf"`{re.escape(key)} = [^`]+`", "", text)
        missing = unmentioned(cut, "ovdiff")
        assert missing
        assert all(f": {key} = " in line for line in missing)


def test_every_paper_has_its_card() -> None:
    assert [card.stem for card in CARDS] == ["baselines", "clip_diy", "fossil", "freeseg_diff", "ovdiff"]


def test_a_stale_value_is_found() -> None:
    file = "clip_diy/table1/vitb32/voc21"
    text = (
        f"| setting | ours: `{file}` |\n| --- | --- |\n| a | `method.overlap = 0.25` |\n| b | `method.nothing = 1` |\n"
    )
    found = [(claim.value, value_at(resolved(file), claim.key)) for claim in claims(text, "x")]
    assert found == [(0.25, 0.0), (1, MISSING)]
    below = f"{text}\nChoices of other cells:\n\n- A `{file}`: `method.overlap\n  = 0.25`, b `method.nothing = 1`.\n"
    assert list(claims_below(below, "x")) == list(claims(text, "x"))
    assert list(claims_below(text, "x")) == []
    with pytest.raises(AssertionError, match="no setting of"):
        list(claims_below(f"Choices of other cells:\n\n- `{file}`: none", "x"))
    with pytest.raises(AssertionError, match="nothing of ours in 'c'"):
        list(claims(text + "| c | as in the paper |\n", "x"))
