"""Captions as a stream, and their shards."""

import json
import tracemalloc
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from harness.system.errors import ConfigurationError, DataError
from methods.fossil.captions import Caption, Captions, CaptionShards, fingerprint


def many(count: int) -> Iterator[Caption]:
    return (Caption(n, f"a photo of cat number {n}, ä") for n in range(count))


def coco(path: Path, annotations: list[Any]) -> Path:
    content = {"info": {"year": 2017}, "images": [{"id": 1, "file_name": "1.jpg"}], "annotations": annotations}
    path.write_text(json.dumps(content))
    return path


def test_lines_of_a_text_file_keep_their_numbers(tmp_path: Path) -> None:
    path = tmp_path / "captions.txt"
    path.write_text("\ufeffA cat.\n\n  two   dogs \u00e4 \n", encoding="utf-8")
    assert list(Captions(path)) == [Caption(1, "A cat."), Caption(3, "two dogs ä")]
    assert list(Captions(path, limit=1)) == [Caption(1, "A cat.")]


def test_coco_captions_are_read_as_published(tmp_path: Path) -> None:
    # As in captions_val2017.json, stray line ends and all.
    annotations = [
        {"image_id": 179765, "id": 38, "caption": "A black Honda motorcycle parked in front of a garage."},
        {"image_id": 190236, "id": 182, "caption": "An office cubicle with four\ndifferent types of computers.\n"},
        {"image_id": 190236, "id": 183, "caption": " "},
    ]
    path = coco(tmp_path / "captions_val2017.json", annotations)
    assert list(Captions(path)) == [
        Caption(38, "A black Honda motorcycle parked in front of a garage."),
        Caption(182, "An office cubicle with four different types of computers."),
    ]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.txt", b"", "has no captions"),
        ("a.txt", b"\n \n", "has no captions"),
        ("a.txt", b"caf\xe9\n", "UTF-8"),
        ("a.json", b"{}", "has no captions"),
        ("a.json", b'{"annotations": [{"id": 1, "caption": "a"}, ', "not sound JSON"),
        ("a.json", b"a cat", "not sound JSON"),
        ("a.json", b'{"annotations": [{"id": 1, "caption": "a"}, {"id": 2}]}', "annotation 1 of"),
        ("a.json", b'{"annotations": [{"id": "1", "caption": "a"}]}', "annotation 0 of"),
        ("a.json", b'{"annotations": ["a"]}', "annotation 0 of"),
    ],
)
def test_a_damaged_file_is_named(tmp_path: Path, name: str, content: bytes, message: str) -> None:
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(DataError, match=message) as caught:
        list(Captions(path))
    assert name in str(caught.value)


def test_a_missing_file_and_bad_numbers_are_refused(tmp_path: Path) -> None:
    for name in ("none.txt", "none.json"):
        with pytest.raises(DataError, match=name):
            list(Captions(tmp_path / name))
    with pytest.raises(ConfigurationError, match="limit"):
        Captions("a.txt", limit=0)
    with pytest.raises(ConfigurationError, match="shard"):
        CaptionShards(many(3), 0)


def test_shards_are_consecutive_captions_in_any_order_of_reading() -> None:
    captions = list(many(10))
    shards = CaptionShards(iter(captions), 4)
    assert (len(shards), shards.total) == (3, 10)
    assert [shards.read(number) for number in (2, 0, 1)] == [captions[8:], captions[:4], captions[4:8]]
    assert shards.fingerprints == [fingerprint(captions[start : start + 4]) for start in (0, 4, 8)]
    assert [shards.number(found) for found in shards.fingerprints] == [0, 1, 2]
    with pytest.raises(DataError, match="no shard"):
        shards.number("0" * 64)


def test_appended_captions_change_no_full_shard() -> None:
    before, after = CaptionShards(many(10), 4).fingerprints, CaptionShards(many(14), 4).fingerprints
    assert after[:2] == before[:2]
    assert after[2] != before[2]
    assert CaptionShards(many(12), 4).fingerprints[:2] == before[:2]


def test_a_fingerprint_is_of_ids_words_and_order() -> None:
    base = [Caption(1, "a cat"), Caption(2, "a dog")]
    others = [base[::-1], base[:1], [Caption(1, "a cat"), Caption(3, "a dog")], [Caption(1, "a ca"), base[1]]]
    assert len({fingerprint(each) for each in [base, *others]}) == 5


def peak(count: int, path: Path | None = None) -> int:
    tracemalloc.start()
    shards = CaptionShards(many(count) if path is None else Captions(path, limit=count), 64)
    assert shards.total == count
    found = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return found


@pytest.mark.parametrize("kind", ["txt", "json"])
def test_memory_is_a_few_bytes_per_caption(kind: str, tmp_path: Path) -> None:
    path = tmp_path / f"captions.{kind}"
    if kind == "txt":
        path.write_text("".join(f"{caption.text}\n" for caption in many(20_000)))
    else:
        coco(path, [{"image_id": 7, "id": caption.id, "caption": caption.text} for caption in many(20_000)])
    peak(100, path)  # what is imported and kept once
    assert (peak(20_000, path) - peak(2_000, path)) / 18_000 < 6
