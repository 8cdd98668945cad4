"""The tables of studies as text, and the files ``table.json``, ``table.csv`` and ``table.md``."""

import csv
import io
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from harness.studies.study import Cell, CellResult, Study
from harness.system import atomic
from harness.system.errors import ConfigurationError

SCHEMA = 1
TITLES = {"miou": "mIoU", "per_image_miou": "per-image mean IoU"}
COMPARISON = ("row", "benchmark", "score", "published", "measured", "Δ", "within", "mIoU", "per-image", "images")


def header(study: Study) -> list[str]:
    """The titles of a study's table."""
    titles = [short(name) for name in study.parameters] or [""]
    for column in study.columns:
        titles += [column.name] if study.parameters else [column.name, "Δ"]
    if study.metric != "miou":
        titles.append(study.metric_title)
    return [*titles, study.published_as] if _published(study) else titles


def body(study: Study, results: Sequence[CellResult]) -> list[list[str]]:
    """A study's table as text, one line per row that has an result; Δ is the rounded scores' distance to row one."""
    found = {(result.cell.row.name, result.cell.column.name): result.miou for result in results}
    spread = {(result.cell.row.name, result.cell.column.name): result.deviation("miou") for result in results}
    scores = {result.cell.row.name: result.score(study.metric) for result in results}
    lines = []
    for row in study.rows:
        if not any(name == row.name for name, _ in found):
            continue
        line = [str(row.overrides[name]) for name in study.parameters] or [row.name]
        for column in study.columns:
            miou = found.get((row.name, column.name))
            line.append(_number(miou) + _plus_minus(spread.get((row.name, column.name)), 1))
            if not study.parameters:
                base = found.get((study.rows[0].name, column.name))
                known = miou is not None and base is not None and row is not study.rows[0]
                line.append(f"{round(miou, 1) - round(base, 1):+.1f}" if known else "")  # type: ignore[arg-type]
        if study.metric != "miou":
            line.append(_number(scores.get(row.name)))
        if _published(study):
            line.append("" if row.published is None else _number(row.published))
        lines.append(line)
    return lines


def best(study: Study, results: Sequence[CellResult]) -> CellResult | None:
    """The result with the best score, the earliest of equal ones; None when none has a score."""
    scored = [result for result in results if result.score(study.metric) is not None]
    sign = 1 if study.goal == "maximize" else -1
    return max(scored, key=lambda result: sign * (result.score(study.metric) or 0.0), default=None)


def _published(study: Study) -> bool:
    return any(row.published is not None for row in study.rows)


def short(name: str) -> str:
    """The last part of a setting's name."""
    return name.rsplit(".", 1)[-1]


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.1f}"


def _plus_minus(deviation: float | None, digits: int) -> str:
    return "" if deviation is None else f" ± {deviation:.{digits}f}"


def write_study(folder: Path, study: Study, results: Sequence[CellResult]) -> None:
    """Write the table of a study, as far as it has come."""
    found = [
        {
            "row": result.cell.row.name,
            "column": result.cell.column.name,
            "flags": dict(result.cell.overrides),
            "miou": result.miou,
            **({"score": result.score(study.metric)} if study.metric != "miou" else {}),
            "published": result.cell.row.published,
            "run": result.run,
            **(_seeds(result) if result.per_seed else {}),
        }
        for result in results
    ]
    summary = {"title": study.title, "points": len(study.cells()), "arguments": list(study.arguments), "found": found}
    _write(folder, summary, header(study), body(study, results), num_text_columns=1)


def _seeds(result: CellResult) -> dict[str, Any]:
    """The spread of a cell's mIoU over seeds, and its runs."""
    runs = [{"seed": each.cell.seed, "miou": each.miou, "run": each.run} for each in result.per_seed]
    return {"deviation": result.deviation("miou"), "per_seed": runs}


def comparison(result: CellResult) -> list[str]:
    """A cell of a paper as a line of text, in the columns of ``COMPARISON``."""
    published, difference = result.cell.published, result.difference
    if published is None:
        raise ConfigurationError(f"nothing is published for {result.cell.name}")
    value = _hundredths(published.value) + (f" ± {published.deviation:g}" if published.deviation is not None else "")
    verdict = {True: "yes", False: "no", None: "" if result.whole else "part"}[result.within]
    return [
        result.cell.name,
        published.benchmark,
        TITLES[published.score],
        value,
        _measured(result, published.score) + _count(result),
        "" if difference is None else f"{difference:+.2f}",
        f"{verdict} (±{published.tolerance:g})" if verdict in ("yes", "no") else verdict,
        _measured(result, "miou"),
        _measured(result, "per_image_miou"),
        str(result.images or ""),
    ]


def _measured(result: CellResult, metric: str) -> str:
    return _hundredths(result.score(metric)) + _plus_minus(result.deviation(metric), 2)


def _count(result: CellResult) -> str:
    count = len(result.per_seed)
    return f" ({count} seed{'s' if count > 1 else ''})" if count else ""


def _hundredths(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}"


def write_comparison(folder: Path, paper: str, results: Sequence[CellResult]) -> None:
    """Write the cells of a paper, measured beside published."""
    summary = {"schema": SCHEMA, "paper": paper, "found": [result.to_json() for result in results]}
    _write(folder, summary, COMPARISON, [comparison(result) for result in results], num_text_columns=3)


def read_comparison(folder: Path, cells: Sequence[Cell]) -> dict[str, CellResult]:
    """What an earlier start left in ``table.json``, by the name of the cell; nothing if there is none.

    Args:
        folder: Of the table.
        cells: Those of the paper; entries of other names are left out.

    Raises:
        ConfigurationError: The file is corrupt.
    """
    file, by_name = folder / "table.json", {cell.name: cell for cell in cells}
    if not file.is_file():
        return {}
    try:
        entries = json.loads(file.read_text(encoding="utf-8"))["found"]
        return {
            entry["row"]: CellResult.from_json(by_name[entry["row"]], entry)
            for entry in entries
            if entry["row"] in by_name
        }
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ConfigurationError(f"{file} is no table of a reproduction ({error}); give another --run_dir") from error


def _write(
    folder: Path,
    summary: Mapping[str, Any],
    titles: Sequence[str],
    lines: Sequence[Sequence[str]],
    num_text_columns: int,
) -> None:
    """Write ``table.json``, ``table.csv`` and ``table.md``; numbers are aligned to the right in the last."""
    atomic.write_json(folder / "table.json", summary)
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows([titles, *lines])
    atomic.write_text(folder / "table.csv", text.getvalue())
    rule = ["---"] * num_text_columns + ["---:"] * (len(titles) - num_text_columns)
    escaped = ["| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in [titles, rule, *lines]]
    atomic.write_text(folder / "table.md", "\n".join([*escaped, ""]))
