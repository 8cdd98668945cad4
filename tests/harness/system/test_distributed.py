"""Communication between ranks: JSON of any length, in rank order, and errors raised on all ranks."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

from harness.system import distributed
from tests.running import TESTS, Ranks, until

RANK = TESTS / "harness" / "ranks" / "talk.py"


def test_ranks_exchange_values_and_errors(ranks: Ranks) -> None:
    outcomes = ranks.run(RANK, 3)
    assert [outcome.code for outcome in outcomes] == [0, 0, 0], outcomes
    for outcome in outcomes:
        found = json.loads(outcome.out)
        assert found["gathered"] == [["rank", index, "ü" * index * 1000] for index in range(3)]
        assert found["told"] == {"from": 0}
        assert found["failed"] == "rank 1 could not"
        assert found["synced"] == ["value", None, None][found["rank"]]
        assert found["left"] == [0, 1]


def test_one_process_needs_no_process_group() -> None:
    assert distributed.gather({"a": 1}) == [{"a": 1}]
    assert distributed.broadcast("x") == "x"
    assert (distributed.rank(), distributed.world_size()) == (0, 1)


PARENT = """
import subprocess, sys, time
child = "import sys, time; from harness.system.distributed import exit_with_parent; exit_with_parent(0.05); print('ready', flush=True); time.sleep(600)"
process = subprocess.Popen([sys.executable, "-c", child], stdout=subprocess.PIPE, text=True)
process.stdout.readline()
print(process.pid, flush=True)
time.sleep(600)
"""  # noqa: E501


def test_a_rank_exits_with_the_process_that_launched_it() -> None:
    parent = subprocess.Popen([sys.executable, "-c", PARENT], stdout=subprocess.PIPE, text=True)
    assert parent.stdout is not None
    child = int(parent.stdout.readline())
    os.kill(child, 0)
    parent.send_signal(signal.SIGKILL)
    parent.wait()
    until(lambda: not Path(f"/proc/{child}").exists() or "Z" in Path(f"/proc/{child}/stat").read_text().split()[2])
