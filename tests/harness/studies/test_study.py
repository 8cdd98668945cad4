"""``ovseg table`` and ``ovseg sweep``: every point is a run of its own, and what a person reads comes from the runs."""

import csv
import json
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest
import yaml

from harness import ConfigurationError
from harness.studies.readers import read_table
from harness.studies.study import Cell, CellResult, Study, Variant
from harness.studies.sweeps import read_sweep
from harness.studies.tables import body, header
from tests.running import SQUARES, Outcome, Ranks

ROWS = [
    {"name": "patch 4"},
    {"name": "patch 16 | <b>", "set": {"method.patch": 16}, "published": 12.34},
]


@pytest.fixture
def table(tmp_path: Path) -> Path:
    file = tmp_path / "table.yaml"
    columns = [{"name": "five", "set": {"data.classes": 5}}, {"name": "three", "set": {"data.classes": 3}}]
    config = str(SQUARES)
    file.write_text(yaml.safe_dump({"title": "Patches", "config": config, "rows": ROWS, "columns": columns}))
    return file


def sweep_file(folder: Path, **changes: object) -> Path:
    content = {
        "name": "squares",
        "program": "./launch.sh",
        "method": "grid",
        "metric": {"name": "miou", "goal": "maximize"},
        "parameters": {"method.patch": {"values": [2, 4, 16]}, "data.count": {"value": 3}},
        "command": ["./launch.sh", "--", "evaluate", "--config", str(SQUARES), "${args}"],
    }
    file = folder / "sweep.yaml"
    file.write_text(yaml.safe_dump(content | changes))
    return file


def test_a_table_holds_what_its_runs_found(table: Path, ovseg: Callable[..., Outcome], tmp_path: Path) -> None:
    folder = tmp_path / "out"
    first = ovseg("table", table, "--run_dir", folder, "--data.limit", "3")
    assert first.code == 0, first.err
    found = json.loads((folder / "table.json").read_text())["found"]
    assert [(each["row"], each["column"]) for each in found] == [
        (row["name"], column) for row in ROWS for column in ("five", "three")
    ]
    for each in found:
        results = json.loads((folder / each["run"] / "results.json").read_text())
        assert results["miou"] == each["miou"]
        assert results["num_images"] == 3
        assert len(results["per_class"]) == {"five": 5, "three": 3}[each["column"]]
        config = yaml.safe_load((folder / each["run"] / "config.yaml").read_text())
        assert config["method"]["init_args"]["patch"] == (4 if each["row"] == "patch 4" else 16)
    rows = list(csv.reader((folder / "table.csv").open()))
    assert rows[0] == ["", "five", "Δ", "three", "Δ", "published"]
    assert rows[1][1] == f"{found[0]['miou']:.1f}"
    assert float(rows[2][2]) == pytest.approx(round(found[2]["miou"], 1) - round(found[0]["miou"], 1), abs=0.051)
    assert rows[2][5] == "12.3"
    assert "patch 16 \\| <b>" in (folder / "table.md").read_text()
    # Again: every run is complete, so nothing is predicted (a record's seconds stay) and the table is the same.
    seconds = {file: json.loads(file.read_text())["seconds"] for file in folder.glob("*/results.json")}
    before = (folder / "table.json").read_bytes()
    assert ovseg("table", table, "--run_dir", folder, "--data.limit", "3").code == 0
    assert (folder / "table.json").read_bytes() == before
    assert {file: json.loads(file.read_text())["seconds"] for file in folder.glob("*/results.json")} == seconds


def test_a_table_over_seeds_gives_mean_and_deviation(ovseg: Callable[..., Outcome], tmp_path: Path) -> None:
    file, folder = tmp_path / "seeds.yaml", tmp_path / "out"
    rows = [{"name": "patch 4"}, {"name": "patch 16", "set": {"method.patch": 16}}]
    rows = [{**each, "set": {"method": "tinyseg.SeededColour", **each.get("set", {})}} for each in rows]
    content = {"title": "Patches", "config": str(SQUARES), "rows": rows}
    file.write_text(yaml.safe_dump(content | {"seeds": [0, 1, 2]}))
    done = ovseg("table", file, "--run_dir", folder)
    assert done.code == 0, done.err
    lines = list(csv.reader((folder / "table.csv").open()))
    means = []
    for number, each in enumerate(json.loads((folder / "table.json").read_text())["found"]):
        scores = [json.loads((folder / run["run"] / "results.json").read_text())["miou"] for run in each["per_seed"]]
        assert [run["seed"] for run in each["per_seed"]] == [0, 1, 2]
        assert len(set(scores)) == 3
        means.append(float(np.mean(scores)))
        assert each["miou"] == pytest.approx(means[-1])
        assert each["deviation"] == pytest.approx(float(np.std(scores, ddof=1)))
        assert lines[1 + number][1] == f"{np.mean(scores):.1f} ± {np.std(scores, ddof=1):.1f}"
        assert lines[1 + number][1] in done.out
    assert lines[2][2] == f"{round(means[1], 1) - round(means[0], 1):+.1f}"
    assert len(list(folder.glob("*/results.json"))) == 6
    # The command's seeds win, and are read where they ran already.
    again = ovseg("table", file, "--run_dir", folder, "--seeds", "1,2")
    assert again.code == 0, again.err
    assert "4 of 4: patch 16 (seed 2) (finished)" in again.out
    file.write_text(yaml.safe_dump({**content, "rows": [{"name": "no seed"}]}))
    failed = ovseg("table", file, "--run_dir", folder, "--seeds", "1,2")
    assert failed.code == 2
    assert "'no seed': seeds: tinyseg.NearestColour has no seed" in failed.err


def test_a_sweep_draws_its_curve(ovseg: Callable[..., Outcome], tmp_path: Path) -> None:
    folder = tmp_path / "out"
    done = ovseg("sweep", sweep_file(tmp_path), "--run_dir", folder)
    assert done.code == 0, done.err
    rows = list(csv.reader((folder / "table.csv").open()))
    assert rows[0] == ["patch", "mIoU"]
    assert [row[0] for row in rows[1:]] == ["2", "4", "16"]
    image = cv2.imread(str(folder / "curves.png"))
    assert image.shape[0] > 300
    assert len(np.unique(image.reshape(-1, 3), axis=0)) > 10


def test_a_study_is_the_same_on_two_ranks(
    table: Path, ovseg: Callable[..., Outcome], ranks: Ranks, tmp_path: Path
) -> None:
    ovseg("table", table, "--run_dir", tmp_path / "one")
    both = ranks.ovseg(2, "table", str(table), "--run_dir", str(tmp_path / "two"))
    assert [each.code for each in both] == [0, 0], both[0].err + both[1].err
    assert (tmp_path / "one" / "table.csv").read_text() == (tmp_path / "two" / "table.csv").read_text()


def test_all_rows_are_checked_before_the_first_runs(table: Path, ovseg: Callable[..., Outcome], tmp_path: Path) -> None:
    content = yaml.safe_load(table.read_text())
    content["rows"].append({"name": "typo", "set": {"method.pach": 3}})
    table.write_text(yaml.safe_dump(content))
    failed = ovseg("table", table, "--run_dir", tmp_path / "out")
    assert failed.code == 2
    assert "'typo'" in failed.err
    assert "pach" in failed.err
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ({"rows": [{"name": "a"}]}, "config"),
        ({"config": "x.yaml"}, "rows"),
        ({"config": "x.yaml", "rows": [{"name": "a"}, {"name": "a"}]}, "one name"),
        ({"config": "x.yaml", "rows": [{"name": "a", "sets": {}}]}, "each row"),
        ({"config": "x.yaml", "rows": [{"name": "a"}], "row": 1}, "'row'"),
        ([1], "settings by name"),
    ],
)
def test_what_is_wrong_with_a_table_is_said(content: object, said: str, tmp_path: Path) -> None:
    file = tmp_path / "wrong.yaml"
    file.write_text(yaml.safe_dump(content))
    with pytest.raises(ConfigurationError, match=said):
        read_table(file)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"method": "hyperband"}, "grid, random or bayes"),
        ({"method": None}, "has none"),
        ({"method": "random"}, "run_cap"),
        ({"method": "bayes", "metric": None}, "goal: maximize"),
        ({"method": "bayes", "metric": {"name": "miou"}}, "goal: maximize"),
        ({"metric": {"name": "loss", "goal": "minimize"}}, "per_image_miou"),
        ({"metric": {"name": "miou", "goal": "max"}}, "maximize or minimize"),
        ({"run_cap": 0}, "run_cap"),
        ({"parameters": {}}, "parameters"),
        ({"parameters": {"method.patch": {"min": 1.0, "max": 3.0}}}, "method.patch"),
        ({"command": ["python", "train.py"]}, "evaluate"),
        ({"command": ["launch.sh", "evaluate", "--config", "x.yaml"]}, "args"),
        ({"command": ["launch.sh", "evaluate", "${args_no_hyphens}", "${args}"]}, "args"),
    ],
)
def test_what_is_wrong_with_a_sweep_is_said(changes: dict[str, object], said: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=said):
        read_sweep(sweep_file(tmp_path, **changes))


def test_a_sweep_is_the_product_of_its_values(tmp_path: Path) -> None:
    parameters = {"a.b": {"values": [1, 2]}, "c": {"values": ["x", "y"]}, "d": {"value": 5}}
    study = read_sweep(sweep_file(tmp_path, parameters=parameters))
    assert [dict(row.overrides) for row in study.rows] == [
        {"a.b": a, "c": c, "d": 5} for a in (1, 2) for c in ("x", "y")
    ]
    assert study.cells()[0].arguments == ["--a.b=1", "--c=x", "--d=5"]
    assert study.arguments == ("--config", str(SQUARES))
    assert study.parameters == ["a.b", "c"]


def searched(folder: Path, **changes: object) -> Path:
    parameters = {"method.patch": {"min": 1, "max": 24}, "data.count": {"value": 2}}
    return sweep_file(folder, **({"method": "bayes", "parameters": parameters} | changes))


def patches(folder: Path) -> list[int]:
    return [each["flags"]["method.patch"] for each in json.loads((folder / "table.json").read_text())["found"]]


def test_a_random_sweep_is_known_in_advance(ovseg: Callable[..., Outcome], tmp_path: Path) -> None:
    file = searched(tmp_path, method="random", run_cap=3)
    done = ovseg("sweep", file, "--run_dir", tmp_path / "out", "--suggestion_seed", "5")
    assert done.code == 0, done.err
    study = read_sweep(file, seed=5)
    assert isinstance(study, Study)
    assert patches(tmp_path / "out") == [row.overrides["method.patch"] for row in study.rows]
    assert "best mIoU" in done.out
    assert cv2.imread(str(tmp_path / "out" / "curves.png")).shape[0] > 300
    more = read_sweep(file, count=6, seed=5)
    other = read_sweep(file, seed=6)
    assert isinstance(more, Study)
    assert isinstance(other, Study)
    assert more.rows[:3] == study.rows != other.rows
    assert len(more.rows) == 6


def test_a_search_resumes_where_it_stopped(ovseg: Callable[..., Outcome], tmp_path: Path) -> None:
    file = searched(tmp_path, early_terminate={"type": "hyperband", "min_iter": 3})
    whole = ovseg("sweep", file, "--run_dir", tmp_path / "whole", "--count", "6")
    assert whole.code == 0, whole.err
    assert whole.out.count("early_terminate is not used") == 1
    folder = tmp_path / "parts"
    assert ovseg("sweep", file, "--run_dir", folder, "--count", "5").code == 0
    # Samples are indices of the whole numbers from 1.
    kept = json.loads((folder / "suggestions.json").read_text())["sampled"]
    assert [each["method.patch"] + 1 for each in kept] == patches(tmp_path / "whole")[:5]
    finished = {each: json.loads((each / "results.json").read_text())["seconds"] for each in folder.glob("*-*")}
    assert len(finished) == 5
    again = ovseg("sweep", file, "--run_dir", folder, "--count", "6")
    assert again.code == 0, again.err
    lines = [line for line in again.out.splitlines() if " of 6: patch" in line]
    assert [line.endswith(" (finished)") for line in lines] == [True] * 5 + [False]
    assert {each: json.loads((each / "results.json").read_text())["seconds"] for each in finished} == finished
    assert patches(folder) == patches(tmp_path / "whole")
    assert cv2.imread(str(folder / "curves.png")).shape[0] > 300
    other = ovseg("sweep", file, "--run_dir", folder, "--count", "6", "--suggestion_seed", "1")
    assert other.code == 2
    assert "seed: 0 -> 1" in other.err


def test_a_search_tries_a_kept_suggestion_that_was_not_finished(ovseg: Callable[..., Outcome], tmp_path: Path) -> None:
    file, folder = searched(tmp_path), tmp_path / "out"
    assert ovseg("sweep", file, "--run_dir", folder, "--count", "3").code == 0
    # As an older version, or one with another library, may have suggested.
    journal = folder / "suggestions.json"
    content = json.loads(journal.read_text())
    content["sampled"].append({"method.patch": 6, "data.count": 0})
    journal.write_text(json.dumps(content))
    assert ovseg("sweep", file, "--run_dir", folder, "--count", "5").code == 0
    assert patches(folder)[3] == 7
    assert len(patches(folder)) == 5


def test_ranks_try_the_same_suggestions(ovseg: Callable[..., Outcome], ranks: Ranks, tmp_path: Path) -> None:
    file = searched(tmp_path)
    ovseg("sweep", file, "--run_dir", tmp_path / "one", "--count", "6")
    both = ranks.ovseg(2, "sweep", str(file), "--run_dir", str(tmp_path / "two"), "--count", "6")
    assert [each.code for each in both] == [0, 0], both[0].err + both[1].err
    assert (tmp_path / "one" / "table.csv").read_text() == (tmp_path / "two" / "table.csv").read_text()


def test_a_search_ends_when_every_point_is_tried(ovseg: Callable[..., Outcome], tmp_path: Path) -> None:
    file = searched(tmp_path, parameters={"method.patch": {"values": [2, 4, 8]}}, run_cap=9)
    assert ovseg("sweep", file, "--run_dir", tmp_path / "out", "--data.limit", "1").code == 0
    assert sorted(patches(tmp_path / "out")) == [2, 4, 8]


def test_the_best_point_is_that_of_the_metric_and_the_goal(ovseg: Callable[..., Outcome], tmp_path: Path) -> None:
    file = sweep_file(tmp_path, metric={"name": "pixel_accuracy", "goal": "minimize"})
    done = ovseg("sweep", file, "--run_dir", tmp_path / "out")
    assert done.code == 0, done.err
    rows = list(csv.reader((tmp_path / "out" / "table.csv").open()))
    assert rows[0] == ["patch", "mIoU", "pixel accuracy"]
    worst = min(rows[1:], key=lambda row: float(row[2]))
    assert f"best pixel accuracy: {worst[2]} at patch {worst[0]}" in done.out


def test_every_first_point_is_checked_before_a_search(ovseg: Callable[..., Outcome], tmp_path: Path) -> None:
    file = searched(tmp_path, parameters={"method.pach": {"min": 1, "max": 24}}, run_cap=4)
    failed = ovseg("sweep", file, "--run_dir", tmp_path / "out")
    assert failed.code == 2
    assert "pach" in failed.err
    assert not (tmp_path / "out").exists()


def test_run_directories_differ_and_hold_no_name_of_a_user() -> None:
    rows = [Variant("../../a"), Variant("../../a", {"x": 1}), Variant("ä"), Variant("/")]
    names = [Cell(row, column, "", {}).folder for row in rows for column in (Variant("m"), Variant("n"))]
    assert len(set(names)) == len(names)
    assert all(set(name) <= set("abcdefghijklmnopqrstuvwxyz0123456789-") for name in names)


def test_differences_are_between_the_rounded_scores() -> None:
    study = Study("t", (), (Variant("a"), Variant("b"), Variant("c")))
    scores = {"a": 50.04, "b": 49.96, "c": None}
    outcomes = [CellResult(study.cell(row), miou=scores[row.name]) for row in study.rows]
    assert header(study) == ["", "mIoU", "Δ"]
    assert body(study, outcomes) == [["a", "50.0", ""], ["b", "50.0", "+0.0"], ["c", "-", ""]]
    assert len(body(study, outcomes[:1])) == 1
