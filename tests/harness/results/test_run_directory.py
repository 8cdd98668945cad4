"""The run directory: its identity, its lock, and errors."""

import json
import re
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from harness import RunError
from harness.results.records import Record
from harness.results.run_directory import RunDirectory, default_name, differences
from tests.running import until

IDENTITY: dict[str, Any] = {
    "method": {"name": "a", "settings": {"init_args": {"patch_sizes": [64, 32]}}},
    "data": {"fingerprint": "0f"},
    "protocol": {"window": 448, "templates": ("a {}",)},
    "weights": {"clip": "12"},
}
HOLD = """
import pathlib, sys, time
from harness.results.run_directory import RunDirectory
directory = RunDirectory(pathlib.Path(sys.argv[1]))
directory.acquire()
print("held", flush=True)
time.sleep(600)
"""


def test_a_default_name_is_safe_and_unique() -> None:
    names = {default_name("CLIP-DIY/../x", "ADE 20k") for _ in range(20)}
    assert len(names) == 20
    for name in names:
        assert re.fullmatch(r"clip_diy_x-ade_20k-\d{8}-\d{6}-[0-9a-f]{4}", name)


def test_the_same_identity_is_accepted_again(tmp_path: Path) -> None:
    for _ in range(2):
        RunDirectory(tmp_path).ensure_identity(IDENTITY)


@pytest.mark.parametrize(
    ("path", "value", "named"),
    [
        (("method", "name"), "b", 'method.name: "a" -> "b"'),
        (("method", "settings", "init_args", "patch_sizes"), [64], "method.settings.init_args.patch_sizes"),
        (("data", "fingerprint"), "1f", 'data.fingerprint: "0f" -> "1f"'),
        (("protocol", "window"), 336, "protocol.window: 448 -> 336"),
        (("protocol", "window"), None, "protocol.window: 448 -> null"),
        (("weights", "clip"), "13", 'weights.clip: "12" -> "13"'),
        (("weights", "dino"), "99", 'weights.dino: null -> "99"'),
    ],
)
def test_another_identity_is_refused_by_name(path: tuple[str, ...], value: Any, named: str, tmp_path: Path) -> None:
    RunDirectory(tmp_path).ensure_identity(IDENTITY)
    changed = json.loads(json.dumps(IDENTITY))
    inner = changed
    for key in path[:-1]:
        inner = inner[key]
    inner[path[-1]] = value
    with pytest.raises(RunError, match="belongs to another evaluation") as caught:
        RunDirectory(tmp_path).ensure_identity(changed)
    assert named in str(caught.value)
    assert str(caught.value).count("->") == 1


def test_every_difference_is_named() -> None:
    old, new = {"a": {"x": 1, "y": [1]}, "b": 2}, {"a": {"x": 2, "y": [1]}, "c": 3}
    assert differences(old, new) == ["a.x: 1 -> 2", "b: 2 -> null", "c: null -> 3"]


@pytest.mark.parametrize("content", ["", "{", "[]", '{"schema": 1}', "7"])
def test_a_corrupt_identity_is_an_error(content: str, tmp_path: Path) -> None:
    (tmp_path / "run.json").write_text(content)
    with pytest.raises(RunError, match=r"run\.json is damaged"):
        RunDirectory(tmp_path).ensure_identity(IDENTITY)


def test_results_of_unknown_origin_are_not_overwritten(tmp_path: Path) -> None:
    (tmp_path / "results.json").write_text("{}")
    with pytest.raises(RunError, match=r"holds results but no run\.json"):
        RunDirectory(tmp_path).ensure_identity(IDENTITY)


def test_a_directory_is_locked_by_one_process_at_a_time(tmp_path: Path) -> None:
    first, second = RunDirectory(tmp_path), RunDirectory(tmp_path)
    first.acquire()
    with pytest.raises(RunError, match="is held by process"):
        second.acquire()
    first.release()
    second.acquire()
    second.release()


def test_a_lock_ends_with_its_process_even_if_killed(tmp_path: Path) -> None:
    holder = subprocess.Popen([sys.executable, "-c", HOLD, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    try:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        with pytest.raises(RunError, match=f"is held by process {holder.pid} on "):
            RunDirectory(tmp_path).acquire()
    finally:
        holder.send_signal(signal.SIGKILL)
        holder.wait()
    run_directory = RunDirectory(tmp_path)
    until(lambda: run_directory.acquire() is None)
    run_directory.release()


def test_a_path_that_cannot_be_a_directory_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(RunError, match=r"--run_dir .*file/run cannot be created"):
        RunDirectory(tmp_path / "file" / "run").acquire()


def test_writers_never_share_a_file(tmp_path: Path) -> None:
    directory = RunDirectory(tmp_path)
    for start in range(3):
        for rank in range(2):
            writer = directory.writer(rank)
            writer.write(Record(2 * start + rank, "x"))
            writer.close()
    assert sorted(len(part) for part in directory.records()) == [1] * 6


def test_merged_records_replace_those_of_the_ranks(tmp_path: Path) -> None:
    directory = RunDirectory(tmp_path)
    writer = directory.writer(0)
    writer.write(Record(0, "x"))
    writer.close()
    directory.write_images([Record(0, "x"), Record(1, "y")])
    assert [len(part) for part in directory.records()] == [2, 1]
    directory.remove_rank_records()
    assert directory.records() == [[Record(0, "x"), Record(1, "y")]]
