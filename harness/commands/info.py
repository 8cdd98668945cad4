"""``ovseg info``: methods, data sets, installed versions, devices."""

import platform

import torch
from rich.table import Table

from harness.commands.arguments import Parser
from harness.commands.console import console
from harness.system.plugins import DATA, METHODS, find_plugins
from harness.system.provenance import commit, versions

SUMMARY = "list methods, data sets, installed versions and devices"


def devices() -> list[str]:
    """The devices of this machine, as texts."""
    found = [f"cpu: {platform.processor() or platform.machine()}, {torch.get_num_threads()} threads"]
    for index in range(torch.cuda.device_count()):
        properties = torch.cuda.get_device_properties(index)
        found.append(f"cuda:{index}: {properties.name}, {properties.total_memory / 2**30:.0f} GiB")
    if torch.backends.mps.is_available():
        found.append("mps")
    return found


def run(arguments: list[str]) -> None:
    """Print it."""
    Parser(prog="ovseg info", description=SUMMARY).parse_args(arguments)
    out = console()
    for title, group in (("methods", METHODS), ("data sets", DATA)):
        table = Table("name", "import path", "summary", title=title, title_justify="left")
        for name, point in find_plugins(group).items():
            try:
                summary = (point.load().__doc__ or "").strip().splitlines()[0]
            except Exception as error:  # an error in another package must not hide the rest
                summary = f"cannot be imported: {type(error).__name__}: {error}"
            table.add_row(name, point.value.replace(":", "."), summary)
        out.print(table)
    table = Table("package", "version", title="installed", title_justify="left")
    for name, version in versions().items():
        table.add_row(name, version)
    table.add_row("commit", commit() or "(not a git checkout)")
    out.print(table)
    out.print("devices: " + "; ".join(devices()))
