"""The files of a table: ``table.json`` for programs, ``table.csv`` for spreadsheets, ``table.md`` for people."""

import csv
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from harness.system import atomic


def write_table(
    folder: Path,
    summary: Mapping[str, Any],
    titles: Sequence[str],
    lines: Sequence[Sequence[str]],
    num_text_columns: int = 1,
) -> None:
    """Write the three files, each atomically.

    Args:
        folder: Where to put them.
        summary: What ``table.json`` holds.
        titles: Of the columns.
        lines: The table's body, as text.
        num_text_columns: How many of the first columns are text; the others are numbers, aligned to the right.
    """
    atomic.write_json(folder / "table.json", dict(summary))
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows([titles, *lines])
    atomic.write_text(folder / "table.csv", text.getvalue())
    rule = ["---"] * num_text_columns + ["---:"] * (len(titles) - num_text_columns)
    escaped = ["| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in (titles, rule, *lines)]
    atomic.write_text(folder / "table.md", "\n".join([*escaped, ""]))
