"""A cell of a paper's tables as the parsed arguments of ``ovseg evaluate``."""

import re
from importlib import import_module
from pathlib import Path
from typing import NamedTuple

from jsonargparse import Namespace

from harness.commands.arguments import Parser, plain, resolve_names
from harness.data.protocol import fingerprint
from harness.studies.papers import Cell, Published
from harness.system.errors import ConfigurationError

# Arguments of data that say where images are and how they are read, not what is scored.
READING = ("root", "batch_size", "num_workers", "on_error")


class ParsedCell(NamedTuple):
    """A cell, parsed.

    Attributes:
        cell: Where it stands.
        published: What the paper reports.
        parsed: The arguments of ``ovseg evaluate``.
        run: The name of its run directory; cells that are one experiment share it.
    """

    cell: Cell
    published: Published
    parsed: Namespace
    run: str


def parse_cell(parser: Parser, cell: Cell, rest: list[str], data_root: Path | None, folder: Path) -> ParsedCell:
    """Parse a cell's settings and the flags that all cells get.

    Args:
        parser: That of ``ovseg evaluate``.
        cell: The cell, which is not quoted.
        rest: Flags for all cells.
        data_root: Folder of the data sets; a cell's own ``root`` wins.
        folder: Where run directories are put.

    Raises:
        ConfigurationError: A setting is wrong; the message names the cell.
    """
    try:
        parsed = parser.parse_args(resolve_names([*cell.arguments(), *rest]))
    except ConfigurationError as error:
        raise ConfigurationError(f"{cell.paper}/{cell.name}: {error}") from error
    if parsed.seeds is not None:
        raise ConfigurationError("--seeds is not for reproduce; give --seed and another --run_dir")
    published = Published(**vars(parsed.published))
    data = parsed.data.get("init_args")
    if data_root is not None and data is not None and "root" in data and data.root is None:
        data.root = str(data_root)
    name = run_name(parsed)
    parsed.run_dir = folder / name
    return ParsedCell(cell, published, parsed, name)


def run_name(parsed: Namespace) -> str:
    """``METHOD-DATA-HASH``: one name for all cells that are the same experiment, another for every other."""
    method, data = plain(parsed.method), plain(parsed.data)
    scored = {key: value for key, value in (data.get("init_args") or {}).items() if key not in READING}
    identity = [method, data["class_path"], scored, plain(parsed.protocol), parsed.seed, parsed.trainer.precision]
    words = [re.sub(r"[^a-z0-9]+", "_", each["class_path"].rpartition(".")[2].lower()) for each in (method, data)]
    return "-".join([*words, fingerprint(identity)[:8]])


def class_name(path: str) -> str:
    """A class by the module that defines it: ``methods.clip_diy.ClipDIY`` for ``methods.ClipDIY``."""
    found = class_of(path)
    return f"{found.__module__}.{found.__qualname__}"


def class_of(path: str) -> type:
    """The class at an import path."""
    module, _, name = path.rpartition(".")
    found: type = getattr(import_module(module), name)
    return found
