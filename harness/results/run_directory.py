"""The run directory: identity, records and results of a run, and the lock of the process that writes it."""

import json
import os
import re
import shutil
import socket
import uuid
from datetime import datetime
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from harness.results.records import RECORDS, Record, RecordWriter, read_lines
from harness.system import atomic
from harness.system.errors import RunError

SCHEMA = 1
RUN, RESULTS, IMAGES, CONFIG, LOCK = "run.json", "results.json", "images.jsonl", "config.yaml", ".lock"


def default_name(method: str, data: str) -> str:
    """``<method>-<data>-<time>-<random>`` in characters that are safe in paths."""
    names = [re.sub(r"[^a-z0-9_]+", "_", part.lower()).strip("_") for part in (method, data)]
    return "-".join([*names, datetime.now().strftime("%Y%m%d-%H%M%S"), uuid.uuid4().hex[:4]])


def differences(old: Any, new: Any, key: str = "") -> list[str]:
    """Every leaf in which two JSON values differ, as ``key: old -> new``."""
    if isinstance(old, dict) and isinstance(new, dict):
        lines = []
        for name in sorted(old.keys() | new.keys()):
            lines += differences(old.get(name), new.get(name), f"{key}.{name}" if key else name)
        return lines
    return [] if old == new else [f"{key}: {json.dumps(old)} -> {json.dumps(new)}"]


class RunDirectory:
    """The directory of one evaluation, locked by one process per node at a time.

    Args:
        path: The directory; created if missing.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._lock: FileLock | None = None

    def acquire(self) -> None:
        """Lock the directory until ``release`` or until the process ends, even if killed.

        Raises:
            RunError: Another process has locked it, or it cannot be created.
        """
        try:
            self.path.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise RunError(f"--run_dir {self.path} cannot be created: {error.strerror}") from error
        lock = FileLock(self.path / LOCK)
        holder = self.path / (LOCK + ".holder")
        try:
            lock.acquire(timeout=0)
        except Timeout:
            owner = holder.read_text() if holder.is_file() else "another process"
            raise RunError(
                f"run directory {self.path} is held by {owner}; wait for it or give another --run_dir"
            ) from None
        holder.write_text(f"process {os.getpid()} on {socket.gethostname()}")
        self._lock = lock

    def release(self) -> None:
        """Unlock the directory."""
        if self._lock is not None:
            self._lock.release()
            self._lock = None

    def ensure_identity(self, identity: dict[str, Any]) -> None:
        """Write the identity of a new run, or check that the run to resume has the same.

        Args:
            identity: Everything that determines the pixel counts: method, data, protocol, weights, precision.

        Raises:
            RunError: The directory belongs to another evaluation (the message names every field that differs), or is
                corrupt.
        """
        file = self.path / RUN
        if not file.exists():
            if (self.path / RESULTS).exists() or (self.path / IMAGES).exists():
                raise RunError(f"{self.path} holds results but no {RUN}; give another --run_dir")
            atomic.write_json(file, {"schema": SCHEMA, "identity": identity})
            return
        try:
            saved = json.loads(file.read_text())["identity"]
        except (ValueError, KeyError, TypeError) as error:
            raise RunError(f"{file} is damaged ({error}); give another --run_dir") from error
        changed = differences(saved, json.loads(json.dumps(identity)))
        if changed:
            raise RunError(f"{self.path} belongs to another evaluation: {'; '.join(changed)}; give another --run_dir")

    def ensure_bank(self, bank: str) -> None:
        """Write the hash of the method's bank, or check that the run was started with the same bank.

        Raises:
            RunError: The run was started with another bank.
        """
        file = self.path / RUN
        run = json.loads(file.read_text())
        if run.setdefault("bank", bank) != bank:
            raise RunError(
                f"{self.path} was started with another bank ({run['bank'][:12]}, now {bank[:12]}): the artifact store "
                "was pruned or changed since; give another --run_dir"
            )
        atomic.write_json(file, run)

    def records(self) -> list[list[Record]]:
        """All valid records of finished images, file by file."""
        files = sorted((self.path / RECORDS).glob("*.jsonl"))
        if (self.path / IMAGES).exists():
            files.insert(0, self.path / IMAGES)
        return [read_lines(file) for file in files]

    def writer(self, rank: int) -> RecordWriter:
        """A writer on a new file, written by this rank of this start of the run alone."""
        return RecordWriter(self.path / RECORDS / f"{uuid.uuid4().hex[:12]}-{rank}.jsonl")

    def write_images(self, records: list[Record]) -> None:
        """Write the merged records; call it before ``remove_rank_records``."""
        atomic.write_text(self.path / IMAGES, "".join(record.to_json() + "\n" for record in records))

    def remove_rank_records(self) -> None:
        """Remove the record files of the ranks."""
        shutil.rmtree(self.path / RECORDS, ignore_errors=True)
