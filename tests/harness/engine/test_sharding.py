"""Exact sharding: the same integers on any number of ranks, however the images fall on them."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from harness.results.records import read_lines
from tests.running import SQUARES, TESTS, Outcome, Ranks, images, integers


@pytest.mark.parametrize("count", [5, 2])
@pytest.mark.parametrize("processes", [2, 3])
def test_integers_do_not_depend_on_the_number_of_ranks(
    count: int, processes: int, evaluate: Callable[..., Outcome], ranks: Ranks, tmp_path: Path
) -> None:
    """Five images do not divide by two or three; two images leave one of three ranks without any."""
    alone = evaluate("--data.count", count, run_dir=tmp_path / "alone").run_dir
    common = ["evaluate", "--config", str(SQUARES), "--data.count", str(count), "--run_dir", str(tmp_path / "many")]
    outcomes = ranks.ovseg(processes, *common)
    assert [outcome.code for outcome in outcomes] == [0] * processes, outcomes
    assert integers(tmp_path / "many") == integers(alone)
    assert len(images(tmp_path / "many")) == count
    results = json.loads((tmp_path / "many" / "results.json").read_text())
    assert results["world_size"] == processes
    assert outcomes[0].out.splitlines()[-1] == str(tmp_path / "many")
    assert [outcome.out for outcome in outcomes[1:]] == [""] * (processes - 1)


@pytest.mark.parametrize(("processes", "batch_size", "num_workers"), [(1, 3, 0), (1, 1, 1), (2, 3, 1)])
def test_integers_do_not_depend_on_batches_and_workers(
    processes: int,
    batch_size: int,
    num_workers: int,
    evaluate: Callable[..., Outcome],
    ranks: Ranks,
    tmp_path: Path,
) -> None:
    alone = evaluate(run_dir=tmp_path / "alone").run_dir
    loading = ["--data.batch_size", str(batch_size), "--data.num_workers", str(num_workers)]
    common = ["evaluate", "--config", str(SQUARES), "--run_dir", str(tmp_path / "other"), *loading]
    outcomes = ranks.ovseg(processes, *common)
    assert [outcome.code for outcome in outcomes] == [0] * processes, outcomes
    assert integers(tmp_path / "other") == integers(alone)


def test_the_confusion_matrix_is_the_same_count_for_count(ranks: Ranks, tmp_path: Path) -> None:
    script = TESTS / "harness" / "ranks" / "confusion.py"
    found = []
    for processes in (1, 3):
        outcomes = ranks.run(script, processes, str(tmp_path / str(processes)), str(processes))
        assert [outcome.code for outcome in outcomes] == [0] * processes, outcomes
        found += [json.loads(outcome.out.splitlines()[-1]) for outcome in outcomes]
    assert len(found) == 4
    assert all(matrix == found[0] for matrix in found)
    labelled = [sum(row) for row in found[0]]
    assert labelled == [area[3] for area in integers(tmp_path / "1")[1]]


def test_a_damaged_image_on_one_rank_stops_all_in_one_sentence(ranks: Ranks, tmp_path: Path) -> None:
    given = ["evaluate", "--config", str(SQUARES), "--data.count", "6", "--run_dir", str(tmp_path / "run")]
    outcomes = ranks.ovseg(2, *given, "--data.damaged", "[3]")
    assert [outcome.code for outcome in outcomes] == [2, 2], outcomes
    assert outcomes[0].err.startswith("ovseg evaluate: squares/3.png is damaged")
    assert [len(outcome.err.splitlines()) for outcome in outcomes] == [1, 0]
    # What was done is kept: the images of the other rank, and those before the damaged one.
    done = {record.index for file in (tmp_path / "run" / "records").iterdir() for record in read_lines(file)}
    assert done == {0, 1, 2, 4}
    outcomes = ranks.ovseg(2, *given, "--data.damaged", "[3]", "--data.on_error", "skip")
    assert [outcome.code for outcome in outcomes] == [0, 0], outcomes
    assert [record.index for record in images(tmp_path / "run") if record.skipped] == [3]
