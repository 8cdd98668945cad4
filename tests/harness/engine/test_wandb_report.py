"""``--logger wandb``: what a run directory knows arrives, no secret does, and its failures cost no result."""

import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import wandb
import yaml
from wandb.proto import wandb_internal_pb2

from harness.engine import wandb_report
from tests.running import CLEAN, SQUARES, TESTS, Outcome, Ranks

KEY = "5ec4e7" * 6 + "abcd"  # 40 characters, as W&B's own


@pytest.fixture(autouse=True)
def nobody(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Nobody is logged in, and W&B's client keeps its files below the test's folder."""
    for name in [name for name in os.environ if name.startswith("WANDB_")]:
        monkeypatch.delenv(name)
    for name in ("DATA", "CACHE", "CONFIG"):
        monkeypatch.setenv(f"WANDB_{name}_DIR", str(tmp_path / "client" / name))
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    yield
    wandb.teardown()  # or the next test's client would remember this one's environment


class Logged:
    """What W&B's client wrote of one offline run, read as ``wandb sync`` reads it.

    Args:
        folder: ``offline-run-...``.
    """

    def __init__(self, folder: Path) -> None:
        (file,) = folder.glob("*.wandb")
        self.folder = folder
        self.config: dict[str, Any] = {}
        self.history: dict[str, Any] = {}
        self.files: dict[str, set[str]] = {}
        for content in _chunks(file.read_bytes()):
            record = wandb_internal_pb2.Record()
            record.ParseFromString(content)
            if record.HasField("run"):
                self.run = record.run
                self._keep(self.config, record.run.config.update)
            self._keep(self.config, record.config.update)
            self._keep(self.history, record.history.item)
            artifact = record.artifact if record.HasField("artifact") else record.request.log_artifact.artifact
            if artifact.name:
                self.files[artifact.type] = {entry.path for entry in artifact.manifest.contents}

    def _keep(self, into: dict[str, Any], items: Any) -> None:
        for item in items:
            *path, last = item.nested_key or [item.key]
            inner = into
            for key in path:
                inner = inner.setdefault(key, {})
            inner[last] = json.loads(item.value_json)

    def media(self, path: str) -> Path:
        return self.folder / "files" / path


def _chunks(content: bytes) -> Iterator[bytes]:
    """The records of a file in LevelDB's log format, whose first seven bytes are W&B's own."""
    block, position, whole = 2**15, 7, b""
    while position + 7 <= len(content):
        if block - position % block < 7:
            position += block - position % block
            continue
        size, kind = int.from_bytes(content[position + 4 : position + 6], "little"), content[position + 6]
        whole += content[position + 7 : position + 7 + size]
        position += 7 + size
        if kind in (1, 4):  # a whole record, or the last piece of one
            yield whole
            whole = b""


def runs(folder: Path) -> list[Logged]:
    return [Logged(each) for each in sorted((folder / "wandb").glob("offline-run-*"))]


def results(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / "results.json").read_text())
    return found


def below(*folders: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for folder in folders for path in folder.rglob("*") if path.is_file()}


def test_a_run_is_logged_whole(evaluate: Callable[..., Outcome], tmp_path: Path) -> None:
    folder = tmp_path / "run"
    done = evaluate("--logger", "wandb", "--wandb.images", "2", "--wandb.tags", "[a, b]", "--wandb.project", "mine")
    assert done.code == 0, done.err
    (logged,) = runs(folder)
    assert f"wandb sync {logged.folder}" in done.out
    assert done.out.splitlines()[-1] == str(folder)
    found = results(folder)
    assert logged.run.project == "mine"
    assert logged.run.display_name == "run"
    assert set(logged.run.tags) == {"a", "b"}
    config = yaml.safe_load((folder / "config.yaml").read_text())
    assert {key: logged.config[key] for key in config} == config
    assert logged.config["fingerprints"] == {
        "protocol": found["protocol"]["fingerprint"],
        "data": found["data_fingerprint"],
        "weights": found["weights"],
        "bank": found["bank"],
    }
    for score in ("miou", "pixel_accuracy", "mean_accuracy", "per_image_miou", "num_images"):
        assert logged.history[score] == found[score]
    table = json.loads(logged.media(logged.history["per_class"]["path"]).read_text())
    assert table["columns"][:2] == ["class", "iou"]
    assert [row[:2] for row in table["data"]] == [[row["name"], row["iou"]] for row in found["per_class"]]
    assert sorted(key for key in logged.history if key.startswith("images/")) == ["images/000000", "images/000001"]
    assert {"results.json", "images.jsonl", "config.yaml", "run.json"} <= logged.files["run_directory"]
    assert not any(name.startswith(("wandb/", ".", "records")) for name in logged.files["run_directory"])


def test_overlays_are_the_prediction_and_the_truth(evaluate: Callable[..., Outcome], tmp_path: Path) -> None:
    evaluate("--logger", "wandb", "--wandb.images", "2", "--save_label_maps", "true")
    (logged,) = runs(tmp_path / "run")
    names = [row["name"] for row in results(tmp_path / "run")["per_class"]]
    records = [json.loads(line) for line in (tmp_path / "run" / "images.jsonl").read_text().splitlines()]
    for number in (0, 1):
        image = logged.history[f"images/{number:06d}"]
        assert image["caption"] == records[number]["id"]
        masks = {
            name: cv2.imread(str(logged.media(mask["path"])), cv2.IMREAD_UNCHANGED)
            for name, mask in image["masks"].items()
        }
        assert set(masks) == {"prediction", "ground_truth"}
        kept = cv2.imread(str(logged.media(image["path"])))
        assert all(mask.shape[:2] == kept.shape[:2] for mask in masks.values())
        counted = np.bincount(masks["ground_truth"].reshape(-1), minlength=256)
        labelled = dict(zip(records[number]["classes"], records[number]["label"], strict=True))
        assert {index: int(n) for index, n in enumerate(counted[:255]) if n} == {k: n for k, n in labelled.items() if n}
        right = (masks["prediction"] == masks["ground_truth"]).sum()
        assert right == sum(records[number]["intersection"])
    known = [dict(each["value"]) for each in logged.config["_wandb"]["mask/class_labels"].values()]
    assert {**{str(index): name for index, name in enumerate(names)}, "255": "ignored"} in known


def test_no_secret_is_written(
    evaluate: Callable[..., Outcome], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Online, so that the key is used; but nobody answers there.
    secrets = {"WANDB_API_KEY": KEY, "MY_PASSWORD": "pa55-word-of-mine"}
    for name, value in {**secrets, "WANDB_BASE_URL": "http://127.0.0.1:9", "WANDB_INIT_TIMEOUT": "1"}.items():
        monkeypatch.setenv(name, value)
    done = evaluate("--logger", "wandb")
    assert done.code == 0, done.err
    assert "logged offline" in done.out
    assert runs(tmp_path / "run")[-1].history["miou"] == results(tmp_path / "run")["miou"]
    for path, content in below(tmp_path).items():
        for secret in secrets.values():
            assert secret.encode() not in content, path


def test_without_a_key_nothing_is_asked(
    evaluate: Callable[..., Outcome], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WANDB_MODE", "online")
    monkeypatch.setattr("builtins.input", lambda *given: pytest.fail("asked"))
    monkeypatch.setattr("getpass.getpass", lambda *given: pytest.fail("asked"))
    assert evaluate("--logger", "wandb").code == 0
    assert len(runs(tmp_path / "run")) == 1
    monkeypatch.setenv("WANDB_MODE", "disabled")
    assert evaluate("--logger", "wandb", run_dir=tmp_path / "other").code == 0
    assert not (tmp_path / "other" / "wandb").exists()


def test_a_key_in_netrc_is_enough_to_be_online(tmp_path: Path) -> None:
    assert wandb_report.client_mode() == "offline"
    (tmp_path / "netrc").write_text(f"machine api.wandb.ai\n  login user\n  password {KEY}\n")
    assert wandb_report.client_mode() == "online"


def test_a_resumed_run_is_the_same_run(evaluate: Callable[..., Outcome], tmp_path: Path) -> None:
    folder = tmp_path / "run"
    assert evaluate("--data.count", "3", "--logger", "wandb").code == 0
    # Again, complete: nothing new to tell.
    again = evaluate("--data.count", "3", "--logger", "wandb")
    assert again.code == 0
    assert "W&B" not in again.out
    (first,) = runs(folder)
    lines = (folder / "images.jsonl").read_text().splitlines()
    (folder / "images.jsonl").write_text(lines[0] + "\n")
    assert evaluate("--data.count", "3", "--logger", "wandb").code == 0
    second = runs(folder)[-1]
    assert second.folder != first.folder
    assert second.run.run_id == first.run.run_id == json.loads((folder / "wandb.json").read_text())["id"]
    assert second.history["images/000000"]["sha256"] == first.history["images/000000"]["sha256"]


def test_a_failing_logger_costs_no_result(
    evaluate: Callable[..., Outcome], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*given: Any, **named: Any) -> None:
        raise RuntimeError("the moon is\nin the way")

    with monkeypatch.context() as patch:
        patch.setattr(wandb.Run, "log_artifact", fail)
        failed = evaluate("--logger", "wandb")
    assert failed.code == 2
    assert "mIoU" in failed.out
    assert "the moon is in the way" in failed.err
    assert str(tmp_path / "run") in failed.err
    assert results(tmp_path / "run")["status"] == "complete"
    assert evaluate("--logger", "wandb").code == 0
    assert runs(tmp_path / "run")[-1].files["run_directory"]


def test_a_missing_client_is_said_before_the_first_image(
    evaluate: Callable[..., Outcome], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = wandb_report.importlib.util.find_spec
    monkeypatch.setattr(wandb_report.importlib.util, "find_spec", lambda name: None if name == "wandb" else found(name))
    failed = evaluate("--logger", "wandb")
    assert failed.code == 2
    assert "pip install" in failed.err
    assert not (tmp_path / "run").exists()
    assert "'wandb'" not in evaluate("--logger", "tensorboard").out


def test_ranks_send_one_run(ranks: Ranks, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # The ranks' environment is that of a terminal in which nobody is logged in.
    kept = {name: value for name, value in os.environ.items() if name.startswith(("WANDB_", "NETRC"))}
    for name, value in kept.items():
        monkeypatch.setitem(CLEAN, name, value)
    given = ("--config", str(SQUARES), "--run_dir", str(tmp_path / "run"), "--logger", "wandb", "--wandb.images", "3")
    both = ranks.ovseg(2, "evaluate", *given)
    assert [each.code for each in both] == [0, 0], both[0].err + both[1].err
    (logged,) = runs(tmp_path / "run")
    assert sum(key.startswith("images/") for key in logged.history) == 3
    assert sum("wandb sync" in each.out for each in both) == 1


def test_images_of_other_nodes_arrive(ranks: Ranks, tmp_path: Path) -> None:
    written = {0: ["000000_image.png"], 1: ["000001_image.png", "000002_image.png", "000009_image.png"]}
    for node, names in written.items():
        folder = tmp_path / f"node{node}" / wandb_report.IMAGE_FOLDER
        folder.mkdir(parents=True)
        for name in names:
            (folder / name).write_bytes(f"{node} {name}".encode())
    both = ranks.run(TESTS / "harness" / "ranks" / "result_images.py", 2, str(tmp_path))
    assert [each.code for each in both] == [0, 0], both[0].err + both[1].err
    found = {path.name: path.read_text() for path in (tmp_path / "node0").rglob("*.png")}
    assert found == {
        "000000_image.png": "0 000000_image.png",
        "000001_image.png": "1 000001_image.png",
        "000002_image.png": "1 000002_image.png",
    }


def test_the_agents_run_is_the_one_that_it_waits_for(
    evaluate: Callable[..., Outcome], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WANDB_SWEEP_ID", "s5")
    monkeypatch.setenv("WANDB_RUN_ID", "agents-own")
    done = evaluate()  # the agent's command names no logger
    assert done.code == 0, done.err
    (logged,) = runs(tmp_path / "run")
    assert logged.run.run_id == "agents-own"
    assert logged.history["miou"] == results(tmp_path / "run")["miou"]


def test_points_of_a_study_are_runs_of_a_group(ovseg: Callable[..., Outcome], tmp_path: Path) -> None:
    file = tmp_path / "table.yaml"
    rows = [{"name": "four"}, {"name": "eight", "set": {"method.patch": 8}}]
    file.write_text(yaml.safe_dump({"title": "Patches", "config": str(SQUARES), "rows": rows}))
    done = ovseg("table", file, "--run_dir", tmp_path / "out", "--logger", "wandb", "--wandb.images", "0")
    assert done.code == 0, done.err
    logged = [run for folder in sorted((tmp_path / "out").glob("*-*")) for run in runs(folder)]
    assert [each.run.run_group for each in logged] == ["Patches"] * 2
    assert len({each.run.run_id for each in logged}) == 2
    assert sorted(each.config["method"]["init_args"]["patch"] for each in logged) == [4, 8]
