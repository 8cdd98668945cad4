"""The artifact store: a cache of expensive values, keyed by a hash of everything that determines them."""

import hashlib
import json
import logging
import os
import shutil
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import Any

import safetensors.torch
from filelock import FileLock, Timeout
from torch import Tensor

from harness.artifacts.work_item import WorkItem, key_of
from harness.system import atomic
from harness.system.errors import StoreError
from harness.system.provenance import commit, versions

SCHEMA = 1
TENSORS, MANIFEST = "tensors.safetensors", "manifest.json"
ENTRIES, LOCKS, TEMPORARY = "entries", "locks", "temporary"
STORE_VARIABLE = "OVSEG_STORE"

_log = logging.getLogger(__name__)


class ArtifactStore:
    """A folder of entries, each a directory with tensors (safetensors) and a JSON manifest.

    ``entries/ab/ab12.../`` is created by one rename, so a reader sees a complete entry or none. A lock per key ensures
    that only one process of all runs computes an entry; the lock is released when its process ends, even if killed.

    Args:
        root: The folder; null takes ``$OVSEG_STORE``, else ``~/.cache/ovseg``. Created on the first write.
    """

    def __init__(self, root: Path | str | None = None) -> None:
        root = root or os.environ.get(STORE_VARIABLE) or Path.home() / ".cache" / "ovseg"
        self.root = Path(root).expanduser().absolute()
        # Inode, size and modification time of verified files, so that this process hashes each file once.
        self._verified_files: dict[str, tuple[int, int, int]] = {}

    def folder(self, key: str) -> Path:
        """The directory of an entry, which need not exist."""
        return self.root / ENTRIES / key[:2] / key

    def has(self, key: str) -> bool:
        """Whether the entry exists; it may be corrupt."""
        return self.folder(key).is_dir()

    def all_keys(self) -> list[str]:
        """The keys of all entries, valid or corrupt, ascending."""
        return sorted(path.name for path in (self.root / ENTRIES).glob("??/*") if path.is_dir())

    def manifest(self, key: str) -> dict[str, Any]:
        """An entry's manifest: kind, title, spec, created, seconds (to compute), bytes, sha256, tensors, versions.

        Raises:
            StoreError: The manifest is missing or corrupt.
        """
        try:
            manifest = json.loads((self.folder(key) / MANIFEST).read_bytes())
            if manifest["schema"] != SCHEMA:
                raise ValueError(f"schema {manifest['schema']}, not {SCHEMA}")
            if key_of(manifest["spec"]) != key:
                raise ValueError("the manifest belongs to another key")
            for name, kind in {"kind": str, "title": str, "created": str, "bytes": int, "sha256": str}.items():
                if not isinstance(manifest[name], kind):
                    raise ValueError(f"'{name}' is not {kind.__name__}")
        except OSError as error:
            raise StoreError(f"{MANIFEST}: {error.strerror}") from error
        except (ValueError, KeyError, TypeError) as error:
            raise StoreError(f"{MANIFEST}: {type(error).__name__}: {error}") from error
        return manifest

    def corruption(self, key: str) -> str | None:
        """Why the entry is missing or corrupt; None if manifest and checksum are valid."""
        try:
            self._verify(key)
        except StoreError as error:
            return str(error)
        return None

    def load(self, key: str) -> dict[str, Tensor]:
        """The tensors of an entry, on the CPU, by name.

        Raises:
            StoreError: The entry is missing or corrupt.
        """
        try:
            _, content = self._verify(key)
            tensors = safetensors.torch.load(content or (self.folder(key) / TENSORS).read_bytes())
        except (StoreError, OSError, safetensors.SafetensorError) as error:
            raise StoreError(
                f"entry {key[:12]} of the store {self.root} is {'damaged' if self.has(key) else 'missing'} ({error}); "
                "run the same command again to recompute it"
            ) from error
        self._record_use(key)
        return tensors

    def _verify(self, key: str) -> tuple[dict[str, Any], bytes | None]:
        """The manifest of a valid entry, and the tensors' bytes if they had to be read.

        Raises:
            StoreError: The entry is missing or corrupt.
        """
        manifest, path = self.manifest(key), self.folder(key) / TENSORS
        try:
            state = path.stat()
            signature = (state.st_ino, state.st_size, state.st_mtime_ns)
            if self._verified_files.get(key) == signature:
                return manifest, None
            content = path.read_bytes()
        except OSError as error:
            raise StoreError(f"{TENSORS}: {error.strerror}") from error
        if len(content) != manifest["bytes"]:
            raise StoreError(f"{TENSORS}: {len(content)} bytes, not {manifest['bytes']}")
        if hashlib.sha256(content).hexdigest() != manifest["sha256"]:
            raise StoreError(f"{TENSORS}: the checksum differs")
        self._verified_files[key] = signature
        return manifest, content

    def _record_use(self, key: str) -> None:
        """Set the manifest's modification time, which ``prune`` reads as the time of the last use."""
        try:
            os.utime(self.folder(key) / MANIFEST)
        except OSError:
            # A read-only store is valid, too.
            _log.debug("the last use of %s could not be recorded", key)

    @contextmanager
    def lock(self, key: str, wait: bool = False) -> Iterator[bool]:
        """Hold an entry's lock; yields whether it is held. Without ``wait``, False at once if another process has it.

        Raises:
            StoreError: The store cannot be written.
        """
        path = self.root / LOCKS / f"{key}.lock"
        with self._writing():
            path.parent.mkdir(parents=True, exist_ok=True)
            lock = FileLock(path)
            with suppress(Timeout):
                lock.acquire(timeout=-1 if wait else 0)
        try:
            yield lock.is_locked
        finally:
            lock.release()

    def put(self, item: WorkItem, tensors: Mapping[str, Tensor], seconds: float) -> None:
        """Write an entry, unless it exists; the caller holds its lock.

        Args:
            item: The entry's work item.
            tensors: The value, on any device.
            seconds: Wall time of its computation.

        Raises:
            StoreError: The store cannot be written.
        """
        content = serialize(tensors)
        manifest = {
            "schema": SCHEMA,
            "key": item.key,
            "kind": item.kind,
            "title": item.title,
            "spec": dict(item.spec),
            "created": datetime.now(UTC).isoformat(timespec="seconds"),
            "seconds": round(seconds, 3),
            "bytes": len(content),
            "sha256": hashlib.sha256(content).hexdigest(),
            "tensors": {name: [str(t.dtype).removeprefix("torch."), *t.shape] for name, t in sorted(tensors.items())},
            **_provenance(),
        }
        text = json.dumps(manifest, indent=2, ensure_ascii=False, allow_nan=False) + "\n"
        self.receive(item.key, text.encode(), content)

    def export(self, key: str) -> tuple[bytes, bytes]:
        """The bytes of an entry's manifest and tensors, for ``receive`` of another store.

        Raises:
            StoreError: They cannot be read.
        """
        try:
            return (self.folder(key) / MANIFEST).read_bytes(), (self.folder(key) / TENSORS).read_bytes()
        except OSError as error:
            raise StoreError(f"entry {key[:12]} of the store {self.root} cannot be read: {error.strerror}") from error

    def receive(self, key: str, manifest: bytes, tensors: bytes) -> None:
        """Write an entry from the bytes of ``export``, unless it exists; the caller holds its lock.

        Raises:
            StoreError: The store cannot be written.
        """
        temporary = self.root / TEMPORARY / f"{key}.{uuid.uuid4().hex}"
        final = self.folder(key)
        with self._writing():
            try:
                temporary.mkdir(parents=True)
                atomic.write_bytes(temporary / TENSORS, tensors)
                atomic.write_bytes(temporary / MANIFEST, manifest)
                final.parent.mkdir(parents=True, exist_ok=True)
                try:
                    os.rename(temporary, final)
                except OSError:
                    # rename never replaces a directory with files in it: another process was first.
                    if not final.is_dir():
                        raise
                atomic.sync(final.parent)
            finally:
                shutil.rmtree(temporary, ignore_errors=True)

    def discard(self, key: str) -> None:
        """Remove an entry atomically; the caller holds its lock.

        Raises:
            StoreError: The store cannot be written.
        """
        removed = self.root / TEMPORARY / f"{key}.{uuid.uuid4().hex}"
        self._verified_files.pop(key, None)
        with self._writing():
            removed.parent.mkdir(parents=True, exist_ok=True)
            try:
                os.rename(self.folder(key), removed)
            except FileNotFoundError:
                return
            shutil.rmtree(removed)

    def ensure_valid(self, key: str, title: str) -> bool:
        """Whether the entry exists and is valid; a corrupt entry is reported in a warning and removed.

        Args:
            key: The entry's key; the caller does not hold its lock.
            title: Its title for the warning, since the manifest may be corrupt.

        Raises:
            StoreError: A corrupt entry cannot be removed.
        """
        if not self.has(key):
            return False
        if self.corruption(key) is None:
            # A run needs it without necessarily reading it: values computed from it may be cached, too.
            self._record_use(key)
            return True
        with self.lock(key) as held:
            # Another holder of the lock removes or recomputes the entry.
            return self.ensure_valid_locked(key, title) if held else False

    def ensure_valid_locked(self, key: str, title: str) -> bool:
        """``ensure_valid`` for a caller that holds the entry's lock."""
        if not self.has(key):
            return False
        why = self.corruption(key)
        if why is None:
            return True
        _log.warning("store: '%s' (%s) is damaged and will be recomputed: %s", title, self.folder(key), why)
        self.discard(key)
        return False

    def temporary_folders(self) -> list[Path]:
        """Unfinished entries of killed or running processes; see ``remove_temporary``."""
        return sorted((self.root / TEMPORARY).glob("*"))

    def remove_temporary(self) -> int:
        """Remove the unfinished entries of killed processes; returns the number of freed bytes."""
        freed = 0
        for path in self.temporary_folders():
            with self.lock(path.name.partition(".")[0]) as held:
                if held:
                    freed += folder_size(path)
                    shutil.rmtree(path, ignore_errors=True)
        return freed

    @contextmanager
    def _writing(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise StoreError(f"the store {self.root} cannot be written: {error.strerror or error}") from error


@cache
def _provenance() -> dict[str, Any]:
    """Versions and commit; cached, since the look-up takes longer than writing a small entry."""
    return {"versions": versions(), "commit": commit()}


def serialize(tensors: Mapping[str, Tensor]) -> bytes:
    """Tensors as safetensors bytes; they may share memory, have any strides and be on any device."""
    plain = {name: tensor.detach().to("cpu", copy=True).contiguous() for name, tensor in tensors.items()}
    return safetensors.torch.save(plain)


def folder_size(folder: Path) -> int:
    """Total bytes of all files in a folder."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
