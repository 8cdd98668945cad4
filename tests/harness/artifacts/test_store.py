"""The artifact store: keys, atomic entries, detection of corruption, pruning."""

import json
import os
import pickle
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from harness import ArtifactStore, ConfigurationError, StoreError, WorkItem
from harness.commands.store import readable, seconds_of
from tests.running import Outcome

NAME = "../../etc/passwd [bold]&"
TENSORS = {"a": torch.arange(6.0).reshape(2, 3), "ids": torch.tensor([1, 2]), "empty": torch.zeros(0, 4)}


def item(name: str = NAME, kind: str = "paint", **spec: object) -> WorkItem:
    return WorkItem({"kind": kind, "name": name, "seed": 0, **spec}, name)


def put(store: ArtifactStore, entry: WorkItem) -> Path:
    with store.lock(entry.key) as held:
        assert held
        store.put(entry, TENSORS, 1.5)
    return store.folder(entry.key)


@pytest.fixture
def store(tmp_path: Path) -> ArtifactStore:
    return ArtifactStore(tmp_path / "store")


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)


def test_a_key_hashes_the_spec_in_any_order_and_nothing_else() -> None:
    assert WorkItem({"kind": "k", "a": 1, "b": [2]}, "x").key == WorkItem({"b": (2,), "a": 1, "kind": "k"}, "y").key
    assert item().key != item(seed=1).key
    assert item().key != item(kind="mix").key
    with pytest.raises(ValueError, match="kind"):
        WorkItem({"name": "x"}, "x")
    with pytest.raises(ValueError, match="JSON"):
        _ = item(seed=float("nan")).key


def test_entries_are_loaded_as_written_and_names_never_become_paths(store: ArtifactStore, tmp_path: Path) -> None:
    folder = put(store, item())
    loaded = ArtifactStore(store.root).load(item().key)
    assert loaded.keys() == TENSORS.keys()
    assert all(torch.equal(loaded[name], TENSORS[name]) for name in TENSORS)
    assert folder.parent.parent.parent == store.root
    assert folder.name == item().key
    assert [path.name for path in tmp_path.iterdir()] == ["store"]
    manifest = json.loads((folder / "manifest.json").read_text())
    assert manifest["spec"] == item().spec
    assert manifest["title"] == NAME
    assert manifest["seconds"] == 1.5
    assert manifest["bytes"] == (folder / "tensors.safetensors").stat().st_size
    assert manifest["tensors"]["a"] == ["float32", 2, 3]
    assert not store.temporary_folders()


def test_the_folder_comes_from_the_argument_or_the_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("OVSEG_STORE", raising=False)
    assert ArtifactStore().root == tmp_path / ".cache" / "ovseg"
    monkeypatch.setenv("OVSEG_STORE", str(tmp_path / "elsewhere"))
    assert ArtifactStore().root == tmp_path / "elsewhere"
    assert ArtifactStore(tmp_path / "given").root == tmp_path / "given"


def test_tensors_that_share_memory_or_have_any_strides_are_stored(store: ArtifactStore) -> None:
    base = torch.arange(12.0).reshape(3, 4)
    with store.lock(item().key):
        store.put(item(), {"row": base[1], "turned": base.t(), "whole": base}, 0.0)
    loaded = store.load(item().key)
    assert torch.equal(loaded["turned"], base.t())
    assert torch.equal(loaded["row"], base[1])


def test_a_second_put_leaves_the_first(store: ArtifactStore) -> None:
    folder = put(store, item())
    before = (folder / "manifest.json").stat().st_ino
    put(store, item())
    assert (folder / "manifest.json").stat().st_ino == before
    assert not store.temporary_folders()


def test_a_lock_excludes_others_until_it_is_released(store: ArtifactStore) -> None:
    with store.lock("k") as first, ArtifactStore(store.root).lock("k") as second:
        assert (first, second) == (True, False)
    with store.lock("k") as again:
        assert again
    entered = threading.Event()

    def wait() -> None:
        with ArtifactStore(store.root).lock("k", wait=True):
            entered.set()

    with store.lock("k"):
        thread = threading.Thread(target=wait)
        thread.start()
        assert not entered.wait(0.2)
    assert entered.wait(10)
    thread.join()


CORRUPTIONS: dict[str, Callable[[Path], object]] = {
    "the checksum differs": lambda folder: flip(folder / "tensors.safetensors"),
    "bytes, not": lambda folder: os.truncate(folder / "tensors.safetensors", 50),
    "tensors.safetensors: No such file": lambda folder: (folder / "tensors.safetensors").unlink(),
    "manifest.json: No such file": lambda folder: (folder / "manifest.json").unlink(),
    "manifest.json: JSONDecodeError": lambda folder: os.truncate(folder / "manifest.json", 100),
    "manifest.json: TypeError": lambda folder: (folder / "manifest.json").write_text("[]"),
    "another key": lambda folder: (folder / "manifest.json").write_text(
        (folder / "manifest.json").read_text().replace('"seed": 0', '"seed": 1')
    ),
}


@pytest.mark.parametrize("why", CORRUPTIONS)
def test_corruption_is_detected_reported_and_removed(
    why: str, store: ArtifactStore, caplog: pytest.LogCaptureFixture
) -> None:
    folder = put(store, item())
    assert store.corruption(item().key) is None
    CORRUPTIONS[why](folder)
    # Also by a process that has verified the entry before.
    for opened in (store, ArtifactStore(store.root)):
        assert why in (opened.corruption(item().key) or "")
        with pytest.raises(StoreError, match="is damaged"):
            opened.load(item().key)
    assert not store.ensure_valid(item().key, NAME)
    assert NAME in caplog.text
    assert why in caplog.text
    assert not store.has(item().key)
    put(store, item())
    assert store.ensure_valid(item().key, NAME)


def test_a_pickle_in_place_of_tensors_is_not_loaded(store: ArtifactStore) -> None:
    folder = put(store, item())
    (folder / "tensors.safetensors").write_bytes(pickle.dumps({"a": 1}))
    with pytest.raises(StoreError, match="damaged"):
        store.load(item().key)


def test_a_missing_entry_and_a_read_only_store_raise_errors(store: ArtifactStore, tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="is missing"):
        store.load(item().key)
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreError, match="cannot be written"):
        put(ArtifactStore(tmp_path / "file"), item())


@pytest.mark.parametrize(
    ("age", "seconds"), [("30d", 30 * 86400), ("12h", 43200), ("1.5m", 90), ("0s", 0), ("1w", 604800)]
)
def test_ages(age: str, seconds: float) -> None:
    assert seconds_of(age) == seconds


def test_ages_for_reading() -> None:
    assert [readable(seconds) for seconds in (-1, 59, 60, 3 * 3600, 2.5 * 86400)] == ["0s", "59s", "1m", "3h", "2d"]
    with pytest.raises(ConfigurationError, match="30d"):
        seconds_of("a month")


def test_ls_and_verify(store: ArtifactStore, ovseg: Callable[..., Outcome]) -> None:
    put(store, item())
    put(store, item("corgi", "mix"))
    listed = ovseg("store", "ls", "--store", store.root)
    assert listed.code == 0
    assert all(text in listed.out for text in ("[bold]&", "corgi", "paint", "mix", "2 entries", item().key[:12], "0s"))
    assert "corgi" not in ovseg("store", "ls", "--store", store.root, "--kind", "paint").out
    valid = ovseg("store", "verify", "--store", store.root)
    assert (valid.code, valid.out) == (0, "2 entries, 0 damaged\n")
    flip(store.folder(item().key) / "tensors.safetensors")
    damaged = ovseg("store", "verify", "--store", store.root)
    assert damaged.code == 1
    assert damaged.out.startswith(f"damaged: '{NAME}' (paint, {store.folder(item().key)}): ")
    os.truncate(store.folder(item("corgi", "mix").key) / "manifest.json", 9)
    assert "2 entries, 2 damaged" in ovseg("store", "verify", "--store", store.root).out
    assert "(damaged)" in ovseg("store", "ls", "--store", store.root).out
    assert ovseg("store", "ls", "--store", store.root / "none").code == 0


def test_prune_removes_old_and_unfinished_entries(store: ArtifactStore, ovseg: Callable[..., Outcome]) -> None:
    used, unused, busy = item("used"), item("unused"), item("busy")
    for entry in (used, unused, busy):
        folder = put(store, entry)
        month = time.time() - 31 * 86400
        os.utime(folder / "manifest.json", (month, month))
    store.load(used.key)
    for key in (unused.key, busy.key):
        (store.root / "temporary" / f"{key}.0123").mkdir(parents=True)
        (store.root / "temporary" / f"{key}.0123" / "tensors.safetensors").write_bytes(b"half")
    asked = ovseg("store", "prune", "--store", store.root, "--older_than", "30d")
    assert asked.code == 2
    assert "2 entries" in asked.err
    assert "--yes" in asked.err
    with store.lock(busy.key):
        pruned = ovseg("store", "prune", "--store", store.root, "--older_than", "30d", "--yes")
    assert pruned.code == 0
    assert "kept: 'busy' (paint) is in use" in pruned.out
    assert "removed 1 entries" in pruned.out
    assert "4 bytes of unfinished files" in pruned.out
    assert store.all_keys() == sorted([used.key, busy.key])
    assert [path.name for path in store.temporary_folders()] == [f"{busy.key}.0123"]
    assert ovseg("store", "prune", "--store", store.root, "--kind", "mix", "--yes").code == 0
    assert len(store.all_keys()) == 2
    assert ovseg("store", "prune", "--store", store.root, "--yes").code == 0
    assert store.all_keys() == []
    assert ovseg("store", "burn").code == 2
