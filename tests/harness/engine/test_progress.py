"""Progress: images/s and the running mIoU for a person who watches, nothing for a file."""

import os
import pty
import re
import sys
from collections.abc import Callable

import pytest

from harness import SegmentationMetric
from harness.engine import progress
from tests.running import Outcome


class Terminal:
    """A stream that is a terminal, and keeps what is written to it."""

    def __init__(self) -> None:
        self._reader, self._writer = pty.openpty()
        self.stream = os.fdopen(self._writer, "w")

    def read(self) -> str:
        self.stream.close()
        content = b""
        # The other end is closed: reading ends with an error once all is read.
        try:
            while part := os.read(self._reader, 4096):
                content += part
        except OSError:
            pass
        os.close(self._reader)
        return content.decode()


def test_a_person_sees_rate_and_running_score(
    evaluate: Callable[..., Outcome], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    terminal = Terminal()
    monkeypatch.setattr(progress, "REFRESH_SECONDS", 0.0)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "120")
    monkeypatch.setattr(sys, "stderr", terminal.stream)
    outcome = evaluate()
    assert outcome.code == 0
    shown = re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", terminal.read())
    assert "5/5" in shown
    assert re.search(r"\d+\.\d images/s", shown)
    assert re.search(r"mIoU \d+\.\d", shown)


def test_a_file_gets_nothing(evaluate: Callable[..., Outcome]) -> None:
    outcome = evaluate()
    assert outcome.err == ""
    assert "images/s" not in outcome.out


def test_reading_the_running_score_changes_no_counts() -> None:
    metric = SegmentationMetric(2)
    bar = progress.EvaluationProgress(metric)
    assert bar._miou() == ""
    metric.add(metric.confusion + 1)
    assert bar._miou() == "mIoU 33.3"
    assert metric.confusion.tolist() == [[1, 1], [1, 1]]
