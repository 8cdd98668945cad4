"""Records: finished images are never lost, and corrupt lines are left out."""

import os
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from harness import RunError
from harness.results.metric import Areas, confusion_matrix
from harness.results.records import Record, RecordWriter, merge, read_lines
from harness.results.results import check_complete, total_areas


def record(index: int, seconds: float = 0.1) -> Record:
    generator = torch.Generator().manual_seed(index)
    prediction, labels = (torch.randint(0, 4, (9, 9), generator=generator) for _ in range(2))
    return Record.of(index, f"städte/{index}.png", Areas.of(confusion_matrix(prediction, labels, 6)), seconds)


@given(st.lists(st.tuples(*(st.integers(0, 2**40) for _ in range(3))), min_size=1, max_size=8), st.text())
def test_a_record_survives_json(rows: list[tuple[int, int, int]], id: str) -> None:
    # An intersection is part of both other areas.
    areas = Areas(*zip(*((i, i + p, i + g) for i, p, g in rows), strict=True))
    written = Record.of(3, id, areas, 0.25)
    line = written.to_json()
    assert "\n" not in line
    assert Record.from_json(line) == written
    assert written.areas(len(rows)) == areas


def test_a_skipped_image_has_a_record_without_pixels() -> None:
    skipped = Record.from_json(Record(4, "x", skipped="the image x.png is corrupt").to_json())
    assert skipped.skipped == "the image x.png is corrupt"
    assert skipped.areas(3) == Areas.zero(3)


def test_a_line_truncated_anywhere_counts_as_not_done(tmp_path: Path) -> None:
    file, records = tmp_path / "records.jsonl", [record(index) for index in range(3)]
    content = "".join(line.to_json() + "\n" for line in records).encode()
    second = content.rindex(b"\n", 0, -1) + 1
    for length in range(second, len(content) - 1):
        file.write_bytes(content[:length])
        assert read_lines(file) == records[:2]
    file.write_bytes(content[:-1])
    assert read_lines(file) == records


@pytest.mark.parametrize("corrupt", ["{}", "[]", "7", "null", "", "\x00\x00", '{"index":1,"id":"a"}', '{"index":1'])
def test_a_line_that_is_not_a_record_is_left_out(corrupt: str, tmp_path: Path) -> None:
    file = tmp_path / "records.jsonl"
    file.write_text("".join(f"{line}\n" for line in (record(0).to_json(), corrupt, record(2).to_json())))
    assert read_lines(file) == [record(0), record(2)]


def test_a_record_with_one_changed_byte_is_left_out(tmp_path: Path) -> None:
    file = tmp_path / "records.jsonl"
    line = record(1).to_json().encode()
    for place in range(len(line)):
        changed = bytearray(line)
        changed[place] ^= 1
        file.write_bytes(b"\n".join([record(0).to_json().encode(), changed, record(2).to_json().encode()]))
        assert read_lines(file) == [record(0), record(2)], changed


def test_a_written_record_is_on_disk_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    synced: list[int] = []
    sync = os.fsync
    monkeypatch.setattr(os, "fsync", lambda descriptor: (synced.append(descriptor), sync(descriptor)))
    writer = RecordWriter(tmp_path / "records" / "a.jsonl")
    for index in range(3):
        writer.write(record(index))
        assert read_lines(tmp_path / "records" / "a.jsonl") == [record(i) for i in range(index + 1)]
    assert len(synced) == 3
    writer.close()


def test_merging_sorts_and_keeps_each_image_once() -> None:
    # The same image evaluated twice differs in its time alone.
    merged = merge([[record(4), record(1)], [], [record(4, seconds=9), record(0)]])
    assert merged == [record(0), record(1), record(4)]


def test_two_different_results_of_one_image_are_an_error() -> None:
    other = Record.of(1, "städte/1.png", Areas((1,), (1,), (1,)), 0.1)
    with pytest.raises(RunError, match=r"'städte/1.png' has two different results"):
        merge([[record(0), record(1)], [other]])


def test_a_sum_of_records_is_the_sum_of_their_pixels() -> None:
    summed = total_areas([record(index) for index in range(5)], 6)
    assert sum(summed.label) == sum(summed.prediction) == 5 * 81
    assert summed.label[4:] == (0, 0)


@pytest.mark.parametrize(
    ("recorded", "named"),
    [([0, 1], "städte/2.png"), ([0, 1, 2, 3], "städte/3.png"), ([0, 2], "städte/1.png"), ([0, 1, 1], None)],
)
def test_a_score_needs_every_image_exactly_once(recorded: list[int], named: str | None) -> None:
    ids = [f"städte/{index}.png" for index in range(3)]
    with pytest.raises(RunError, match=named or "exactly once"):
        check_complete([record(index) for index in recorded], ids)
    check_complete([record(index) for index in range(3)], ids)
