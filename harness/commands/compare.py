"""``ovseg compare``: differences between two runs, with bootstrap intervals."""

import csv
import io
from pathlib import Path

from rich.table import Table

from harness.commands.arguments import Parser
from harness.commands.console import console
from harness.results.comparison import Difference, Run, compare, incompatibilities
from harness.system import atomic
from harness.system.errors import ConfigurationError, RunError

SUMMARY = "compare two runs: difference in mIoU and per class, with paired bootstrap intervals over images"
KEYS = ("name", "first", "second", "change", "low", "high")


def parser() -> Parser:
    """The command's arguments."""
    built = Parser(prog="ovseg compare", description=SUMMARY)
    built.add_argument("first", type=Path, metavar="RUN_A", help="a run directory")
    built.add_argument("second", type=Path, metavar="RUN_B", help="another run directory")
    built.add_argument("--anyway", action="store_true", help="compare even if protocol or data differ")
    built.add_argument("--samples", type=int, default=2000, help="number of bootstrap resamples")
    built.add_argument("--level", type=float, default=0.95, help="confidence level of the intervals")
    built.add_argument("--seed", type=int, default=0, help="seed of the resampling")
    built.add_argument("--out", type=Path | None, default=None, help="write the table: FILE.csv or FILE.json")
    return built


def run(arguments: list[str]) -> None:
    """Print the table and, when asked to, write it.

    Raises:
        OvsegError: The runs cannot be compared; the message names the fields that differ.
    """
    parsed = parser().parse_args(arguments)
    if parsed.samples < 1 or not 0 < parsed.level < 1:
        raise ConfigurationError("--samples must be at least 1, and --level lie between 0 and 1")
    if parsed.out is not None and parsed.out.suffix not in (".csv", ".json"):
        raise ConfigurationError(f"--out must end in .csv or .json, not '{parsed.out.name}'")
    runs = Run.read(parsed.first), Run.read(parsed.second)
    if (differing := incompatibilities(*runs)) and not parsed.anyway:
        raise RunError(f"these runs cannot be compared: {'; '.join(differing)} (--anyway compares them nevertheless)")
    found = compare(*runs, parsed.samples, parsed.level, parsed.seed)
    for line in differing:
        print(f"differs: {line}")
    console().print(_table(found, parsed.level))
    if parsed.out is not None:
        rows = [{key: getattr(each, key) for key in KEYS} for each in found]
        if parsed.out.suffix == ".json":
            about = {"first": str(parsed.first), "second": str(parsed.second), "level": parsed.level}
            atomic.write_json(parsed.out, {**about, "samples": parsed.samples, "differing": differing, "scores": rows})
        else:
            text = io.StringIO()
            writer = csv.DictWriter(text, KEYS, lineterminator="\n")
            writer.writeheader()
            writer.writerows(rows)
            atomic.write_text(parsed.out, text.getvalue())


def _table(found: list[Difference], level: float) -> Table:
    table = Table(title="second run minus first, in points")
    for position, title in enumerate(("", "first", "second", "Δ", f"{100 * level:g} % interval")):
        table.add_column(title, justify="left" if position == 0 else "right")
    for each in found:
        interval = "-" if each.low is None else f"[{each.low:+.1f}, {each.high:+.1f}]"
        sure = each.low is not None and each.high is not None and not each.low <= 0 <= each.high
        cells = (each.name, _number(each.first), _number(each.second), _number(each.change, "+.1f"), interval)
        table.add_row(*cells, style="bold" if sure else None, end_section=each is found[0])
    return table


def _number(value: float | None, form: str = ".1f") -> str:
    return "-" if value is None else format(value, form)
