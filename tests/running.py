"""Starting ``ovseg`` in tests: on real ranks, in real processes; and what a run leaves behind."""

import json
import multiprocessing
import os
import runpy
import socket
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from harness.results.records import Record, read_lines

TESTS = Path(__file__).parent
REPOSITORY = TESTS.parent
SQUARES = TESTS / "external" / "squares.yaml"
CLEAN = dict(os.environ)  # before Lightning leaves seeds and addresses in it
# What most ranks import, and what takes longer than their work.
PRELOADED = [
    "harness.commands.evaluate",
    "torch.distributed",
    "diffusers.pipelines.stable_diffusion.pipeline_stable_diffusion",
    "faiss",
    "open_clip",
    "scipy.ndimage",
    "skimage.filters",
    "sklearn.cluster",
    "transformers.models.auto.modeling_auto",
    "transformers.models.blip.modeling_blip",
    "transformers.models.clip.modeling_clip",
    "transformers.models.dinov2.modeling_dinov2",
]


class Outcome(NamedTuple):
    code: int
    out: str
    err: str

    @property
    def run_dir(self) -> Path:
        """The last line that ``evaluate`` prints."""
        assert self.code == 0, self.err
        return Path(self.out.splitlines()[-1])


class Ranks:
    """Processes that see what torchrun shows its ranks; forked from a server that has imported the libraries already.

    Args:
        folder: For what the ranks print and return.
        path: Folders to be found by import.
    """

    command = TESTS / "harness" / "ranks" / "command.py"  # ovseg

    def __init__(self, folder: Path, path: list[str]) -> None:
        self._folder = folder
        self._path = path
        self._context = multiprocessing.get_context("forkserver")
        self._context.set_forkserver_preload(PRELOADED)

    def start(self, script: Path, count: int, *arguments: str) -> list[Any]:
        """Start ``count`` ranks that run a script with these arguments; ``finish`` waits for them."""
        folder = self._folder / f"{time.monotonic_ns()}"
        folder.mkdir()
        master = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port())}
        started = []
        for rank in range(count):
            place = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": count, "LOCAL_WORLD_SIZE": count}
            extra = {key: str(value) for key, value in place.items()} | master
            extra |= {"TORCHELASTIC_RUN_ID": "tests", "GROUP_RANK": "0", "OMP_NUM_THREADS": "1"}
            given = {
                "environment": CLEAN | (extra if count > 1 else {}),
                "path": self._path,
                "output": str(folder / str(rank)),
                "script": str(script),
                "arguments": list(arguments),
            }
            entry = str(TESTS / "harness" / "ranks" / "entry.py")
            process = self._context.Process(target=runpy.run_path, args=(entry, given, "__main__"))
            process.output = folder / str(rank)
            process.start()
            started.append(process)
        return started

    def finish(self, started: list[Any], limit: float = 120) -> list[Outcome]:
        """Wait for ranks; each one's exit code and output."""
        outcomes = []
        for process in started:
            process.join(limit)
            if process.exitcode is None:
                for each in started:
                    each.kill()
                pytest.fail(f"a rank did not end within {limit} s: {texts(process.output)}")
            outcomes.append(Outcome(process.exitcode, *texts(process.output)))
        return outcomes

    def run(self, script: Path, count: int, *arguments: str) -> list[Outcome]:
        """Run a script on ``count`` ranks to its end."""
        return self.finish(self.start(script, count, *arguments))

    def ovseg(self, count: int, *arguments: str) -> list[Outcome]:
        """Run ``ovseg`` on ``count`` ranks to its end."""
        given = ("--trainer.devices", str(count), "--trainer.strategy", "ddp") if count > 1 else ()
        return self.run(self.command, count, *arguments, *given)


def texts(output: Path) -> tuple[str, str]:
    """What a rank wrote to its two streams."""
    return tuple(Path(f"{output}.{end}").read_text() for end in ("out", "err"))  # type: ignore[return-value]


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def images(run_dir: Path) -> list[Record]:
    """The finished records of a run."""
    return read_lines(run_dir / "images.jsonl")


def integers(run_dir: Path) -> tuple[list[Any], list[Any]]:
    """All that must be equal between two runs of one evaluation: every image's counts, and the sums per class."""
    results = json.loads((run_dir / "results.json").read_text())
    assert results["status"] == "complete"
    sums = [[row[key] for key in ("name", "intersection", "prediction", "label")] for row in results["per_class"]]
    return [record.result for record in images(run_dir)], sums


def until(condition: Callable[[], Any], limit: float = 90) -> Any:
    """Wait for something to become true."""
    end = time.monotonic() + limit
    while not (value := condition()):
        assert time.monotonic() < end, f"not within {limit} s"
        time.sleep(0.05)
    return value
