"""The run directory: all that is known of a run, and who may write it."""

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

from harness.results.records import FOLDER, Record, RecordWriter, read_lines
from harness.system import atomic
from harness.system.errors import RunError

SCHEMA = 1
RUN, RESULTS, IMAGES, CONFIG, LOCK = "run.json", "results.json", "images.jsonl", "config.yaml", ".lock"


def default_name(method: str, data: str) -> str:
    """``<method>-<data>-<time>-<random>``, with nothing in it that a path could stumble over."""
    plain = [re.sub(r"[^a-z0-9_]+", "_", part.lower()).strip("_") for part in (method, data)]
    return "-".join([*plain, datetime.now().strftime("%Y%m%d-%H%M%S"), uuid.uuid4().hex[:4]])


def differences(old: Any, new: Any, key: str = "") -> list[str]:
    """Every leaf in which two JSON values differ, as ``key: old -> new``."""
    if isinstance(old, dict) and isinstance(new, dict):
        found = []
        for name in sorted(old.keys() | new.keys()):
            found += differences(old.get(name), new.get(name), f"{key}.{name}" if key else name)
        return found
    return [] if old == new else [f"{key}: {json.dumps(old)} -> {json.dumps(new)}"]


class RunDirectory:
    """One evaluation's directory, held by one process per node at a time.

    Args:
        path: The directory; made if missing.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._lock: FileLock | None = None

    def hold(self) -> None:
        """Take the directory; the hold ends with ``release`` or with the process, however it dies.

        Raises:
            RunError: Another process holds it, or the path cannot be a directory.
        """
        try:
            self.path.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise RunError(f"--run_dir {self.path} cannot be made: {error.strerror}") from error
        lock = FileLock(self.path / LOCK)
        holder = self.path / (LOCK + ".holder")
        try:
            lock.acquire(timeout=0)
        except Timeout:
            who = holder.read_text() if holder.is_file() else "another process"
            raise RunError(
                f"run directory {self.path} is held by {who}; wait for it or give another --run_dir"
            ) from None
        holder.write_text(f"process {os.getpid()} on {socket.gethostname()}")
        self._lock = lock

    def release(self) -> None:
        """Give the directory back."""
        if self._lock is not None:
            self._lock.release()
            self._lock = None

    def identify(self, identity: dict[str, Any]) -> None:
        """Begin a run with this identity, or make sure that the run begun here has the same.

        Args:
            identity: Everything that determines the integers: method, data, protocol, weights, precision.

        Raises:
            RunError: The directory belongs to another evaluation; the message names every field that differs.
        """
        file = self.path / RUN
        if not file.exists():
            if (self.path / RESULTS).exists() or (self.path / IMAGES).exists():
                raise RunError(f"{self.path} holds results but no {RUN}; give another --run_dir")
            atomic.write_json(file, {"schema": SCHEMA, "identity": identity})
            return
        try:
            known = json.loads(file.read_text())["identity"]
        except (ValueError, KeyError, TypeError) as error:
            raise RunError(f"{file} is damaged ({error}); give another --run_dir") from error
        changed = differences(known, json.loads(json.dumps(identity)))
        if changed:
            raise RunError(f"{self.path} belongs to another evaluation: {'; '.join(changed)}; give another --run_dir")

    def agree_on_bank(self, bank: str) -> None:
        """Note the hash of the method's bank, or make sure that the run was begun with the same one.

        Raises:
            RunError: It was begun with another, so its records would not be of one method.
        """
        file = self.path / RUN
        run = json.loads(file.read_text())
        if run.setdefault("bank", bank) != bank:
            raise RunError(
                f"{self.path} was begun with another bank ({run['bank'][:12]}, now {bank[:12]}): the artifact store "
                "was emptied or changed since; give another --run_dir"
            )
        atomic.write_json(file, run)

    def records(self) -> list[list[Record]]:
        """All whole records of finished images found here, file by file."""
        files = sorted((self.path / FOLDER).glob("*.jsonl"))
        if (self.path / IMAGES).exists():
            files.insert(0, self.path / IMAGES)
        return [read_lines(file) for file in files]

    def writer(self, rank: int) -> RecordWriter:
        """A writer on a file that no other rank, and no earlier or later start of the run, writes."""
        return RecordWriter(self.path / FOLDER / f"{uuid.uuid4().hex[:12]}-{rank}.jsonl")

    def write_images(self, records: list[Record]) -> None:
        """Write the merged records; only then are the ranks' own files dropped."""
        atomic.write_text(self.path / IMAGES, "".join(record.to_json() + "\n" for record in records))

    def drop_parts(self) -> None:
        """Remove the ranks' own files."""
        shutil.rmtree(self.path / FOLDER, ignore_errors=True)
