"""``ovseg protocol``: the fields of a protocol, or of two that differ."""

import dataclasses
from typing import Any, Literal

from rich.table import Table
from rich.text import Text

from harness.commands.arguments import PROTOCOLS, Parser, find_protocol, instantiate
from harness.commands.console import console
from harness.data.protocol import Protocol
from harness.system.errors import ConfigurationError

SUMMARY = "show a protocol, or the fields in which two protocols differ"


def parser() -> Parser:
    """The command's arguments."""
    built = Parser(prog="ovseg protocol", description=SUMMARY)
    built.add_argument("action", type=Literal["show", "diff"], help="show or diff")
    built.add_argument("protocols", type=str, nargs="*", help=f"YAML files, or names of files in {PROTOCOLS}")
    return built


def run(arguments: list[str]) -> None:
    """Show one, or compare two."""
    given = parser().parse_args(arguments)
    wanted = {"show": 1, "diff": 2}[given.action]
    if len(given.protocols) != wanted:
        example = "ovseg protocol show tcl" if wanted == 1 else "ovseg protocol diff tcl clip_diy_release"
        raise ConfigurationError(f"{given.action} takes {wanted}, not {len(given.protocols)}: '{example}'")
    read = [load(name) for name in given.protocols]
    console().print(shown(read[0]) if wanted == 1 else difference(*read))


def load(name: str) -> Protocol:
    """The protocol in a file.

    Raises:
        ConfigurationError: The file is missing, damaged, or a field of it is unknown or wrong.
    """
    path = find_protocol(name)
    built = Parser(prog="ovseg protocol")
    built.add_class_arguments(Protocol, "protocol", sub_configs=True)
    try:
        return instantiate(built, built.parse_args(["--protocol", str(path)])).protocol
    except ConfigurationError as error:
        text = str(error)
        raise ConfigurationError(text if str(path) in text else f"{path}: {text}") from error


def fields(protocol: Protocol) -> dict[str, Any]:
    """Every field but the name."""
    values = dataclasses.asdict(protocol)
    del values["name"]
    return values


def shown(protocol: Protocol) -> Table:
    """All fields, with the fingerprint."""
    table = _table(protocol)
    for field, value in fields(protocol).items():
        table.add_row(field, readable(value))
    table.add_section()
    table.add_row("fingerprint", protocol.fingerprint)
    return table


def difference(first: Protocol, second: Protocol) -> Table | str:
    """The fields in which two differ, or a sentence that they do not."""
    one, other = fields(first), fields(second)
    differing = [field for field in one if one[field] != other[field]]
    if not differing:
        return f"{first.name} and {second.name} do not differ: fingerprint {first.fingerprint}"
    table = _table(first, second)
    for field in differing:
        table.add_row(field, readable(one[field]), readable(other[field]))
    table.add_section()
    table.add_row("fingerprint", first.fingerprint, second.fingerprint)
    return table


def _table(*protocols: Protocol) -> Table:
    table = Table()
    table.add_column("field", no_wrap=True)
    for protocol in protocols:
        table.add_column(Text(protocol.name), overflow="fold")
    return table


def readable(value: Any) -> Text:
    """A value as in YAML; lists of texts have one item per line."""
    if value is None:
        return Text("null")
    if isinstance(value, tuple):
        texts = all(isinstance(part, str) for part in value)
        return Text("\n".join(map(str, value)) if texts else str(list(value)))
    return Text(str(value))
