"""Nothing lost: killed at any time, the same command resumes the run, on any number of ranks."""

import contextlib
import json
import os
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch
from safetensors.torch import save_file

from harness.results.records import Record, read_lines
from tests.running import SQUARES, Outcome, Ranks, images, integers, until

COUNT = 12
TWELVE = ["--data.count", str(COUNT)]
# Half a second an image: time enough to be killed in the middle.
SLOW = [*TWELVE, "--method.delay", "0.5", "--method.window_batch", "64"]


def finished(run_dir: Path) -> list[Record]:
    """What all starts of a run have recorded so far."""
    return [record for file in (run_dir / "records").glob("*.jsonl") for record in read_lines(file)]


def unreadable(done: list[Record]) -> list[str]:
    """Arguments under which an image that is done would stop the run if it were read again."""
    return ["--data.damaged", str([record.index for record in done])]


def check_each_once(run_dir: Path, before: list[Record]) -> None:
    """No image was computed twice, and what was there is there unchanged, to its seconds."""
    after = finished(run_dir)
    assert max(Counter(record.index for record in after).values()) == 1
    assert set(before) <= set(after)


@pytest.fixture(scope="module")
def uninterrupted(external: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    from harness.cli import main

    run_dir = tmp_path_factory.mktemp("uninterrupted")
    assert main(["evaluate", "--config", str(SQUARES), *TWELVE, "--run_dir", str(run_dir)]) == 0
    return run_dir


@pytest.fixture
def begun(uninterrupted: Path, tmp_path: Path) -> Path:
    """A run that ended in the middle, with the last line cut short."""
    run_dir = tmp_path / "begun"
    (run_dir / "records").mkdir(parents=True)
    for name in ("run.json", "config.yaml"):
        (run_dir / name).write_bytes((uninterrupted / name).read_bytes())
    lines = (uninterrupted / "images.jsonl").read_text().splitlines(keepends=True)
    (run_dir / "records" / "a-0.jsonl").write_text("".join(lines[:7:2]) + lines[8][:40])
    (run_dir / "records" / "a-1.jsonl").write_text("".join(lines[1:4:2]))
    return run_dir


@contextlib.contextmanager
def command(run_dir: Path, environment: dict[str, str], *arguments: str) -> Iterator[subprocess.Popen[str]]:
    """The real command in a process of its own."""
    line = [sys.executable, "-m", "harness.cli", "evaluate", "--config", str(SQUARES), *SLOW]
    process = subprocess.Popen(
        [*line, "--run_dir", str(run_dir), *arguments],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def family(process: subprocess.Popen[str]) -> list[psutil.Process]:
    parent = psutil.Process(process.pid)
    return [parent, *parent.children(recursive=True)]


def gone(processes: list[psutil.Process]) -> bool:
    return not any(each.is_running() and each.status() != psutil.STATUS_ZOMBIE for each in processes)


def test_killed_again_and_again_on_other_numbers_of_ranks(
    uninterrupted: Path, ranks: Ranks, environment: dict[str, str], tmp_path: Path
) -> None:
    """One process is killed; then rank 0 of two; then rank 1 of two; then three ranks end it."""
    run_dir = tmp_path / "run"
    two = ("--trainer.devices", "2", "--trainer.strategy", "ddp")
    for start, (arguments, victim) in enumerate((((), 0), (two, 0), (two, 1))):
        before = finished(run_dir)
        known = len(before)
        with command(run_dir, environment, *arguments) as process:
            until(lambda: len(finished(run_dir)) >= known + 2)  # noqa: B023
            members = family(process)
            assert len(members) == (2 if arguments else 1)
            members[victim].send_signal(signal.SIGKILL)
            # The one that was not killed must not continue alone.
            until(lambda: gone(members), limit=30)  # noqa: B023
        check_each_once(run_dir, before)
        assert len(finished(run_dir)) < COUNT, f"start {start} was not killed in the middle"
        assert json.loads((run_dir / "results.json").read_text())["status"] in ("running", "failed")
        assert not (run_dir / "images.jsonl").exists()
    before = finished(run_dir)
    given = ["evaluate", "--config", str(SQUARES), *SLOW, *unreadable(before), "--run_dir", str(run_dir)]
    outcomes = ranks.ovseg(3, *given)
    assert [outcome.code for outcome in outcomes] == [0, 0, 0], outcomes
    assert integers(run_dir) == integers(uninterrupted)
    assert set(before) <= set(images(run_dir))
    assert not (run_dir / "records").exists()


@pytest.mark.parametrize("processes", [1, 2])
def test_a_half_written_record_is_made_again_and_the_others_are_kept(
    processes: int, begun: Path, uninterrupted: Path, ranks: Ranks
) -> None:
    before = finished(begun)
    assert len(before) == 6
    given = ["evaluate", "--config", str(SQUARES), *TWELVE, *unreadable(before), "--run_dir", str(begun)]
    outcomes = ranks.ovseg(processes, *given)
    assert [outcome.code for outcome in outcomes] == [0] * processes, outcomes
    assert integers(begun) == integers(uninterrupted)
    assert set(before) <= set(images(begun))


def test_a_finished_run_started_again_computes_nothing(
    uninterrupted: Path, evaluate: Callable[..., Outcome], ranks: Ranks
) -> None:
    records, results = (uninterrupted / "images.jsonl").read_bytes(), integers(uninterrupted)
    again = [*TWELVE, *unreadable(images(uninterrupted))]
    assert evaluate(*again, run_dir=uninterrupted).run_dir == uninterrupted
    outcomes = ranks.ovseg(2, "evaluate", "--config", str(SQUARES), *again, "--run_dir", str(uninterrupted))
    assert [outcome.code for outcome in outcomes] == [0, 0], outcomes
    assert (uninterrupted / "images.jsonl").read_bytes() == records
    assert integers(uninterrupted) == results


def test_a_damaged_line_of_a_finished_run_is_made_again(
    begun: Path, uninterrupted: Path, evaluate: Callable[..., Outcome]
) -> None:
    lines = (uninterrupted / "images.jsonl").read_text().splitlines()
    lines[5] = lines[5].replace('"id":"squares/5"', '"id":"squares/6"')
    (begun / "images.jsonl").write_text("\n".join(lines) + "\n")
    evaluate(*TWELVE, run_dir=begun)
    assert integers(begun) == integers(uninterrupted)


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["--method.patch", "3"], "method.settings.patch: 4 -> 3"),
        (["--data.classes", "4"], "data.fingerprint:"),
        (["--data.count", "11"], f"data.images: {COUNT} -> 11"),
        (["--protocol.stride", "8"], "protocol.stride: 16 -> 8"),
        (["--trainer.precision", "bf16-mixed"], 'precision: "32-true" -> "bf16-mixed"'),
    ],
)
def test_another_evaluation_is_refused_by_what_differs(
    arguments: list[str], named: str, begun: Path, evaluate: Callable[..., Outcome]
) -> None:
    before = {file: file.read_bytes() for file in begun.rglob("*") if file.is_file()}
    outcome = evaluate(*TWELVE, *arguments, run_dir=begun)
    assert outcome.code == 2
    assert named in outcome.err
    assert len(outcome.err.splitlines()) == 1
    for file, content in before.items():
        assert file.read_bytes() == content


@pytest.mark.parametrize("arguments", [["--data.batch_size", "2"], ["--data.num_workers", "1"]])
def test_what_cannot_change_the_integers_may_differ(
    arguments: list[str], begun: Path, uninterrupted: Path, evaluate: Callable[..., Outcome]
) -> None:
    evaluate(*TWELVE, *arguments, run_dir=begun)
    assert integers(begun) == integers(uninterrupted)


def test_other_weights_under_the_same_name_are_refused(evaluate: Callable[..., Outcome], tmp_path: Path) -> None:
    checkpoint, run_dir = tmp_path / "scale.safetensors", tmp_path / "weighed"
    save_file({"weight": torch.ones(1, 1)}, checkpoint)
    given: list[Any] = ["--method.checkpoint", checkpoint]
    assert evaluate(*given, run_dir=run_dir).code == 0
    assert evaluate(*given, run_dir=run_dir).code == 0
    save_file({"weight": torch.ones(1, 1) / 2}, checkpoint)
    outcome = evaluate(*given, run_dir=run_dir)
    assert outcome.code == 2
    assert "weights.scale: " in outcome.err
    assert outcome.err.count("->") == 1


def test_a_refusal_reaches_all_ranks(begun: Path, ranks: Ranks) -> None:
    given = ["evaluate", "--config", str(SQUARES), *TWELVE, "--method.patch", "3", "--run_dir", str(begun)]
    outcomes = ranks.ovseg(2, *given)
    assert [outcome.code for outcome in outcomes] == [2, 2], outcomes
    assert "method.settings.patch: 4 -> 3" in outcomes[0].err
    # One sentence, from one rank.
    assert [len(outcome.err.splitlines()) for outcome in outcomes] == [1, 0]


def test_a_run_that_another_process_holds_is_refused(
    evaluate: Callable[..., Outcome], ranks: Ranks, tmp_path: Path
) -> None:
    given = ["evaluate", "--config", str(SQUARES), *SLOW, "--run_dir", str(tmp_path / "held")]
    (holder,) = ranks.start(ranks.command, 1, *given)
    try:
        until(lambda: finished(tmp_path / "held"))
        outcome = evaluate(*SLOW, run_dir=tmp_path / "held")
        assert outcome.code == 2
        assert f"is held by process {holder.pid}" in outcome.err
    finally:
        (ended,) = ranks.finish([holder])
    assert ended.code == 0
    assert evaluate(*SLOW, run_dir=tmp_path / "held").code == 0


def test_a_run_interrupted_by_a_person_says_so_and_goes_on(ranks: Ranks, uninterrupted: Path, tmp_path: Path) -> None:
    run_dir = tmp_path / "run"
    given = ["evaluate", "--config", str(SQUARES), *SLOW, "--run_dir", str(run_dir)]
    (process,) = ranks.start(ranks.command, 1, *given)
    until(lambda: finished(run_dir))
    os.kill(process.pid, signal.SIGINT)
    (outcome,) = ranks.finish([process])
    assert outcome.code == 130
    assert "Traceback" not in outcome.err
    assert json.loads((run_dir / "results.json").read_text())["status"] == "interrupted"
    assert [each.code for each in ranks.ovseg(1, *given)] == [0]
    assert integers(run_dir) == integers(uninterrupted)
