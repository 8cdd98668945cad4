"""Work items: cached values, each named by a hash of everything that determines it."""

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any


def key_of(spec: Mapping[str, Any]) -> str:
    """64 hex digits: the SHA-256 of the canonical JSON of ``spec``."""
    canonical = json.dumps(dict(spec), sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(canonical.encode()).hexdigest()


@dataclass(frozen=True, eq=False)
class WorkItem:
    """One value that a stage computes and the store caches.

    Attributes:
        spec: JSON values: ``kind`` (lower-case letters, digits and underscores) and everything that determines the
            value, and nothing else. Model ids, revisions and weight hashes, prompt, seed, steps belong here; the order
            of the vocabulary, the number of ranks or the batch size do not.
        title: A name for messages, such as the class name. Not part of the key.
    """

    spec: Mapping[str, Any]
    title: str

    def __post_init__(self) -> None:
        if not re.fullmatch(r"[a-z0-9_]+", str(self.spec.get("kind"))):
            raise ValueError(f"a work item's spec has a 'kind' of lower-case letters, not {self.spec.get('kind')!r}")

    @property
    def kind(self) -> str:
        """The kind of value, from ``spec``."""
        return str(self.spec["kind"])

    @cached_property
    def key(self) -> str:
        """The entry's name in the store, see ``key_of``."""
        return key_of(self.spec)

    def __str__(self) -> str:
        return f"'{self.title}' ({self.kind} {self.key[:12]})"
