"""launch.sh: the same integers on two "nodes", exit codes, SLURM, and arguments that no shell may touch."""

import shlex
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from harness.system.launch import main
from tests.running import CLEAN, REPOSITORY, SQUARES, Outcome, free_port, integers

LAUNCH = str(REPOSITORY / "launch.sh")
NODES = {"PATH", "HOME", "LANG"}


def launch(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    plain = {key: value for key, value in CLEAN.items() if key in NODES}
    return subprocess.run([LAUNCH, *arguments], env=plain | environment, capture_output=True, text=True)


def dry(*arguments: str, **environment: str) -> list[str]:
    """The command that would be run, without the path of Python."""
    done = launch("--dry-run", *arguments, **environment)
    assert done.returncode == 0, done.stderr
    line = shlex.split(done.stdout)
    assert Path(line[0]).name.startswith("python")
    return line[1:]


def trainer(devices: int, nodes: int) -> list[str]:
    return ["--trainer.devices", str(devices), "--trainer.num_nodes", str(nodes), "--trainer.strategy", "ddp"]


def test_two_nodes_count_as_one_process_does(
    environment: dict[str, str], evaluate: Callable[..., Outcome], tmp_path: Path
) -> None:
    alone = evaluate(run_dir=tmp_path / "alone").run_dir
    node = ["--nodes", "2", "--master", f"127.0.0.1:{free_port()}", "--devices", "1"]
    command = ["--", "evaluate", "--config", str(SQUARES), "--run_dir", str(tmp_path / "two runs")]
    started = [
        subprocess.Popen(
            [LAUNCH, *node, "--node-rank", str(rank), *command],
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in (1, 0)
    ]
    (out_1, err_1), (out_0, err_0) = (process.communicate(timeout=300) for process in started)
    assert [process.returncode for process in started] == [0, 0], err_0 + err_1
    assert integers(tmp_path / "two runs") == integers(alone)
    assert out_0.splitlines()[-1] == str(tmp_path / "two runs")
    assert (out_1, err_1, err_0) == ("", "", "")


def test_the_exit_code_of_a_rank_is_that_of_the_launch(environment: dict[str, str], tmp_path: Path) -> None:
    command = [LAUNCH, "--devices", "1", "--", "evaluate", "--config", str(SQUARES), "--data.damaged", "[1]"]
    done = subprocess.run(
        [*command, "--run_dir", str(tmp_path / "run")], env=environment, capture_output=True, text=True
    )
    assert done.returncode == 2
    assert done.stderr.startswith("ovseg evaluate: squares/1.png is damaged")
    assert len(done.stderr.splitlines()) == 1
    assert done.stdout == ""


def test_a_command_without_a_trainer_runs_by_itself() -> None:
    assert dry("--devices", "3", "--", "info") == ["-m", "harness.cli", "info"]


@pytest.mark.parametrize("command", ["evaluate", "precompute", "segment", "table", "sweep"])
def test_one_node_finds_its_own_port(command: str) -> None:
    expected = [
        "-m",
        "harness.system.launch",
        "--standalone",
        "--nproc-per-node",
        "4",
        "-m",
        "harness.cli",
        command,
        "a",
    ]
    assert dry("--devices=4", "--", command, "a") == [*expected, *trainer(4, 1)]


@pytest.mark.parametrize(("visible", "devices"), [("0,1,3", 3), ("2", 1), ("", 1)])
def test_a_process_for_every_gpu(visible: str, devices: int) -> None:
    assert dry("--", "evaluate", CUDA_VISIBLE_DEVICES=visible)[-6:] == trainer(devices, 1)


def test_arguments_reach_ovseg_as_they_were_given() -> None:
    odd = ["a b", "$HOME", "`date`", "*", "it's", 'say "x"', "", "\\", "--", "ü"]
    line = dry("--devices", "1", "--", "segment", *odd)
    assert line[line.index("segment") + 1 : -6] == odd


@pytest.mark.parametrize(
    ("hosts", "first"),
    [
        ("gpu7", "gpu7"),
        ("gpu1,gpu2", "gpu1"),
        ("gpu[07-09,12],x1", "gpu07"),
        ("rack-a[3,5]", "rack-a3"),
        ("n[1-2]-ib", "n1-ib"),
        ("login,gpu[1-2]", "login"),
    ],
)
def test_slurm_says_where_and_how_many(hosts: str, first: str) -> None:
    slurm = {
        "SLURM_NNODES": "2",
        "SLURM_NODEID": "1",
        "SLURM_JOB_NODELIST": hosts,
        "SLURM_GPUS_ON_NODE": "8",
        "SLURM_JOB_ID": "1234567",
    }
    line = dry("--", "evaluate", "--config", "a.yaml", **slurm)
    assert line[:4] == ["-m", "harness.system.launch", "--nproc-per-node", "8"]
    assert line[4:8] == ["--nnodes", "2", "--node-rank", "1"]
    assert line[8:12] == ["--master-addr", first, "--master-port", "24567"]
    assert line[12:] == ["-m", "harness.cli", "evaluate", "--config", "a.yaml", *trainer(8, 2)]


def test_slurm_is_asked_for_host_names_where_it_can(tmp_path: Path) -> None:
    asked = tmp_path / "scontrol"
    asked.write_text('#!/bin/sh\n[ "$*" = "show hostnames odd[1-2,5]x" ] && printf "first\\nsecond\\n"\n')
    asked.chmod(0o755)
    slurm = {"SLURM_NNODES": "2", "SLURM_NODEID": "0", "SLURM_JOB_NODELIST": "odd[1-2,5]x", "SLURM_GPUS_ON_NODE": "1"}
    assert "first" in dry("--", "evaluate", **slurm, PATH=f"{tmp_path}:{CLEAN['PATH']}")


def test_on_one_node_of_slurm_nobody_needs_a_master() -> None:
    line = dry("--", "evaluate", SLURM_NNODES="1", SLURM_NODEID="0", SLURM_GPUS_ON_NODE="2", SLURM_JOB_ID="5")
    assert "--standalone" in line
    assert line[-6:] == trainer(2, 1)


def test_what_is_given_wins_over_slurm() -> None:
    line = dry("--nodes", "1", "--devices", "2", "--", "evaluate", SLURM_NNODES="4", SLURM_GPUS_ON_NODE="8")
    assert "--standalone" in line
    assert line[-6:] == trainer(2, 1)


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        ([], "say what to run"),
        (["--"], "say what to run"),
        (["evaluate"], "'evaluate' must come after --"),
        (["--device", "2", "--", "evaluate"], "unknown option --device"),
        (["--devices", "--", "evaluate"], "--devices needs a value"),
        (["--devices"], "--devices needs a value"),
        (["--devices", "two", "--", "evaluate"], "--devices must be a whole number of at least 1, not 'two'"),
        (["--devices", "-1", "--", "evaluate"], "not '-1'"),
        (["--nodes", "0", "--", "evaluate"], "--nodes must be a whole number"),
        (["--nodes", "2", "--master", "a:1", "--", "evaluate"], "needs --node-rank"),
        (["--nodes", "2", "--node-rank", "0", "--", "evaluate"], "needs --master HOST:PORT"),
        (["--nodes", "2", "--node-rank", "0", "--master", "a", "--", "evaluate"], "needs --master HOST:PORT, not 'a'"),
        (["--nodes", "2", "--node-rank", "2", "--master", "a:1", "--", "evaluate"], "--node-rank 2 is not one of 2"),
        (["--master", "a:1", "--", "evaluate"], "need --nodes"),
    ],
)
def test_what_is_wrong_is_one_sentence(arguments: list[str], named: str) -> None:
    done = launch(*arguments)
    assert done.returncode == 2
    assert done.stdout == ""
    assert len(done.stderr.splitlines()) == 1
    assert named in done.stderr


def test_help_says_how() -> None:
    done = launch("--help")
    assert done.returncode == 0
    for word in ("--nodes", "--node-rank", "--master", "--devices", "SLURM", "evaluate"):
        assert word in done.stdout


@pytest.mark.parametrize(
    ("last", "code"), [("sys.exit(2)", 2), ("sys.exit(0)", 0), ("os.kill(os.getpid(), signal.SIGKILL)", 137)]
)
def test_the_launcher_ends_as_its_ranks_do(
    last: str, code: int, tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    script = tmp_path / "rank.py"
    script.write_text(f"import os, signal, sys\n{last}\n")
    assert main(["--standalone", "--nproc-per-node", "1", str(script)]) == code
    assert capfd.readouterr() == ("", "")
