"""The contracts of ``[tool.importlinter]`` fail on an arrow the wrong way and on a circle."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.running import REPOSITORY

PACKAGES = ("harness", "methods", "datamodules", "miniature")


@pytest.mark.parametrize(
    ("file", "line", "contract"),
    [
        ("harness/system/atomic.py", "import harness.engine.evaluation", "The rooms of the engine"),
        ("harness/system/atomic.py", "import harness", "The rooms of the engine"),
        ("harness/attic/__init__.py", "", "The rooms of the engine"),
        ("harness/studies/study.py", "import methods.ovdiff.method", "The engine knows no paper and no data set"),
        ("methods/fossil/method.py", "import methods.ovdiff.masks", "Papers do not know each other"),
        ("methods/backbones/hub.py", "import methods.support.nouns", "What papers share knows no paper"),
        ("datamodules/voc.py", "import methods.clip_diy", "Benchmarks know neither methods nor Miniature"),
        ("methods/clip_diy.py", "import miniature.world", "Nobody imports Miniature"),
        ("harness/system/errors.py", "import harness.system.distributed", "No circles within a room"),
    ],
)
def test_an_arrow_the_wrong_way_or_a_circle_fails(file: str, line: str, contract: str, tmp_path: Path) -> None:
    for package in PACKAGES:
        shutil.copytree(REPOSITORY / package, tmp_path / package, ignore=not_source)
    shutil.copy(REPOSITORY / "pyproject.toml", tmp_path)
    planted = tmp_path / file
    planted.parent.mkdir(exist_ok=True)
    with planted.open("a") as stream:
        stream.write(f"\n{line}\n")
    command = [str(Path(sys.executable).parent / "lint-imports"), "--no-cache"]
    outcome = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert outcome.returncode == 1, outcome.stdout + outcome.stderr
    broken = [" ".join(each.split()) for each in outcome.stdout.split("KEPT")]
    assert any(contract in each and "BROKEN" in each for each in broken), outcome.stdout


def not_source(folder: str, names: list[str]) -> list[str]:
    """All but folders and Python files."""
    return [name for name in names if not (name.endswith(".py") or (Path(folder) / name).is_dir())]
