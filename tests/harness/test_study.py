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
from harness.study import Outcome as Found
from harness.study import Point, Study, body, folder_of, header, read_sweep, read_table
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


def test_a_sweep_draws_its_curve(ovseg: Callable[..., Outcome], tmp_path: Path) -> None:
    folder = tmp_path / "out"
    done = ovseg("sweep", sweep_file(tmp_path), "--run_dir", folder)
    assert done.code == 0, done.err
    rows = list(csv.reader((folder / "table.csv").open()))
    assert rows[0] == ["patch", "mIoU"]
    assert [row[0] for row in rows[1:]] == ["2", "4", "16"]
    picture = cv2.imread(str(folder / "curves.png"))
    assert picture.shape[0] > 300
    assert len(np.unique(picture.reshape(-1, 3), axis=0)) > 10


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
        ({"method": "bayes"}, "grid"),
        ({"parameters": {}}, "parameters"),
        ({"parameters": {"method.patch": {"min": 1, "max": 3}}}, "method.patch"),
        ({"command": ["python", "train.py"]}, "evaluate"),
    ],
)
def test_what_is_wrong_with_a_sweep_is_said(changes: dict[str, object], said: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=said):
        read_sweep(sweep_file(tmp_path, **changes))


def test_a_sweep_is_the_product_of_its_values(tmp_path: Path) -> None:
    parameters = {"a.b": {"values": [1, 2]}, "c": {"values": ["x", "y"]}, "d": {"value": 5}}
    study = read_sweep(sweep_file(tmp_path, parameters=parameters))
    assert [dict(row.flags) for row in study.rows] == [{"a.b": a, "c": c, "d": 5} for a in (1, 2) for c in ("x", "y")]
    assert study.rows[0].arguments() == ["--a.b=1", "--c=x", "--d=5"]
    assert study.arguments == ("--config", str(SQUARES))
    assert dict(study.parameters) == {"a.b": [1, 2], "c": ["x", "y"]}


def test_run_directories_differ_and_hold_no_name_of_a_user() -> None:
    rows = [Point("../../a"), Point("../../a", {"x": 1}), Point("ä"), Point("/")]
    names = [folder_of(row, column) for row in rows for column in (Point("m"), Point("n"))]
    assert len(set(names)) == len(names)
    assert all(set(name) <= set("abcdefghijklmnopqrstuvwxyz0123456789-") for name in names)


def test_differences_are_between_the_rounded_scores() -> None:
    study = Study("t", (), (Point("a"), Point("b"), Point("c")))
    (column,) = study.columns
    scores = {"a": 50.04, "b": 49.96, "c": None}
    outcomes = [Found(row, column, scores[row.name], Path()) for row in study.rows]
    assert header(study) == ["", "mIoU", "Δ"]
    assert body(study, outcomes) == [["a", "50.0", ""], ["b", "50.0", "+0.0"], ["c", "-", ""]]
    assert len(body(study, outcomes[:1])) == 1
