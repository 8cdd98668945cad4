"""Atomic writes: a file is complete or absent."""

import math
import os
from pathlib import Path

import pytest

from harness.system import atomic


def test_a_file_is_replaced_completely_and_readable_by_others(tmp_path: Path) -> None:
    file = tmp_path / "new" / "folder" / "results.json"
    atomic.write_json(file, {"a": [1, "é"]})
    atomic.write_text(file, "second")
    assert file.read_text() == "second"
    assert file.stat().st_mode & 0o777 == 0o644
    assert list(file.parent.iterdir()) == [file]


def test_a_failed_write_keeps_the_old_file_and_leaves_no_temporary_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "results.json"
    atomic.write_text(file, "old")

    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space"):
        atomic.write_text(file, "new")
    assert file.read_text() == "old"
    assert list(tmp_path.iterdir()) == [file]


def test_json_has_no_nan(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="nan"):
        atomic.write_json(tmp_path / "a.json", {"miou": math.nan})
    assert list(tmp_path.iterdir()) == []
