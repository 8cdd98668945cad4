"""``ovseg compare``: differences of scores, intervals of the paired bootstrap, refusal of incompatible runs."""

import csv
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from harness.results.comparison import Run, compare
from harness.results.metric import Scores
from harness.results.results import total_areas
from tests.running import SQUARES, Outcome


@pytest.fixture
def make(ovseg: Callable[..., Outcome], tmp_path: Path) -> Callable[..., Path]:
    def run(name: str, *flags: str) -> Path:
        done = ovseg("evaluate", "--config", SQUARES, "--run_dir", tmp_path / name, *flags)
        assert done.code == 0, done.err
        return tmp_path / name

    return run


def test_scores_and_changes_are_those_of_the_runs(
    make: Callable[..., Path], ovseg: Callable[..., Outcome], tmp_path: Path
) -> None:
    first, second = make("a"), make("b", "--method.patch=16")
    done = ovseg("compare", first, second, "--out", tmp_path / "table.json", "--samples", "200")
    assert done.code == 0, done.err
    written = json.loads((tmp_path / "table.json").read_text())
    results = [json.loads((run / "results.json").read_text()) for run in (first, second)]
    scores = {row["name"]: row for row in written["scores"]}
    assert (scores["mIoU"]["first"], scores["mIoU"]["second"]) == tuple(run["miou"] for run in results)
    for one, two in zip(*(run["per_class"] for run in results), strict=True):
        row = scores[one["name"]]
        assert (row["first"], row["second"]) == (one["iou"], two["iou"])
        assert row["change"] == two["iou"] - one["iou"]
        assert row["low"] <= row["change"] <= row["high"]
    assert written["differing"] == []
    assert "mIoU" in done.out
    assert ovseg("compare", first, second, "--out", tmp_path / "t.csv", "--samples", "200").code == 0
    rows = list(csv.DictReader((tmp_path / "t.csv").open()))
    assert float(rows[0]["change"]) == scores["mIoU"]["change"]


def test_a_run_does_not_differ_from_itself(make: Callable[..., Path]) -> None:
    run = Run.read(make("a"))
    for difference in compare(run, run, num_resamples=50):
        assert (difference.change, difference.low, difference.high) == (0, 0, 0)


def test_intervals_are_those_of_paired_resamples(make: Callable[..., Path]) -> None:
    first, second = Run.read(make("a")), Run.read(make("b", "--method.patch=16"))
    random, changes = np.random.default_rng(7), []
    for _ in range(300):
        resample = random.integers(len(first.records), size=len(first.records))
        one, two = (Scores.of(total_areas([run.records[i] for i in resample], 5)).miou for run in (first, second))
        changes.append((two or 0) - (one or 0))
    (miou, *_) = compare(first, second, num_resamples=300, level=0.9, seed=7)
    assert miou.low == pytest.approx(np.percentile(changes, 5))
    assert miou.high == pytest.approx(np.percentile(changes, 95))


def test_other_data_or_protocol_is_refused_unless_told(
    make: Callable[..., Path], ovseg: Callable[..., Outcome], tmp_path: Path
) -> None:
    first, second = make("a"), make("b", "--protocol.window=24")
    refused = ovseg("compare", first, second)
    assert refused.code == 2
    assert "protocol.window: 32 -> 24" in refused.err
    allowed = ovseg("compare", first, second, "--anyway", "--samples", "20")
    assert allowed.code == 0
    assert "protocol.window: 32 -> 24" in allowed.out
    fewer = make("c", "--data.limit=3")
    assert "data.images: 5 -> 3" in ovseg("compare", first, fewer).err
    assert ovseg("compare", first, fewer, "--anyway").code == 2  # other images cannot be paired


def test_an_incomplete_run_is_an_error(
    make: Callable[..., Path], ovseg: Callable[..., Outcome], tmp_path: Path
) -> None:
    run = make("a")
    assert "no finished run" in ovseg("compare", run, tmp_path / "missing").err
    results = json.loads((run / "results.json").read_text())
    lines = (run / "images.jsonl").read_text().splitlines()
    (run / "images.jsonl").write_text("\n".join(lines[:-1]))
    assert "does not hold every image" in ovseg("compare", run, run).err
    (run / "results.json").write_text(json.dumps(results | {"status": "interrupted"}))
    assert "is interrupted, not complete" in ovseg("compare", run, run).err
    assert "--level" in ovseg("compare", run, run, "--level", "95").err
    assert ".csv or .json" in ovseg("compare", run, run, "--out", "x.txt").err
