"""The artifact store: values that are dear to compute, kept under a hash of everything that determines them."""

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
VARIABLE = "OVSEG_STORE"

_log = logging.getLogger(__name__)


class ArtifactStore:
    """A folder of entries, each a directory of its own with tensors (safetensors) and a JSON manifest.

    ``entries/ab/ab12.../`` appears by one rename, so a reader sees all of an entry or none of it. A lock per key makes
    sure that of all processes and runs only one makes an entry; it ends with its process, however that dies.

    Args:
        root: The folder; null takes ``$OVSEG_STORE``, else ``~/.cache/ovseg``. Made when first written to.
    """

    def __init__(self, root: Path | str | None = None) -> None:
        self.root = Path(root or os.environ.get(VARIABLE) or Path.home() / ".cache" / "ovseg").expanduser().absolute()
        # Files found sound by this process, with inode, size and time, so that each is hashed once.
        self._sound: dict[str, tuple[int, int, int]] = {}

    def folder(self, key: str) -> Path:
        """Where an entry lies, or would lie."""
        return self.root / ENTRIES / key[:2] / key

    def has(self, key: str) -> bool:
        """Whether the entry is there; not whether it is sound."""
        return self.folder(key).is_dir()

    def all_keys(self) -> list[str]:
        """The keys of all entries, sound or not, ascending."""
        return sorted(path.name for path in (self.root / ENTRIES).glob("??/*") if path.is_dir())

    def manifest(self, key: str) -> dict[str, Any]:
        """What is known of an entry: kind, title, spec, created, seconds (to make), bytes, sha256, tensors, versions.

        Raises:
            StoreError: The manifest is missing or damaged.
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

    def fault(self, key: str) -> str | None:
        """Why the entry cannot be used; None if manifest and checksum are right."""
        try:
            self._verified(key)
        except StoreError as error:
            return str(error)
        return None

    def load(self, key: str) -> dict[str, Tensor]:
        """The tensors of an entry, on the CPU, by name.

        Raises:
            StoreError: It is missing or damaged.
        """
        try:
            _, content = self._verified(key)
            tensors = safetensors.torch.load(content or (self.folder(key) / TENSORS).read_bytes())
        except (StoreError, OSError, safetensors.SafetensorError) as error:
            raise StoreError(
                f"entry {key[:12]} of the store {self.root} is {'damaged' if self.has(key) else 'missing'} ({error}); "
                "start again, and it is made again"
            ) from error
        self._used(key)
        return tensors

    def _verified(self, key: str) -> tuple[dict[str, Any], bytes | None]:
        """The manifest of a sound entry, and the tensors' bytes if they had to be read for it."""
        manifest, path = self.manifest(key), self.folder(key) / TENSORS
        try:
            state = path.stat()
            signature = (state.st_ino, state.st_size, state.st_mtime_ns)
            if self._sound.get(key) == signature:
                return manifest, None
            content = path.read_bytes()
        except OSError as error:
            raise StoreError(f"{TENSORS}: {error.strerror}") from error
        if len(content) != manifest["bytes"]:
            raise StoreError(f"{TENSORS}: {len(content)} bytes, not {manifest['bytes']}")
        if hashlib.sha256(content).hexdigest() != manifest["sha256"]:
            raise StoreError(f"{TENSORS}: the checksum differs")
        self._sound[key] = signature
        return manifest, content

    def _used(self, key: str) -> None:
        """Leave the time of the last use behind as the manifest's modification time, for ``prune``."""
        try:
            os.utime(self.folder(key) / MANIFEST)
        except OSError:
            # A folder that may only be read is as good as any.
            _log.debug("the last use of %s could not be noted", key)

    @contextmanager
    def lock(self, key: str, wait: bool = False) -> Iterator[bool]:
        """Hold an entry's lock; without ``wait``, yields False at once when another process has it."""
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
        """Write an entry; the caller holds its lock. One that is already there is left as it is.

        Args:
            item: What it is.
            tensors: The value, on any device.
            seconds: What it took to make.

        Raises:
            StoreError: The disk refuses.
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
        """The bytes of an entry's manifest and tensors, to be received by another store.

        Raises:
            StoreError: They cannot be read.
        """
        try:
            return (self.folder(key) / MANIFEST).read_bytes(), (self.folder(key) / TENSORS).read_bytes()
        except OSError as error:
            raise StoreError(f"entry {key[:12]} of the store {self.root} cannot be read: {error.strerror}") from error

    def receive(self, key: str, manifest: bytes, tensors: bytes) -> None:
        """Write an entry from its bytes, as ``put`` does; the caller holds its lock."""
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
                    # A directory with files in it is never replaced: another process was first.
                    if not final.is_dir():
                        raise
                atomic.sync(final.parent)
            finally:
                shutil.rmtree(temporary, ignore_errors=True)

    def discard(self, key: str) -> None:
        """Remove an entry, all of it at once; the caller holds its lock."""
        gone = self.root / TEMPORARY / f"{key}.{uuid.uuid4().hex}"
        self._sound.pop(key, None)
        with self._writing():
            gone.parent.mkdir(parents=True, exist_ok=True)
            try:
                os.rename(self.folder(key), gone)
            except FileNotFoundError:
                return
            shutil.rmtree(gone)

    def mend(self, key: str, title: str) -> bool:
        """Whether a sound entry is there; a damaged one is named in a warning and removed.

        Args:
            key: The entry; the caller does not hold its lock.
            title: What a person calls it; the manifest may be what is damaged.
        """
        if not self.has(key):
            return False
        if self.fault(key) is None:
            # Needed by a run, though perhaps not read: what was made of it may be there, too.
            self._used(key)
            return True
        with self.lock(key) as held:
            # Whoever else holds it found the same and is at it.
            return self.mend_held(key, title) if held else False

    def mend_held(self, key: str, title: str) -> bool:
        """``mend`` for a caller who holds the lock."""
        if not self.has(key):
            return False
        why = self.fault(key)
        if why is None:
            return True
        _log.warning("store: '%s' (%s) is damaged and will be made again: %s", title, self.folder(key), why)
        self.discard(key)
        return False

    def temporaries(self) -> list[Path]:
        """What a killed process may have left, or a living one is writing; see ``sweep``."""
        return sorted((self.root / TEMPORARY).glob("*"))

    def sweep(self) -> int:
        """Remove what killed processes left; returns how many bytes that were."""
        freed = 0
        for path in self.temporaries():
            with self.lock(path.name.partition(".")[0]) as held:
                if held:
                    freed += size_of(path)
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
    """Looked up once: it takes longer than to write a small entry."""
    return {"versions": versions(), "commit": commit()}


def serialize(tensors: Mapping[str, Tensor]) -> bytes:
    """Safetensors bytes; tensors may share memory or lie in any order, on any device."""
    plain = {name: tensor.detach().to("cpu", copy=True).contiguous() for name, tensor in tensors.items()}
    return safetensors.torch.save(plain)


def size_of(folder: Path) -> int:
    """Bytes of all files in a folder."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
