"""The curves of a sweep."""

import io
import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, NullLocator, ScalarFormatter

from harness import atomic
from harness.study import Outcome, Study, short


def curve_parameter(study: Study) -> str | None:
    """The parameter along the horizontal axis: the first one whose values are all numbers; None without one."""
    for name, values in study.parameters.items():
        if all(isinstance(value, (int, float)) and not isinstance(value, bool) for value in values):
            return name
    return None


def drawable(study: Study) -> bool:
    """Whether there is a picture of the study: it is a sweep, and a grid has a numeric parameter."""
    return bool(study.parameters) if study.sampled else curve_parameter(study) is not None


def draw(file: Path, study: Study, outcomes: Sequence[Outcome]) -> None:
    """Write a PNG of a sweep's scores; points without one are left out.

    A grid: the score over one parameter, a line per combination of the others. Suggested points: the score over each
    parameter, a dot per point, and the best so far over the points in their order.

    Args:
        file: Where to.
        study: A sweep, see ``drawable``.
        outcomes: What it found, in the order in which it was tried.

    Raises:
        ValueError: A grid of which no parameter is numeric.
    """
    figure = _scattered(study, outcomes) if study.sampled else _lines(study, outcomes)
    content = io.BytesIO()
    figure.savefig(content, dpi=150, format="png")
    atomic.write_bytes(file, content.getvalue())


def _figure(columns: int, rows: int = 1) -> tuple[Figure, np.ndarray]:
    size = (5.4, 3.6) if columns * rows == 1 else (3.6 * columns, 2.9 * rows)
    figure = Figure(figsize=size, layout="constrained")
    FigureCanvasAgg(figure)
    return figure, figure.subplots(rows, columns, squeeze=False)


def _lines(study: Study, outcomes: Sequence[Outcome]) -> Figure:
    along = curve_parameter(study)
    if along is None:
        raise ValueError("a grid without a numeric parameter has no curve")
    others = [name for name in study.parameters if name != along]
    lines: dict[str, list[tuple[float, float]]] = {}
    for outcome in outcomes:
        flags = outcome.row.flags
        label = ", ".join(f"{short(name)} = {flags[name]}" for name in others)
        if outcome.score is not None:
            lines.setdefault(label, []).append((float(flags[along]), outcome.score))
    figure, [[axes]] = _figure(1)
    for label, points in lines.items():
        horizontal, vertical = zip(*sorted(points), strict=True)
        axes.plot(horizontal, vertical, marker="o", markersize=4, label=label)
    values = sorted({float(value) for value in study.parameters[along]})
    if _wide(values):
        axes.set_xscale("log", base=2)
    axes.xaxis.set_major_locator(FixedLocator(values))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(ScalarFormatter())
    axes.set_xlabel(short(along))
    axes.set_ylabel(_title(study))
    axes.set_title(study.title, fontsize=10)
    axes.grid(alpha=0.3)
    if others:
        axes.legend(fontsize=8 if len(lines) < 10 else 5)
    return figure


def _scattered(study: Study, outcomes: Sequence[Outcome]) -> Figure:
    scored = [(number, each) for number, each in enumerate(outcomes, 1) if each.score is not None]
    columns = min(3, len(study.parameters) + 1)
    figure, grid = _figure(columns, -(-(len(study.parameters) + 1) // columns))
    figure.suptitle(study.title, fontsize=10)
    panels = list(grid.flat)
    order = [number for number, _ in scored]
    scores = [each.score or 0.0 for _, each in scored]
    for axes, name in zip(panels, study.parameters, strict=False):
        values = [each.row.flags[name] for _, each in scored]
        if all(isinstance(value, (int, float)) and not isinstance(value, bool) for value in values):
            axes.scatter(values, scores, c=order, cmap="viridis", s=16)
            if _wide(values):
                axes.set_xscale("log")
        else:
            # Matplotlib sorts nothing: categories stand in the order in which they were first tried.
            axes.scatter([_brief(value) for value in values], scores, c=order, cmap="viridis", s=16)
            axes.tick_params(axis="x", labelsize=7)
        axes.set_xlabel(short(name))
    top = np.maximum.accumulate if study.goal == "maximize" else np.minimum.accumulate
    last = panels[len(study.parameters)]
    last.scatter(order, scores, c=order, cmap="viridis", s=16)
    if scores:
        last.step(order, top(scores), where="post", color="black", label="best so far")
        last.legend(fontsize=8)
    last.set_xlabel("point")
    for axes in panels[: len(study.parameters) + 1]:
        axes.set_ylabel(_title(study))
        axes.grid(alpha=0.3)
    for axes in panels[len(study.parameters) + 1 :]:
        axes.set_visible(False)
    return figure


def _brief(value: object) -> str:
    """The last part of an import path or of a file, cut where it would not fit below a dot."""
    text = str(value)
    text = text.rsplit("/", 1)[-1].rsplit(".", 1)[-1] if re.fullmatch(r"[\w./]+", text) else text
    return text if len(text) <= 18 else text[:17] + "…"


def _wide(values: Sequence[float]) -> bool:
    """Whether values that spread over a factor of eight or more are seen better on a logarithmic axis."""
    return bool(values) and min(values) > 0 and max(values) >= 8 * min(values)


def _title(study: Study) -> str:
    return "mIoU" if study.metric == "miou" else study.metric.replace("_", " ")
