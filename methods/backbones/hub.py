"""Models of transformers and diffusers by Hub id or local folder: read from this machine, never fetched here.

No code that comes with a model is ever run.
"""

import hashlib
import json
import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import snapshot_download
from huggingface_hub.errors import LocalEntryNotFoundError
from safetensors.torch import load_file
from transformers import BaseImageProcessor
from transformers.utils.logging import disable_progress_bar

from harness.method.part import Requirement
from harness.system.errors import ModelError

MAIN = "main"  # the branch that no revision stands for
WEIGHTS = (".safetensors", ".bin", ".pt", ".pth")
# Entries of a configuration that say where a model came from or how it is held, not what it is.
_ORIGIN = ("transformers_version", "dtype", "torch_dtype", "name_or_path", "processor_class", "auto_map")


def is_folder(name: str) -> bool:
    """Whether a name means a folder, by how it begins, and not an id of the Hub."""
    return name.startswith((".", "/"))


def check_folder(name: str, what: str = "model", marker: str | None = None) -> None:
    """Refuse a local folder that does not exist or lacks a file that every such model has.

    Args:
        name: The folder.
        what: What should be in it, for the message.
        marker: A file that must be there; null asks for the folder alone.

    Raises:
        ModelError: It is not there.
    """
    if marker is not None and not (Path(name) / marker).is_file():
        raise ModelError(f"there is no {what} in '{name}': {marker} is missing")
    if not Path(name).is_dir():
        raise ModelError(f"there is no {what} folder '{name}'")


def how_to_fetch(name: str, revision: str | None = None) -> str:
    """The command that fetches a model of the Hub once."""
    other = revision not in (None, MAIN)
    return f"HF_HUB_OFFLINE=0 hf download {name}" + (f" --revision {revision}" if other else "")


def commit_of(name: str, revision: str | None = None) -> str | None:
    """The commit in the Hub's cache that a revision stands for; None for folders and for what is not here.

    Args:
        name: Hub id or folder.
        revision: Commit or branch on the Hub; null is its main branch.
    """
    if is_folder(name):
        return None
    try:
        return Path(snapshot_download(name, revision=revision, local_files_only=True)).name
    except (LocalEntryNotFoundError, OSError, ValueError):
        return None


def source(name: str, revision: str | None = None) -> dict[str, str | None]:
    """Where a model came from, see ``Part.source``."""
    asked = None if is_folder(name) else revision or MAIN
    return {"name": name, "revision": asked, "commit": commit_of(name, revision)}


def not_here(name: str, revision: str | None = None, what: str = "model", reason: object = "") -> ModelError:
    """The error for a model that cannot be read: what, where, and how to fetch it."""
    why = " ".join(str(reason).split())[:200]
    return ModelError(
        f"the {what} '{name}' is neither a complete folder here nor in the Hub's cache"
        + (f" ({why})" if why else "")
        + f"; where there is a network, `{how_to_fetch(name, revision)}` fetches it once"
    )


@contextmanager
def loading(
    name: str, revision: str | None, what: str = "model", marker: str | None = None
) -> Iterator[dict[str, Any]]:
    """Load inside, by any ``from_pretrained`` of transformers or diffusers.

    Args:
        name: Hub id or folder.
        revision: Commit or branch on the Hub.
        what: What it is, for the message.
        marker: As in ``check_folder``.

    Yields:
        The arguments that every ``from_pretrained`` is to get.

    Raises:
        ModelError: The model is not on this machine, or not complete.
    """
    if is_folder(name):
        check_folder(name, what, marker)
    disable_progress_bar()
    try:
        yield {"revision": revision, "local_files_only": True, "trust_remote_code": False}
    except (OSError, ValueError) as error:
        raise not_here(name, revision, what, error) from error


def preprocessing(name: str, revision: str | None) -> Mapping[str, Any]:
    """What a model's own preprocessing says, such as ``image_mean``; empty if it has none."""
    try:
        found = BaseImageProcessor.get_image_processor_dict(name, revision=revision, local_files_only=True)
    except OSError:
        return {}
    return dict(found[0])


def in_cache(name: str, revision: str | None = None) -> str | None:
    """None if the Hub's cache has a snapshot with weights in it, else how to fetch it."""
    how = f"'{how_to_fetch(name, revision)}' fetches it"
    try:
        folder = Path(snapshot_download(name, revision=revision, local_files_only=True))
    except (LocalEntryNotFoundError, OSError, ValueError):
        return how
    complete = any(path.suffix in WEIGHTS and path.is_file() for path in folder.rglob("*"))
    return None if complete else f"its weights are not in the Hub's cache; {how}"


def required_model(name: str, revision: str | None, flag: str) -> Requirement:
    """A model by Hub id or folder.

    Args:
        name: Hub id or folder.
        revision: Commit or branch on the Hub.
        flag: The setting that holds the name, for the message.
    """
    return required_folder(name, flag) if is_folder(name) else Requirement("model", name, in_cache(name, revision))


def required_folder(folder: str, flag: str) -> Requirement:
    """A model in a local folder; ``flag`` as in ``required_model``."""
    here = Path(folder).is_dir()
    return Requirement("model", folder, None if here else f"put the folder there, or give its path with {flag}")


def read_checkpoint(path: Path, what: str, source: str) -> Any:
    """What a checkpoint file holds: safetensors, or a ``.pt`` read with ``weights_only``.

    Args:
        path: The file.
        what: What it should be, such as ``FOUND head``, for the message.
        source: Where the published file is.

    Returns:
        A dict of tensors for safetensors, else whatever was saved, on the CPU.

    Raises:
        ModelError: The file is missing.
        Exception: Damaged files raise almost anything; see ``not_a_checkpoint``.
    """
    if not path.is_file():
        raise ModelError(f"there is no {what} at '{path}'; the published one is {source}")
    if path.suffix == ".safetensors":
        return load_file(path)
    return torch.load(path, map_location="cpu", weights_only=True)


def not_a_checkpoint(path: Path, what: str, error: Exception) -> ModelError:
    """The error for a file that cannot be read as what it should be; it names the file, whatever was raised."""
    return ModelError(f"'{path}' is not a {what}: {type(error).__name__}: {error}")


def plain_config(config: Any) -> Any:
    """A configuration as JSON without what only says where it came from, at any depth.

    Args:
        config: Dicts, lists and values of a configuration of transformers, diffusers or open_clip.
    """
    if isinstance(config, Mapping):
        items = {str(key): value for key, value in config.items()}
        return {key: plain_config(items[key]) for key in sorted(items) if key[:1] != "_" and key not in _ORIGIN}
    if isinstance(config, (list, tuple)):
        return [plain_config(value) for value in config]
    known = isinstance(config, (str, int, bool, type(None))) or (isinstance(config, float) and math.isfinite(config))
    return config if known else str(config)


def tokenization(tokenizer: Any) -> str:
    """16 hex digits of the SHA-256 over all that turns a text into numbers: tokens, merges, rules and special tokens.

    Args:
        tokenizer: Of transformers or open_clip. How long texts may be and how they are filled up is not in it where
            a call decides.
    """
    backend, inner = getattr(tokenizer, "backend_tokenizer", None), getattr(tokenizer, "tokenizer", None)
    told: dict[str, Any] = {"class": type(tokenizer).__name__}
    if backend is not None:
        rules = json.loads(backend.to_str())
        told |= {key: value for key, value in rules.items() if key not in ("truncation", "padding")}
    elif hasattr(inner, "get_vocab"):  # open_clip wraps those of transformers
        told["inner"] = tokenization(inner)
    else:
        ranks = getattr(tokenizer, "bpe_ranks", {})
        told["tokens"] = dict(tokenizer.encoder if hasattr(tokenizer, "encoder") else tokenizer.get_vocab())
        told["merges"] = [list(pair) for pair in sorted(ranks, key=lambda pair: int(ranks[pair]))]
    for name in ("model_max_length", "context_length", "padding_side", "special_tokens_map", "all_special_ids"):
        told[name] = str(getattr(tokenizer, name, None))
    for name in ("clean_fn", "reduction_fn", "strip_sep_token", "tokenizer_mode"):
        value = getattr(tokenizer, name, None)
        told[name] = getattr(value, "__name__", str(value))
    return hashlib.sha256(json.dumps(told, sort_keys=True).encode()).hexdigest()[:16]


def fingerprint(config: Any) -> str:
    """16 hex digits of the SHA-256 over a configuration as ``plain_config`` gives it."""
    return hashlib.sha256(json.dumps(plain_config(config), sort_keys=True).encode()).hexdigest()[:16]
