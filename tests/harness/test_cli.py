"""The command line: what it prints, what it writes, and how it says what is wrong."""

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from harness.commands.evaluate import parser
from harness.studies.readers import read_table
from harness.studies.sweeps import read_sweep
from tests.running import REPOSITORY, SQUARES, Outcome, images, integers

KEYS = {
    "schema",
    "status",
    "method",
    "data",
    "protocol",
    "miou",
    "pixel_accuracy",
    "mean_accuracy",
    "num_images",
    "skipped",
    "per_class",
    "world_size",
    "seconds",
    "versions",
    "commit",
    "weights",
}


def results(outcome: Outcome) -> dict[str, Any]:
    return json.loads((outcome.run_dir / "results.json").read_text())


def test_the_installed_command_evaluates_on_two_processes(
    environment: dict[str, str], evaluate: Callable[..., Outcome], tmp_path: Path
) -> None:
    """As a person does it: Lightning launches the second rank by itself; plug-ins are found by their short names."""
    line = ["ovseg", "evaluate", "--method", "nearest_colour", "--data=squares", "--config", SQUARES]
    named = tmp_path / "no class.yaml"
    named.write_text("".join(SQUARES.read_text().partition("protocol:")[1:]))
    line[-1] = named
    line += ["--trainer.devices", "2", "--run_dir", tmp_path / "two", "--data.num_workers", "1"]
    path = f"{Path(sys.executable).parent}{os.pathsep}{environment['PATH']}"
    done = subprocess.run(line, env=environment | {"PATH": path}, capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    assert done.stdout.splitlines()[-1] == str(tmp_path / "two")
    assert done.stdout.count("mIoU") == 1
    assert integers(tmp_path / "two") == integers(evaluate().run_dir)


def test_results_have_the_documented_keys(evaluate: Callable[..., Outcome]) -> None:
    outcome = evaluate()
    found = results(outcome)
    assert found.keys() >= KEYS
    assert found["schema"] == 1
    assert found["status"] == "complete"
    assert (found["method"], found["data"]) == ("nearest_colour", "squares")
    assert found["protocol"].keys() == {"name", "fingerprint"}
    assert found["protocol"]["name"] == "squares"
    assert re.fullmatch("[0-9a-f]{16}", found["protocol"]["fingerprint"])
    assert (found["num_images"], found["skipped"], found["world_size"]) == (5, 0, 1)
    assert [row["name"] for row in found["per_class"]] == ["background", *(f"class {i}" for i in range(1, 5))]
    for row in found["per_class"]:
        assert row.keys() == {"name", "iou", "accuracy", "intersection", "prediction", "label"}
        union = row["prediction"] + row["label"] - row["intersection"]
        assert row["iou"] == 100 * row["intersection"] / union
    assert found["miou"] == pytest.approx(np.mean([row["iou"] for row in found["per_class"]]))
    assert 50 < found["miou"] < 100
    assert found["versions"].keys() >= {"python", "torch", "lightning", "ovseg"}
    assert list(found["weights"]) == ["scale"]
    assert (outcome.run_dir / "config.yaml").read_text().count("tinyseg.NearestColour") == 1
    assert f"{found['miou']:.1f}" in outcome.out


def test_undefined_scores_are_null(evaluate: Callable[..., Outcome]) -> None:
    found = results(evaluate("--data.count", 1, "--data.damaged", "[0]", "--data.on_error", "skip"))
    assert (found["miou"], found["pixel_accuracy"], found["mean_accuracy"]) == (None, None, None)
    assert (found["num_images"], found["skipped"]) == (0, 1)
    assert {row["iou"] for row in found["per_class"]} == {None}


def test_the_written_configuration_repeats_the_run(
    evaluate: Callable[..., Outcome], ovseg: Callable[..., Outcome], tmp_path: Path
) -> None:
    first = evaluate("--method.patch", 3, "--data.limit", 4).run_dir
    again = ovseg("evaluate", "--config", first / "config.yaml", "--run_dir", tmp_path / "again").run_dir
    assert integers(again) == integers(first)
    assert len(images(again)) == 4


def test_without_a_run_dir_a_new_one_is_made(
    ovseg: Callable[..., Outcome], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    made = [ovseg("evaluate", "--config", SQUARES, "--data.limit", 1).run_dir for _ in range(2)]
    assert made[0] != made[1]
    for run_dir in made:
        assert run_dir.parent == Path("runs")
        assert run_dir.name.startswith("nearest_colour-squares-")


@pytest.mark.parametrize("precision", ["32", "bf16-mixed", "16-true"])
def test_precisions_run_on_the_cpu(precision: str, evaluate: Callable[..., Outcome]) -> None:
    found = results(evaluate("--trainer.precision", precision))
    assert found["miou"] > 50


def test_images_are_kept_when_asked_for(evaluate: Callable[..., Outcome]) -> None:
    run_dir = evaluate("--save_label_maps", "true", "--save_overlays", 2, "--save_explanations", 1).run_dir
    assert sorted(path.name for path in (run_dir / "label_maps").iterdir()) == [f"00000{i}.png" for i in range(5)]
    assert sorted(path.name for path in (run_dir / "overlays").iterdir()) == ["000000.png", "000001.png"]
    for record in images(run_dir):
        with Image.open(run_dir / "label_maps" / f"{record.index:06d}.png") as file:
            assert file.mode == "P"
            assert set(np.unique(np.array(file))) >= {
                c for c, p in zip(record.classes, record.prediction, strict=True) if p
            }
    assert [path.name for path in (run_dir / "explanations").iterdir()] == ["000000.png"]
    for kind in ("overlays", "explanations"):
        with Image.open(run_dir / kind / "000000.png") as file:
            assert min(file.size) > 100


def test_corrupt_images_are_skipped_and_counted_when_told_to(evaluate: Callable[..., Outcome], tmp_path: Path) -> None:
    outcome = evaluate("--data.damaged", "[1,3]", "--data.on_error", "skip", "--data.batch_size", 2)
    found = results(outcome)
    assert (found["num_images"], found["skipped"], found["status"]) == (3, 2, "complete")
    assert "(2 skipped)" in outcome.out
    skipped = {record.index: record.skipped for record in images(outcome.run_dir)}
    assert skipped == {0: None, 1: "squares/1.png is damaged", 2: None, 3: "squares/3.png is damaged", 4: None}


def test_a_damaged_image_stops_by_default_and_keeps_what_is_done(
    evaluate: Callable[..., Outcome], tmp_path: Path
) -> None:
    outcome = evaluate("--data.damaged", "[3]")
    assert outcome.code == 2
    assert outcome.out == ""
    assert re.fullmatch(r"ovseg evaluate: squares/3\.png is damaged .*--data\.on_error skip.*\n", outcome.err)
    found = json.loads((tmp_path / "run" / "results.json").read_text())
    assert found["status"] == "failed"
    assert found["miou"] is None
    assert "squares/3.png is damaged" in found["error"]
    outcome = evaluate("--data.damaged", "[3]", "--data.on_error", "skip")
    assert results(outcome)["skipped"] == 1


# What is given, and what the one sentence must hold.
WRONG: dict[str, tuple[list[str], list[str]]] = {
    "flag": (["--metod", "x"], ["--metod"]),
    "method flag": (["--method.patches", "3"], ["method.patches", "did you mean 'patch'?"]),
    "data flag": (["--data.cuont", "3"], ["data.cuont", "did you mean 'count'?"]),
    "protocol flag": (["--protocol.strid", "3"], ["protocol.strid", "did you mean"]),
    "trainer flag": (["--trainer.device", "3"], ["trainer.device", "did you mean"]),
    "method class": (["--method", "methods.Nothing"], ["methods.Nothing"]),
    "method module": (["--method", "nowhere.Nothing"], ["nowhere.Nothing"]),
    "method name": (["--method", "nothing"], ["nothing"]),
    "a data class as method": (["--method", "tinyseg.Squares"], ["tinyseg.Squares"]),
    "data class": (["--data", "datamodules.Foldr"], ["datamodules.Foldr"]),
    "config": (["--config", "missing.yaml"], ["missing.yaml"]),
    "protocol file": (["--protocol", "missing/tcl.yaml"], ["missing/tcl.yaml"]),
    "method file": (["--method", "missing/clip_diy.yaml"], ["missing/clip_diy.yaml"]),
    "type": (["--method.patch", "many"], ["method.patch", "many"]),
    "data type": (["--data.count", "1.5"], ["data.count", "1.5"]),
    "choice": (["--data.on_error", "ignore"], ["data.on_error", "ignore"]),
    "protocol type": (["--protocol.window", "wide"], ["protocol.window", "wide"]),
    "protocol choice": (["--protocol.resize", "stretch"], ["protocol.resize", "stretch"]),
    "protocol value": (["--protocol.stride", "64"], ["stride 64 leaves gaps in window 32"]),
    "seed": (["--seed", "x"], ["seed", "x"]),
    "limit": (["--data.limit", "0"], ["limit must be at least 1, not 0"]),
    "batch size": (["--data.batch_size", "0"], ["batch_size"]),
    "precision": (["--trainer.precision", "12"], ["precision", "12"]),
    "devices": (["--trainer.devices", "zero"], ["devices"]),
    "no devices": (["--trainer.devices", "0"], ["devices"]),
    "accelerator": (["--trainer.accelerator", "abacus"], ["accelerator", "abacus"]),
    "strategy": (["--trainer.strategy", "luck"], ["strategy", "luck"]),
    "folder": (["--data", "datamodules.Folder", "--data.root", "missing/images"], ["missing/images"]),
    "run_dir": (["--run_dir", f"{SQUARES}/run"], ["--run_dir", "squares.yaml/run"]),
    "checkpoint": (["--method.background_threshold", "1"], ["method.background_threshold"]),
}


@pytest.mark.parametrize("case", WRONG)
def test_what_is_wrong_is_said_in_one_sentence(case: str, evaluate: Callable[..., Outcome]) -> None:
    arguments, named = WRONG[case]
    outcome = evaluate(*arguments)
    assert outcome.code == 2
    assert outcome.out == ""
    assert len(outcome.err.splitlines()) == 1, outcome.err
    assert outcome.err.startswith("ovseg evaluate: ")
    assert "Traceback" not in outcome.err
    assert len(outcome.err) < 400, outcome.err
    for each in named:
        assert each in outcome.err


# Contents of a configuration file, and what the one sentence must hold.
FILES: dict[str, tuple[str, list[str]]] = {
    "unknown key": ("metod: x\n", ["metod", "did you mean 'method'?"]),
    "nested key": ("method:\n  init_args:\n    patchh: 3\n", ["patchh", "did you mean 'patch'?"]),
    "protocol key": ("protocol:\n  widow: 3\n", ["protocol.widow", "did you mean"]),
    "trainer key": ("trainer:\n  device: 3\n", ["trainer.device", "did you mean"]),
    "class": ("method:\n  class_path: methods.Nothing\n", ["methods.Nothing"]),
    "type": ("data:\n  init_args:\n    count: many\n", ["data", "count", "many"]),
    "file": ("protocol: nowhere.yaml\n", ["nowhere.yaml"]),
    "no YAML": ("protocol: [1, 2\n", ["mine.yaml"]),
    "a list": ("- 1\n- 2\n", ["mine.yaml"]),
    "empty": ("", []),
}


@pytest.mark.parametrize("case", FILES)
def test_what_is_wrong_in_a_file_is_said_in_one_sentence(
    case: str, ovseg: Callable[..., Outcome], tmp_path: Path
) -> None:
    content, named = FILES[case]
    file = tmp_path / "mine.yaml"
    file.write_text(content)
    first = [] if case == "empty" else ["--config", SQUARES]
    outcome = ovseg("evaluate", *first, "--config", file, "--run_dir", tmp_path / "run")
    assert outcome.code == 2
    assert len(outcome.err.splitlines()) == 1, outcome.err
    assert len(outcome.err) < 400, outcome.err
    for each in named:
        assert each in outcome.err


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        ([], ["COMMAND"]),
        (["evalute"], ["evalute", "evaluate"]),
        (["evaluate"], ["method"]),
        (["evaluate", "--method", "nearest_colour", "--protocol.name", "x"], ["data"]),
        (["segment", "--config", str(SQUARES)], ["images"]),
        (["segment", "a.png", "--config", str(SQUARES), "--classes", "a, b"], ["a.png"]),
        (["segment", str(SQUARES), "--config", str(SQUARES), "--classes", " , "], ["--classes"]),
        (["segment", str(SQUARES), "--config", str(SQUARES), "--classes", "a, a"], ["'a'", "more than once"]),
        (["segment", str(SQUARES), "--config", str(SQUARES), "--classes", "a"], ["squares.yaml", "damaged or no"]),
        (["info", "--verbose"], ["--verbose"]),
    ],
)  # fmt: skip
def test_other_commands_say_what_is_wrong_too(
    arguments: list[str],
    named: list[str],
    ovseg: Callable[..., Outcome],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    outcome = ovseg(*arguments)
    assert outcome.code == 2
    assert len(outcome.err.splitlines()) == 1, outcome.err
    for each in named:
        assert each in outcome.err


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["--help"], ["evaluate", "segment", "info"]),
        (["evaluate", "--help"], ["--config", "--run_dir", "--protocol.window", "--trainer.devices", "--method.help"]),
        (["segment", "--help"], ["IMAGE", "--classes", "--out"]),
        (["info", "--help"], ["ovseg info"]),
        (["evaluate", "--method.help", "tinyseg.NearestColour"], ["--method.patch", "--method.window_batch"]),
        (["evaluate", "--method.help", "clip_diy"], ["--method.patch_sizes", "--method.overlap"]),
        (["evaluate", "--data.help", "folder"], ["--data.root", "--data.on_error"]),
    ],
)
def test_help_of_every_level(arguments: list[str], named: list[str], ovseg: Callable[..., Outcome]) -> None:
    outcome = ovseg(*arguments)
    assert outcome.code == 0, outcome.err
    for each in named:
        assert each in outcome.out
    assert "Traceback" not in outcome.out + outcome.err


def test_info_lists_plug_ins_of_all_packages(ovseg: Callable[..., Outcome], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "160")
    outcome = ovseg("info")
    assert outcome.code == 0
    for name in (
        "clip_diy",
        "nearest_colour",
        "tinyseg.NearestColour",
        "miniature",
        "folder",
        "squares",
        "torch",
        "cpu",
    ):
        assert name in outcome.out


@pytest.mark.parametrize("name", ["nearest_colour", "tinyseg.NearestColour"])
@pytest.mark.parametrize("flag", ["--method={}", "--method {}"])
def test_plug_ins_are_found_by_name_and_by_import_path(
    name: str, flag: str, ovseg: Callable[..., Outcome], tmp_path: Path
) -> None:
    given = [*flag.format(name).split(), "--data", "squares", "--data.limit", "1", "--protocol.name", "x"]
    outcome = ovseg("evaluate", *given, "--trainer.accelerator", "cpu", "--run_dir", tmp_path / "run")
    assert results(outcome)["method"] == "nearest_colour"


EXPERIMENTS = sorted((REPOSITORY / "configs" / "experiments").glob("*.yaml"))
STUDIES = [*(REPOSITORY / "configs" / "tables").glob("*.yaml"), *(REPOSITORY / "configs" / "sweeps").glob("*.yaml")]


@pytest.mark.parametrize("path", EXPERIMENTS, ids=lambda path: path.stem)
def test_experiments_of_the_repository_parse(path: Path) -> None:
    parser().parse_args(["--config", str(path)])


@pytest.mark.parametrize("path", sorted(STUDIES), ids=lambda path: path.stem)
def test_studies_of_the_repository_parse_at_every_point(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(REPOSITORY)  # a sweep's command is one of the repository's root
    study = read_table(path) if path.parent.name == "tables" else read_sweep(path)
    for cell in study.cells():
        parser().parse_args([*study.arguments, *cell.arguments])
