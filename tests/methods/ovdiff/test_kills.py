"""``ovseg precompute`` of OVDiff with Miniature's models: every class once, whatever is killed."""

import os
import random
import re
import time
from pathlib import Path

from harness.artifacts.store import TENSORS, ArtifactStore
from tests.running import Ranks

ARGUMENTS = [
    "precompute",
    "--config=configs/experiments/ovdiff_miniature.yaml",
    "--method.extractors={dino: configs/models/miniature_dino_features.yaml}",
    "--method.generator.steps=2",
    "--method.generator.batch_size=2",
    "--method.num_generated=2",
    "--method.support_size=2",
    "--method.num_parts=2",
    "--method.clip=null",
]
RANKS = ["--trainer.devices=2", "--trainer.strategy=ddp"]
KILLS = 10


def contents(store: Path) -> dict[str, tuple[bytes, int]]:
    """Every finished entry's tensors, and which file on the disk they are."""
    root = ArtifactStore(store)
    files = {key: root.folder(key) / TENSORS for key in root.all_keys()}
    return {key: (file.read_bytes(), file.stat().st_ino) for key, file in files.items()}


def test_killed_ten_times_it_ends_with_the_same_bank_byte_for_byte(ranks: Ranks, tmp_path: Path) -> None:
    seed = int(os.environ.get("OVSEG_TEST_SEED", time.time_ns() % 2**32))
    print(f"OVSEG_TEST_SEED={seed}")
    chance = random.Random(seed)
    (whole,) = ranks.run(ranks.command, 1, *ARGUMENTS, f"--store={tmp_path / 'whole'}")
    assert whole.code == 0, whole.err
    store = tmp_path / "killed"
    done: dict[str, tuple[bytes, int]] = {}
    for _ in range(KILLS):
        started = ranks.start(ranks.command, 2, *ARGUMENTS, *RANKS, f"--store={store}")
        wanted, end = len(done) + chance.randint(1, 3), time.monotonic() + 300
        while len(ArtifactStore(store).all_keys()) < wanted and any(each.is_alive() for each in started):
            assert time.monotonic() < end
            time.sleep(0.01)
        time.sleep(chance.uniform(0, 0.2))
        for process in started:
            process.kill()
        for process in started:
            process.join()
        # What was finished before is the very file that it was: nothing finished is made again.
        now = contents(store)
        assert {key: now[key] for key in done} == done
        done = now
    assert len(done) > 0
    ended = ranks.run(ranks.command, 2, *ARGUMENTS, *RANKS, f"--store={store}")
    assert [each.code for each in ended] == [0, 0], ended[0].err + ended[1].err
    now, expected = contents(store), contents(tmp_path / "whole")
    assert {key: now[key] for key in done} == done
    assert {key: tensors for key, (tensors, _) in now.items()} == {
        key: tensors for key, (tensors, _) in expected.items()
    }
    there = [int(n) for n in re.findall(r": (\d+) there", ended[0].out)]
    made = [int(n) for n in re.findall(r", (\d+) made", ended[0].out)]
    assert sum(there) >= len(done)
    assert sum(there) + sum(made) == len(expected) == 3 * 12
    banks = [re.search(r"bank: (\w+)", each.out) for each in (whole, ended[0])]
    assert all(banks)
    assert len({bank[1] for bank in banks if bank}) == 1
