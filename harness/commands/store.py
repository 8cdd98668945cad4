"""``ovseg store``: list, verify and prune the artifact store."""

import re
import sys
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal, NamedTuple

from rich.filesize import decimal
from rich.table import Table
from rich.text import Text

from harness.artifacts.store import MANIFEST, ArtifactStore, folder_size
from harness.commands.arguments import STORE_HELP, Parser
from harness.commands.console import console
from harness.system.errors import ConfigurationError, StoreError

SUMMARY = "list, verify or prune the entries of the artifact store"
UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400, "w": 7 * 86400}


class Entry(NamedTuple):
    """One entry as it is listed.

    Attributes:
        key: Its name in the store.
        kind: What sort of value it is; "?" if the manifest is corrupt.
        title: What a person calls it.
        bytes: Its size on disk.
        age: Seconds since its creation; since its manifest was written if that is corrupt.
        unused: Seconds since a run last read it.
    """

    key: str
    kind: str
    title: str
    bytes: int
    age: float
    unused: float


def parser() -> Parser:
    """The command's arguments."""
    built = Parser(prog="ovseg store", description=SUMMARY)
    built.add_argument("action", type=Literal["ls", "verify", "prune"], help="ls, verify or prune")
    built.add_argument("--store", type=Path | None, default=None, help=STORE_HELP)
    built.add_argument("--kind", type=str | None, default=None, help="only entries of this kind, as 'ls' names it")
    built.add_argument(
        "--older_than", type=str | None, default=None, help="prune: only entries unused for this long: 30d, 12h, 90m"
    )
    built.add_argument("--yes", action="store_true", help="prune: do not ask")
    return built


def seconds_of(age: str) -> float:
    """``30d`` in seconds.

    Raises:
        ConfigurationError: It is not a number and a unit.
    """
    found = re.fullmatch(r"(\d+(?:\.\d+)?)([smhdw])", age.strip())
    if found is None:
        raise ConfigurationError(f"--older_than is a number and one of s, m, h, d, w, such as 30d, not '{age}'")
    return float(found[1]) * UNITS[found[2]]


def readable(seconds: float) -> str:
    """An age in its largest unit that is not below one: 3d, 5h."""
    unit = next((unit for unit in ("d", "h", "m") if seconds >= UNITS[unit]), "s")
    return f"{int(max(seconds, 0) // UNITS[unit])}{unit}"


def entries(store: ArtifactStore, kind: str | None = None) -> list[Entry]:
    """All entries of a kind, those with a damaged manifest under the kind "?", by kind and title."""
    found = []
    for key in store.all_keys():
        folder = store.folder(key)
        try:
            written = ((folder / MANIFEST) if (folder / MANIFEST).exists() else folder).stat().st_mtime
            size = folder_size(folder)
        except FileNotFoundError:
            continue  # pruned by another process meanwhile
        try:
            manifest: dict[str, Any] = store.manifest(key)
            made = datetime.fromisoformat(manifest["created"]).astimezone(UTC).timestamp()
        except (StoreError, ValueError):
            manifest, made = {"kind": "?", "title": "(damaged)"}, written
        if kind in (None, manifest["kind"]):
            now = time.time()
            found.append(Entry(key, manifest["kind"], manifest["title"], size, now - made, now - written))
    return sorted(found, key=lambda entry: (entry.kind, entry.title, entry.key))


def listed(store: ArtifactStore, found: list[Entry]) -> Table:
    """The entries and their sum."""
    table = Table("kind", "title", title=f"{store.root}", title_justify="left", title_style="", show_footer=True)
    for heading in ("size", "age", "unused"):
        table.add_column(heading, justify="right", no_wrap=True)
    table.add_column("key", no_wrap=True)
    table.columns[0].footer = f"{len(found)} entries"
    table.columns[2].footer = decimal(sum(entry.bytes for entry in found))
    for entry in found:
        # Titles are the user's text, so no markup.
        ages = readable(entry.age), readable(entry.unused)
        table.add_row(entry.kind, Text(entry.title), decimal(entry.bytes), *ages, entry.key[:12])
    return table


def verify(store: ArtifactStore, found: list[Entry]) -> int:
    """Check every entry; exit code 1 when one is damaged."""
    damaged = 0
    for entry in found:
        why = store.corruption(entry.key)
        if why is not None and store.has(entry.key):
            damaged += 1
            print(f"damaged: '{entry.title}' ({entry.kind}, {store.folder(entry.key)}): {why}")
    print(f"{len(found)} entries, {damaged} damaged" + ("; a run that needs them makes them again" if damaged else ""))
    return 1 if damaged else 0


def prune(store: ArtifactStore, found: list[Entry], older_than: str | None, yes: bool) -> int:
    """Remove entries unused for long, and temporary files of killed processes.

    Raises:
        ConfigurationError: Standard input is not a terminal, and ``--yes`` is not given.
    """
    limit = seconds_of(older_than) if older_than is not None else 0.0
    old = [entry for entry in found if entry.unused >= limit]
    size = decimal(sum(entry.bytes for entry in old))
    if old and not yes:
        if not sys.stdin.isatty():
            raise ConfigurationError(f"{len(old)} entries ({size}) would be removed from {store.root}: give --yes")
        if input(f"remove {len(old)} entries ({size}) from {store.root}? [y/N] ").strip().lower() not in ("y", "yes"):
            print("nothing removed")
            return 0
    removed = freed = 0
    for entry in old:
        with store.lock(entry.key) as held:
            if held:
                store.discard(entry.key)
                removed, freed = removed + 1, freed + entry.bytes
            else:
                print(f"kept: '{entry.title}' ({entry.kind}) is in use")
    left = store.remove_temporary()
    print(f"removed {removed} entries ({decimal(freed)}) and {decimal(left)} of unfinished files from {store.root}")
    return 0


def run(arguments: list[str]) -> int:
    """Run the action; returns the exit code."""
    given = parser().parse_args(arguments)
    store = ArtifactStore(given.store)
    if store.root.exists() and not store.root.is_dir():
        raise ConfigurationError(f"--store {store.root} is not a folder")
    found = entries(store, given.kind)
    if given.action == "verify":
        return verify(store, found)
    if given.action == "prune":
        return prune(store, found, given.older_than, given.yes)
    console().print(listed(store, found))
    return 0
