"""The repository's sweep files, as W&B's agent runs them: ``launch.sh`` lines that mean what ``ovseg sweep`` does."""

import os
import shlex
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml
from wandb.sdk.launch.sweeps.utils import create_sweep_command, create_sweep_command_args

from harness.commands.arguments import plain
from harness.commands.evaluate import parser
from harness.studies.readers import read_table
from harness.studies.study import Cell
from harness.studies.sweeps import read_sweep
from tests.running import REPOSITORY

FILES = sorted((REPOSITORY / "configs" / "sweeps").glob("*.yaml"))


def agents_line(content: dict[str, Any], cell: Cell) -> list[str]:
    """The command that W&B's agent starts for a cell, by its own code."""
    args = create_sweep_command_args({"args": {name: {"value": value} for name, value in cell.overrides.items()}})[
        "args"
    ]
    return [word for each in create_sweep_command(list(content["command"])) for word in _words(each, args)]


def _words(word: str, args: list[str]) -> list[str]:
    return args if word == "${args}" else [word]


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_the_agents_command_means_what_ours_does(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(REPOSITORY)
    content = yaml.safe_load(file.read_text())
    work = read_sweep(file)
    rows = work.cells()
    built = parser()
    for row in {row.name: row for row in (rows[0], rows[-1])}.values():
        line = agents_line(content, row)
        assert line[: line.index("evaluate")] == ["./launch.sh", "--"]
        theirs = built.parse_args(line[line.index("evaluate") + 1 :])
        ours = built.parse_args([*work.arguments, *row.arguments])
        assert built.dump(theirs) == built.dump(ours)


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_a_command_is_one_complete_launch(file: Path) -> None:
    content = yaml.safe_load(file.read_text())
    row = read_sweep(file).cells()[-1]
    line = agents_line(content, row)
    dry = [line[0], "--devices", "2", "--dry-run", *line[1:]]
    done = subprocess.run(
        dry, cwd=REPOSITORY, env={"PATH": os.environ["PATH"]}, capture_output=True, text=True, check=True
    )
    words = shlex.split(done.stdout)
    assert words[words.index("--nproc-per-node") + 1] == "2"
    given = words[words.index("evaluate") + 1 :]
    assert given[: len(line[line.index("evaluate") + 1 :])] == line[line.index("evaluate") + 1 :]
    assert content["program"] == line[0]


def test_the_grid_of_one_pass_has_27_points() -> None:
    assert len(read_sweep(REPOSITORY / "configs" / "sweeps" / "fossil_grid_miniature.yaml").cells()) == 27


@pytest.mark.parametrize("name", ["references", "prototypes", "gamma"])
def test_fossils_figure_2_varies_one_setting_from_the_best(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(REPOSITORY)
    best = {"num_references": 150, "num_prototypes": 10, "gamma": 0.5}
    varied = {"references": "num_references", "prototypes": "num_prototypes", "gamma": "gamma"}[name]
    work = read_sweep(REPOSITORY / "configs" / "sweeps" / f"fossil_figure2_{name}_ade.yaml")
    seen = []
    for cell in work.cells():
        parsed = parser().parse_args([*work.arguments, *cell.arguments])
        found = {key: parsed.method.init_args[key] for key in best}
        assert {key: found[key] for key in best if key != varied} == {key: best[key] for key in best if key != varied}
        assert parsed.data.class_path.endswith("ADE20K")
        seen.append(found[varied])
    assert best[varied] in seen
    assert len(set(seen)) == len(seen) > 5


def test_fossils_figure_3_is_with_and_without_opencut(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(REPOSITORY)
    study = read_table(REPOSITORY / "configs" / "tables" / "fossil_figure3_ade.yaml")
    whole, without = (
        plain(parser().parse_args([*study.arguments, *cell.arguments]).method)["init_args"] for cell in study.cells()
    )
    assert whole["regions"]["class_path"].endswith("OpenCut")
    assert without["regions"] is None
    assert {**whole, "regions": None} == without


@pytest.mark.parametrize(
    ("file", "swept"),
    [
        ("ovdiff_filters_miniature", {"method.clip", "method.stuff_similarity_threshold"}),
        ("freeseg_diff_refinement_miniature", {"method.refiner", "method.relative"}),
    ],
)
def test_off_means_off(file: str, swept: set[str], monkeypatch: pytest.MonkeyPatch) -> None:
    # W&B's agent would write YAML's null as "None", which is a word.
    monkeypatch.chdir(REPOSITORY)
    work = read_sweep(REPOSITORY / "configs" / "sweeps" / f"{file}.yaml")
    row = work.cells()[0]
    assert set(row.overrides) == swept
    off = [name for name, value in row.overrides.items() if value == "null"]
    assert off
    parsed = parser().parse_args([*work.arguments, *row.arguments])
    assert [parsed[name.replace("method.", "method.init_args.")] for name in off] == [None] * len(off)
