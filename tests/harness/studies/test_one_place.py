"""Every table and experiment has one place: no file holds mostly what another one holds."""

import json
from itertools import combinations
from pathlib import Path

import pytest
import yaml

from harness.commands.arguments import resolve_names
from harness.commands.evaluate import parser
from harness.commands.reproduce import run_name
from harness.studies.readers import read_paper, read_table
from harness.studies.study import Study
from harness.studies.sweeps import read_sweep
from tests.running import REPOSITORY

CONFIGS = REPOSITORY / "configs"


def copies(studies: dict[str, set[str]]) -> list[tuple[str, str]]:
    """Pairs of studies of which one has more than half of its experiments in the other."""
    return [
        (one, other)
        for one, other in combinations(studies, 2)
        if 2 * len(studies[one] & studies[other]) > min(len(studies[one]), len(studies[other]))
    ]


def test_no_two_files_have_one_content() -> None:
    found: dict[str, Path] = {}
    for file in sorted(CONFIGS.rglob("*.yaml")):
        content = json.dumps(yaml.safe_load(file.read_text()), sort_keys=True)
        assert content not in found, f"{file} and {found[content]}"
        found[content] = file


def test_a_copy_is_found() -> None:
    assert copies({"a": {"1", "2", "3"}, "b": {"1", "2", "4", "5", "6"}, "c": {"1", "7"}}) == [("a", "b")]


@pytest.mark.slow
def test_no_study_is_mostly_another_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """Table files, sweeps that are grids, and the papers; a paper prints some of its experiments in several tables."""
    monkeypatch.chdir(REPOSITORY)
    built = parser()
    studies: dict[str, set[str]] = {}

    def add(name: str, arguments: list[str]) -> None:
        studies.setdefault(name, set()).add(run_name(built.parse_args(resolve_names(arguments))))

    for file in sorted((CONFIGS / "tables").glob("*.yaml")):
        for cell in (table := read_table(file)).cells():
            add(f"tables/{file.stem}", [*table.arguments, *cell.arguments])
    for file in sorted((CONFIGS / "sweeps").glob("*.yaml")):
        if isinstance(sweep := read_sweep(file), Study):
            for cell in sweep.cells():
                add(f"sweeps/{file.stem}", [*sweep.arguments, *cell.arguments])
    # "miniature" is the README's main runs, with which our tables begin.
    for file in sorted((CONFIGS / "papers").glob("*.yaml")):
        for cell in read_paper(file):
            if not cell.quoted and file.stem != "miniature":
                add(f"papers/{file.stem}", cell.arguments)
    assert copies(studies) == []
