"""Precompute on real ranks: each item is computed once, also when ranks are lost; all ranks hold the same bank."""

import json
import os
import random
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from harness import ArtifactStore
from tests.running import SQUARES, TESTS, Outcome, Ranks, until

RANK = TESTS / "harness" / "ranks" / "precompute.py"
NAMES = ["background", "corgi", "../bench", "dog & <b>cat</b>", "Ärmel", "[red]tree"]


class Stage:
    """The settings of a scenario, and what its log says."""

    def __init__(self, ranks: Ranks, folder: Path, **given: Any) -> None:
        self.ranks, self.log = ranks, folder / "calls.log"
        self.given = {"names": NAMES, "log": str(self.log), "store": str(folder / "store")} | given

    def start(self, count: int, **changed: Any) -> list[Any]:
        return self.ranks.start(RANK, count, json.dumps(self.given | {"world_size": count} | changed))

    def finish(self, started: list[Any]) -> list[dict[str, Any]]:
        outcomes = self.ranks.finish(started)
        assert all(outcome.code == 0 for outcome in outcomes), outcomes
        return [json.loads(outcome.out) for outcome in outcomes]

    def run(self, count: int, **changed: Any) -> list[dict[str, Any]]:
        return self.finish(self.start(count, **changed))

    def calls(self, event: str = "start") -> Counter[str]:
        """How often the computation of each item was started or finished."""
        lines = self.log.read_text().splitlines() if self.log.exists() else []
        return Counter(line.split(" ", 2)[2] for line in lines if line.startswith(event))


ONCE = Counter(NAMES)


@pytest.fixture
def stage(ranks: Ranks, tmp_path: Path) -> Stage:
    return Stage(ranks, tmp_path)


@pytest.fixture(scope="module")
def reference(ranks: Ranks, tmp_path_factory: pytest.TempPathFactory) -> str:
    """The bank of an undisturbed run in one process."""
    (found,) = Stage(ranks, tmp_path_factory.mktemp("reference")).run(1)
    assert found["bank"] == found["held"]
    return str(found["bank"])


@pytest.mark.parametrize(("count", "shared"), [(1, True), (2, True), (3, False)])
def test_every_item_is_computed_once_and_all_ranks_hold_the_same_bank(
    count: int, shared: bool, stage: Stage, reference: str, tmp_path: Path
) -> None:
    folders = {} if shared else {"store": str(tmp_path / "store-{rank}")}
    found = stage.run(count, paint={"seconds": 0.1}, **folders)
    assert stage.calls() == ONCE
    assert {each["bank"] for each in found} == {each["held"] for each in found} == {reference}
    assert [sum(made) for made in found[0]["made"]] == [len(NAMES)] * 2
    assert found[0]["copied"] == ([0, 0] if shared else [len(NAMES)] * 2)
    assert all(len(each["keys"]) == 2 * len(NAMES) and each["keys"] == found[0]["keys"] for each in found)
    again = stage.run(count, **folders)
    assert stage.calls() == ONCE
    assert {each["bank"] for each in again} == {reference}
    assert again[0]["made"] == [[0] * count] * 2


def test_a_new_class_costs_one_item_and_a_new_order_none(stage: Stage) -> None:
    stage.run(1)
    stage.run(1, names=[*NAMES[::-1], "vase"])
    assert stage.calls() == ONCE + Counter(["vase"])


def test_a_slow_item_leaves_no_rank_idle_and_no_collective_waiting(stage: Stage, reference: str) -> None:
    """The slow item takes longer than the process group's timeout."""
    found = stage.run(2, timeout=4, paint={"seconds": 0.05, "slow": {NAMES[0]: 7.0}})
    assert {each["bank"] for each in found} == {reference}
    assert sorted(found[0]["made"][0]) == [1, len(NAMES) - 1]


def test_two_runs_at_once_share_the_work(stage: Stage, reference: str) -> None:
    started = [stage.start(1, paint={"seconds": 0.3}) for _ in range(2)]
    found = [stage.finish(each)[0] for each in started]
    assert stage.calls() == ONCE
    assert {each["bank"] for each in found} == {reference}
    assert sum(each["made"][0][0] for each in found) == len(NAMES)


def test_it_resumes_after_kills_at_random_moments(stage: Stage, reference: str) -> None:
    seed = int(os.environ.get("OVSEG_TEST_SEED", time.time_ns() % 2**32))
    print(f"OVSEG_TEST_SEED={seed}")
    chance, kills = random.Random(seed), 10
    names = [*NAMES, *(f"class {index}" for index in range(6))]
    for _ in range(kills):
        before = stage.calls().total()
        started = stage.start(2, names=names, paint={"seconds": 0.15})
        until(lambda: stage.calls().total() > before or not all(each.is_alive() for each in started))  # noqa: B023
        time.sleep(chance.uniform(0, 0.3))
        for process in started:
            process.kill()
        for process in started:
            process.join()
    stage.run(2, names=names)
    # Only items that a rank computed when it was killed are started again.
    assert set(stage.calls()) == set(names)
    assert stage.calls().total() - len(names) <= 2 * kills
    # A finished item may have been killed before its rename, at most one per rank and kill.
    assert {each["bank"] for each in stage.run(2)} == {reference}
    assert ArtifactStore(stage.given["store"]).remove_temporary() >= 0
    assert not ArtifactStore(stage.given["store"]).temporary_folders()


def test_a_corrupt_entry_is_reported_and_recomputed(stage: Stage, reference: str) -> None:
    stage.run(1)
    store = ArtifactStore(stage.given["store"])
    entries = {store.manifest(key)["title"]: store.folder(key) for key in store.all_keys() if is_paint(store, key)}
    flipped = entries["corgi"] / "tensors.safetensors"
    content = bytearray(flipped.read_bytes())
    content[-3] ^= 4
    flipped.write_bytes(content)
    manifest = entries["../bench"] / "manifest.json"
    manifest.write_bytes(manifest.read_bytes()[:100])
    (entries["Ärmel"] / "tensors.safetensors").unlink()
    (outcome,) = stage.ranks.finish(stage.start(1))
    assert json.loads(outcome.out)["bank"] == reference
    assert stage.calls() == ONCE + Counter(["corgi", "../bench", "Ärmel"])
    for name, why in (("corgi", "checksum"), ("../bench", "manifest.json"), ("Ärmel", "No such file")):
        (line,) = [line for line in outcome.err.splitlines() if f"'{name}'" in line]
        assert str(entries[name]) in line
        assert why in line


def is_paint(store: ArtifactStore, key: str) -> bool:
    return bool(store.manifest(key)["kind"] == "paint")


@pytest.mark.parametrize("victim", [0, 1])
def test_a_lost_rank_loses_only_its_current_item(victim: int, stage: Stage, reference: str) -> None:
    # So slow that each of the three ranks gets an item.
    outcomes = stage.ranks.finish(stage.start(3, heartbeat_timeout=2, paint={"seconds": 0.5, "die": victim}))
    assert [outcome.code for outcome in outcomes] == [-9 if rank == victim else 2 for rank in range(3)], outcomes
    for rank in {0, 1, 2} - {victim}:
        error = json.loads(outcomes[rank].out)["error"]
        assert f"rank {victim}" in error
        assert (
            error.endswith("was lost; finished items are in the store: run the same command again to resume")
            or victim == 0
        )
    (lost,) = [
        line.split(" ", 2)[2] for line in stage.log.read_text().splitlines() if line.startswith(f"start {victim}")
    ]
    # The work queue is lost with rank 0; after the loss of another rank, the others finish first.
    assert stage.calls("end") == ONCE or victim == 0
    assert {each["bank"] for each in stage.run(3)} == {reference}
    assert stage.calls() == ONCE + Counter([lost])


def test_a_failed_item_stops_all_ranks_with_the_same_message(stage: Stage) -> None:
    outcomes = stage.ranks.finish(stage.start(2, paint={"seconds": 0.1, "fail": "Ärmel"}))
    assert [outcome.code for outcome in outcomes] == [2, 2]
    errors = {json.loads(outcome.out)["error"] for outcome in outcomes}
    assert len(errors) == 1
    assert "paint: 'Ärmel' could not be computed on rank" in (sentence := errors.pop())
    assert sentence.endswith(": the paint is dry")
    # Finished items stay cached.
    stage.run(2)
    assert stage.calls() == ONCE + Counter(["Ärmel"])


def test_evaluate_computes_what_precompute_did_not(
    evaluate: Callable[..., Outcome], ovseg: Callable[..., Outcome], ranks: Ranks, tmp_path: Path
) -> None:
    log, store = tmp_path / "calls.log", tmp_path / "store"
    method = ["--method", "tinyseg.painted.Painted", "--method.log", str(log), "--store", str(store)]
    outcomes = ranks.ovseg(2, "precompute", "--config", str(SQUARES), *method)
    assert [outcome.code for outcome in outcomes] == [0, 0], outcomes
    lines = outcomes[0].out.splitlines()
    assert lines[0].startswith("paint: 0 cached, 5 computed, ")
    assert lines[1].startswith("mix: 0 cached, 5 computed, ")
    assert lines[-1] == str(store)
    assert outcomes[1].out == ""
    assert len(log.read_text().splitlines()) == 10
    again = ovseg("precompute", "--config", SQUARES, *method)
    assert again.out.startswith("paint: 5 cached, 0 computed, ")
    plain = json.loads((evaluate(run_dir=tmp_path / "plain").run_dir / "results.json").read_text())
    assert plain["bank"] is None
    run_dir = evaluate(*method, "--data.classes", 6, run_dir=tmp_path / "six").run_dir
    assert len(log.read_text().splitlines()) == 12
    results = json.loads((run_dir / "results.json").read_text())
    assert len(results["bank"]) == 64
    # A run must not resume with another bank.
    run = json.loads((run_dir / "run.json").read_text())
    (run_dir / "run.json").write_text(json.dumps(run | {"bank": "0" * 64}))
    other = evaluate(*method, "--data.classes", 6, run_dir=run_dir)
    assert other.code == 2
    assert "was started with another bank" in other.err


def test_an_error_in_compute_is_printed_as_one_sentence(ovseg: Callable[..., Outcome], tmp_path: Path) -> None:
    method = ["--method", "tinyseg.painted.Painted", "--method.fail", "class 2", "--store", str(tmp_path / "store")]
    outcome = ovseg("precompute", "--config", SQUARES, *method)
    assert outcome.code == 2
    assert outcome.err == "ovseg precompute: paint: 'class 2' could not be computed on rank 0: the paint is dry\n"
    assert len(ArtifactStore(tmp_path / "store").all_keys()) == 2
