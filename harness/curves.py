"""The curves of a sweep."""

import io
from collections.abc import Sequence
from pathlib import Path

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


def draw(file: Path, study: Study, outcomes: Sequence[Outcome]) -> None:
    """Write a PNG: mIoU over one parameter, a line per combination of the others.

    Args:
        file: Where to.
        study: A sweep with a numeric parameter, see ``curve_parameter``.
        outcomes: What it found; points without a score are left out.

    Raises:
        ValueError: No parameter is numeric.
    """
    along = curve_parameter(study)
    if along is None:
        raise ValueError("a sweep without a numeric parameter has no curve")
    others = [name for name in study.parameters if name != along]
    lines: dict[str, list[tuple[float, float]]] = {}
    for outcome in outcomes:
        flags = outcome.row.flags
        label = ", ".join(f"{short(name)} = {flags[name]}" for name in others)
        if outcome.miou is not None:
            lines.setdefault(label, []).append((float(flags[along]), outcome.miou))
    figure = Figure(figsize=(5.4, 3.6), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    for label, points in lines.items():
        horizontal, vertical = zip(*sorted(points), strict=True)
        axes.plot(horizontal, vertical, marker="o", markersize=4, label=label)
    values = sorted({float(value) for value in study.parameters[along]})
    if values[0] > 0 and values[-1] >= 8 * values[0]:
        axes.set_xscale("log", base=2)
    axes.xaxis.set_major_locator(FixedLocator(values))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(ScalarFormatter())
    axes.set_xlabel(short(along))
    axes.set_ylabel("mIoU")
    axes.set_title(study.title, fontsize=10)
    axes.grid(alpha=0.3)
    if others:
        axes.legend(fontsize=8)
    content = io.BytesIO()
    figure.savefig(content, dpi=150, format="png")
    atomic.write_bytes(file, content.getvalue())
