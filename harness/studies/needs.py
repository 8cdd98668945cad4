"""What a configuration needs of this machine, read off its settings: nothing is loaded and nothing is fetched."""

import re
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal, NamedTuple

Kind = Literal["model", "file", "package"]

HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")
# What a setting that names a file ends in; Hub ids end otherwise.
FILES = (".pt", ".pth", ".safetensors", ".bin", ".json", ".txt")
WEIGHTS = (".safetensors", ".bin", ".pt", ".pth")


class Need(NamedTuple):
    """Something that a run reads besides its benchmark.

    Attributes:
        kind: A ``model`` (a folder, or an id of the Hub), a ``file``, or a Python ``package``.
        name: Its path, id or name.
        flag: The setting that names it.
        missing: None if it is here, else what to do, a part of a sentence.
    """

    kind: Kind
    name: str
    flag: str
    missing: str | None


def needs(settings: Any, flag: str = "--method") -> list[Need]:
    """Models, files and packages that settings name, each once.

    Args:
        settings: Plain values, parts as ``class_path`` and ``init_args``.
        flag: The setting that holds them, for messages.
    """
    found: dict[tuple[str, str], Need] = {}
    for need in _walk(settings, flag):
        found.setdefault((need.kind, need.name), need)
    return list(found.values())


def _walk(value: Any, flag: str) -> Iterator[Need]:
    if isinstance(value, dict):
        if isinstance(value.get("init_args"), dict) and "class_path" in value:
            yield from _part(value["init_args"], flag)
            value = value["init_args"]
        for key, each in value.items():
            yield from _walk(each, f"{flag}.{key}")
    elif isinstance(value, list):
        for each in value:
            yield from _walk(each, flag)
    elif isinstance(value, str) and "/" in value and value.endswith(FILES):
        missing = None if Path(value).expanduser().is_file() else f"put the file there, or give its path with {flag}"
        yield Need("file", value, flag, missing)


def _part(arguments: dict[str, Any], flag: str) -> Iterator[Need]:
    """The model of one part: its constructor has ``name``, or, with a tagger, ``model``."""
    name, tagger = arguments.get("name"), arguments.get("model")
    if isinstance(name, str):
        folder = name.removeprefix("local-dir:")
        if folder != name or name.startswith((".", "/")):
            missing = None if Path(folder).is_dir() else f"put the folder there, or give its path with {flag}.name"
            yield Need("model", folder, f"{flag}.name", missing)
        elif "pretrained" in arguments:
            yield from _open_clip(name, arguments["pretrained"], flag)
        elif HUB_ID.fullmatch(name):
            yield Need("model", name, f"{flag}.name", _hub(name, arguments.get("revision")))
    if isinstance(tagger, str) and re.fullmatch(r"[a-z]{2}_\w+", tagger):
        missing = None if find_spec(tagger) else f"'python -m spacy download {tagger}' installs it"
        yield Need("package", tagger, f"{flag}.model", missing)


def _open_clip(name: str, tag: Any, flag: str) -> Iterator[Need]:
    """The weights of an architecture of open_clip: a tag's lie in the Hub's cache; a file is found as such."""
    if name.startswith("hf-hub:"):
        hub = name.removeprefix("hf-hub:")
    elif isinstance(tag, str):
        import open_clip

        hub = str(open_clip.get_pretrained_cfg(name, tag).get("hf_hub") or "").strip("/")
    else:
        hub = ""
    if hub:
        yield Need("model", hub, f"{flag}.name", _hub(hub, None))


def _hub(name: str, revision: Any) -> str | None:
    """None if the Hub's cache has a snapshot with weights in it, else how to fetch it."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import LocalEntryNotFoundError

    how = f"'HF_HUB_OFFLINE=0 hf download {name}" + (f" --revision {revision}'" if revision else "'") + " fetches it"
    try:
        folder = Path(snapshot_download(name, revision=revision, local_files_only=True))
    except (LocalEntryNotFoundError, OSError, ValueError):
        return how
    whole = any(path.suffix in WEIGHTS and path.is_file() for path in folder.rglob("*"))
    return None if whole else f"its weights are not in the Hub's cache; {how}"
