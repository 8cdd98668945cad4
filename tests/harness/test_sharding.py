"""Exact sharding: the same integers on any number of ranks, however the images fall on them."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.running import SQUARES, Outcome, Ranks, images, integers


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
