"""What all tests share: the external package ``tinyseg``, the command line in this process, and real ranks."""

import importlib.util
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch

from harness.cli import main
from tests.running import CLEAN, SQUARES, TESTS, Outcome, Ranks


@pytest.fixture(scope="session")
def external(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder into which pip installed another person's package, visible to this process."""
    folder = tmp_path_factory.mktemp("external")
    # Built from a copy, since setuptools leaves build folders beside the source.
    source, site = folder / "source", folder / "site"
    shutil.copytree(TESTS / "external", source, ignore=shutil.ignore_patterns("__pycache__", "build", "*.egg-info"))
    install = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-deps"]
    subprocess.run([*install, "--no-build-isolation", "--target", str(site), str(source)], check=True)
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(site))
        yield site


@pytest.fixture(scope="module")
def one_thread() -> Iterator[None]:
    """As on the ranks that some tests start."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def environment(external: Path) -> dict[str, str]:
    """The environment of a terminal in which the external package is installed."""
    return CLEAN | {"PYTHONPATH": str(external)}


@pytest.fixture
def ovseg(external: Path, capsys: pytest.CaptureFixture[str]) -> Callable[..., Outcome]:
    """``ovseg`` in this process."""

    def run(*arguments: object) -> Outcome:
        capsys.readouterr()
        try:
            code = main([str(argument) for argument in arguments])
        except SystemExit as end:
            code = int(end.code or 0)
        return Outcome(code, *capsys.readouterr())

    return run


@pytest.fixture
def evaluate(ovseg: Callable[..., Outcome], tmp_path: Path) -> Callable[..., Outcome]:
    """``ovseg evaluate`` of the external method on the external data, in this process."""

    def run(*arguments: object, run_dir: Path | None = None) -> Outcome:
        return ovseg("evaluate", "--config", SQUARES, "--run_dir", run_dir or tmp_path / "run", *arguments)

    return run


@pytest.fixture(scope="session")
def ranks(external: Path, tmp_path_factory: pytest.TempPathFactory) -> Ranks:
    """A starter of real ranks."""
    return Ranks(tmp_path_factory.mktemp("ranks"), [str(external)])


def _dense_crf() -> bool:
    return importlib.util.find_spec("pydensecrf") is not None


# This file compares with pydensecrf itself; others mark single tests ``crf``.
collect_ignore = [] if _dense_crf() else ["methods/refinement/test_crf.py"]


def pytest_report_header() -> str:
    """Say what is not tested here."""
    return "dense CRF: " + ("installed" if _dense_crf() else "not installed (no C++ compiler?): its tests are left out")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out, and count as such, what needs the compiled CRF where it could not be compiled."""
    if _dense_crf():
        return
    without = [item for item in items if item.get_closest_marker("crf") is not None]
    config.hook.pytest_deselected(items=without)
    items[:] = [item for item in items if item not in without]
