"""The curves of a sweep."""

import io
import math
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, MaxNLocator, NullLocator

from harness.studies.study import CellResult, Study
from harness.studies.suggestions import Parameter
from harness.studies.tables import short
from harness.system import atomic

# So many lines have room for their legend inside.
INSIDE = 4
# Left free at either end of an axis, as a share of what lies between.
MARGIN = 0.05


def curve_parameter(study: Study) -> Parameter:
    """What a grid's horizontal axis is: the first parameter of numbers, else the one with the most values."""
    swept = [each for each in study.space.parameters if each.name in study.parameters]
    numeric = [each for each in swept if each.numeric]
    return numeric[0] if numeric else max(swept, key=lambda each: len(each.choices or ()))


def drawable(study: Study) -> bool:
    """Whether there is an image of the study: it is a sweep."""
    return bool(study.parameters)


def draw(file: Path, study: Study, results: Sequence[CellResult]) -> None:
    """Write a PNG of a sweep's scores; points without one are left out.

    A grid: the score over one parameter, a line per combination of the others. Suggested points: the score over each
    parameter, a dot per point, and the best so far over the points in their order. Parameters that are no numbers have
    their values side by side, in the order of the file, and no line joins them.

    Args:
        file: Where to.
        study: A sweep, see ``drawable``.
        results: What it found, in the order in which it was tried.
    """
    content = io.BytesIO()
    plotted(study, results).savefig(content, dpi=150, format="png")
    atomic.write_bytes(file, content.getvalue())


def plotted(study: Study, results: Sequence[CellResult]) -> Figure:
    """The figure that ``draw`` writes."""
    return _scattered(study, results) if study.sampling else _lines(study, results)


def _literal(text: str) -> str:
    """A user's text, in which a dollar is no formula."""
    return text.replace("$", r"\$")


def _figure(columns: int, rows: int, size: tuple[float, float], title: str) -> tuple[Figure, np.ndarray]:
    figure = Figure(figsize=size, layout="constrained")
    FigureCanvasAgg(figure)
    figure.suptitle(_literal(title), fontsize=10, wrap=True)
    grid = figure.subplots(rows, columns, squeeze=False, sharey=True)
    for axes in grid.flat:
        axes.grid(alpha=0.3)
        axes.set_axisbelow(True)
    return figure, grid


def _lines(study: Study, results: Sequence[CellResult]) -> Figure:
    along = curve_parameter(study)
    others = [each for each in study.space.parameters if each.name in study.parameters and each is not along]
    texts = {each.name: labels(_tried(study, each)) for each in others}
    lines: dict[str, list[tuple[float, float]]] = {}
    for result in results:
        flags = result.cell.overrides
        label = ", ".join(f"{short(each.name)} = {texts[each.name][str(flags[each.name])]}" for each in others)
        if (score := result.score(study.metric)) is not None:
            lines.setdefault(label, []).append((_place(along, flags[along.name]), score))
    outside = len(lines) > INSIDE
    figure, [[axes]] = _figure(1, 1, (7.6 if outside else 5.4, 3.6), study.title)
    for number, (label, points) in enumerate(lines.items()):
        horizontal, vertical = zip(*sorted(points), strict=True)
        # The colours of a cycle repeat after ten.
        style = ("-", "--", ":", "-.")[number // 10 % 4] if along.numeric else "none"
        axes.plot(horizontal, vertical, marker="o", markersize=4, linestyle=style, label=label)
    _scale(axes, along, inches=4.6)
    axes.set_ylabel(study.metric_title)
    if others and lines:
        beside: dict[str, Any] = {"loc": "center left", "bbox_to_anchor": (1.01, 0.5)} if outside else {}
        axes.legend(fontsize=8 if len(lines) <= 16 else 6, **beside)
    return figure


def _tried(study: Study, parameter: Parameter) -> list[Any]:
    """The values of a parameter that stand in a study's rows, in their order."""
    values = [row.overrides[parameter.name] for row in study.rows]
    return [value for number, value in enumerate(values) if value not in values[:number]]


def _scattered(study: Study, results: Sequence[CellResult]) -> Figure:
    scored = [(number, each) for number, each in enumerate(results, 1) if each.score(study.metric) is not None]
    swept = [each for each in study.space.parameters if each.name in study.parameters]
    columns = 2 if len(swept) in (1, 3) else 3
    rows = -(-(len(swept) + 1) // columns)
    figure, grid = _figure(columns, rows, (3.6 * columns, 2.9 * rows), study.title)
    panels = list(grid.flat)
    order = [number for number, _ in scored]
    scores = [each.score(study.metric) or 0.0 for _, each in scored]
    for axes, each in zip(panels, swept, strict=False):
        places = [_place(each, result.cell.overrides[each.name]) for _, result in scored]
        axes.scatter(places, scores, c=order, cmap="viridis", s=16)
        _scale(axes, each, inches=2.8)
    top = np.maximum.accumulate if study.goal == "maximize" else np.minimum.accumulate
    last = panels[len(swept)]
    last.scatter(order, scores, c=order, cmap="viridis", s=16)
    if scores:
        last.step(order, top(scores), where="post", color="black", label="best so far")
        last.legend(fontsize=8)
    last.xaxis.set_major_locator(MaxNLocator(integer=True))
    last.set_xlabel("point (same colour in all panels)")
    for axes in panels[len(swept) + 1 :]:
        axes.set_visible(False)
    for row in grid:
        row[0].set_ylabel(study.metric_title)
    return figure


def _place(along: Parameter, value: Any) -> float:
    """Where a value stands on its parameter's axis: a number at itself, all else at its place in the file."""
    return float(value) if along.numeric else float(list(along.choices or ()).index(value))


def _scale(axes: Axes, along: Parameter, inches: float) -> None:
    """The scale, the ticks and the label of a parameter's axis, which follow from the file, whatever was tried.

    Args:
        axes: Whose horizontal axis it is.
        along: The parameter.
        inches: The axis's length, about.
    """
    axes.set_xlabel(short(along.name))
    if not along.numeric:
        known = labels(along.choices or ())
        texts = [known[str(value)] for value in along.choices or ()]
        long = sum(_room(text) for text in texts) > inches
        axes.set_xticks(range(len(texts)), texts, rotation=30 if long else 0, ha="right" if long else "center")
        axes.set_xlim(-0.5, len(texts) - 0.5)
        return
    if along.by_ratio:
        axes.set_xscale("log")
        axes.xaxis.set_minor_locator(NullLocator())
    bounds = along.bounds
    if bounds is not None and bounds[0] < bounds[1]:
        low, high = np.log(bounds) if along.by_ratio else bounds
        ends = np.array([low - MARGIN * (high - low), high + MARGIN * (high - low)])
        axes.set_xlim(*(np.exp(ends) if along.by_ratio else ends))
        if (values := _values(along)) is not None:
            axes.xaxis.set_major_locator(FixedLocator(_apart(values, along.by_ratio, inches)))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))


def _values(along: Parameter) -> list[float] | None:
    """What may stand below the axis of a bounded parameter, ascending: its choices, or round numbers; None for any."""
    if along.choices is not None and not isinstance(along.choices, range):
        return sorted({float(value) for value in along.choices})
    if not along.by_ratio or along.bounds is None:
        return None
    low, high = along.bounds
    decades = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    return [value for decade in decades for first in (1, 2, 5) if low <= (value := first * 10.0**decade) <= high]


def _apart(values: Sequence[float], by_ratio: bool, inches: float) -> list[float]:
    """Those of ascending values whose labels do not touch; the last one always."""
    places = np.log(values) if by_ratio else np.asarray(values)
    scale = inches / (1 + 2 * MARGIN) / (float(places[-1] - places[0]) or 1.0)
    shown = [len(values) - 1]
    for place in reversed(range(len(values) - 1)):
        room = (_room(f"{values[place]:g}") + _room(f"{values[shown[-1]]:g}")) / 2
        if (places[shown[-1]] - places[place]) * scale >= room:
            shown.append(place)
    return [values[place] for place in reversed(shown)]


def _room(text: str) -> float:
    """Inches that a label needs below an axis, with the space to the next one."""
    return 0.085 * len(text) + 0.08


def labels(values: Sequence[Any]) -> dict[str, str]:
    """Short and distinct texts of a parameter's values, by their full texts.

    The last part of an import path or of a file; values that would be cut, or alike, get their number in the file.
    """
    texts = {}
    for number, value in enumerate(values, 1):
        text = str(value)
        brief = text.removesuffix(".yaml").rsplit("/", 1)[-1].rsplit(".", 1)[-1] if _path(text) else text
        texts[text] = _literal(brief) if len(brief) <= 18 else f"no. {number}"
    if len(set(texts.values())) < len(texts):
        return {text: f"no. {number}" for number, text in enumerate(texts, 1)}
    return texts


def _path(text: str) -> bool:
    return re.fullmatch(r"[\w./-]*[A-Za-z_][\w./-]*", text) is not None
