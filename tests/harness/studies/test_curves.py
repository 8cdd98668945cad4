"""Curves: what they show can be read, whatever a sweep's file says and whatever points were drawn."""

import itertools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from harness.studies.curves import curve_parameter, labels, plotted
from harness.studies.study import CellResult, Sampling, Study, Variant
from harness.studies.suggestions import Space, parameter, random_points
from harness.studies.sweeps import read_sweep, with_points
from tests.running import REPOSITORY

FILES = sorted((REPOSITORY / "configs" / "sweeps").glob("*.yaml"))
TITLE = "costs $5, not $6"


def grid(parameters: dict[str, Any]) -> Study:
    space = Space(tuple(parameter(name, entry) for name, entry in parameters.items()))
    rows = tuple(Variant(str(flags), flags) for flags in space.grid())
    return Study(TITLE, (), rows, space=space)


def searched(space: Space, count: int) -> Study:
    study = Study(TITLE, (), (), space=space, sampling=Sampling("bayes", count, 0))
    return with_points(study, list(itertools.islice(random_points(space, 0), count)))


def figure(study: Study) -> Figure:
    """As it is written, with a score for every point."""
    outcomes = [CellResult(study.cell(row), miou=50.0 + number) for number, row in enumerate(study.rows)]
    made = plotted(study, outcomes)
    made.canvas.draw()
    return made


def panels(made: Figure) -> list[Axes]:
    return [axes for axes in made.axes if axes.get_visible()]


def ticks(axes: Axes) -> list[str]:
    low, high = axes.get_xlim()
    return [each.get_text() for each in axes.get_xticklabels() if low <= each.get_position()[0] <= high]


def check_readable(made: Figure) -> None:
    """No label of an axis touches its neighbour, and none is cut off by the edge."""
    width = made.bbox.width
    for axes in panels(made):
        low, high = axes.get_xlim()
        shown = [each for each in axes.get_xticklabels() if low <= each.get_position()[0] <= high]
        assert shown
        boxes = [each.get_window_extent() for each in shown]
        assert all(box.x0 >= 0 and box.x1 <= width for box in boxes)
        if shown[0].get_rotation() == 0:
            assert all(one.x1 < other.x0 for one, other in itertools.pairwise(boxes)), ticks(axes)


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_every_sweep_of_the_repository_can_be_read(file: Path) -> None:
    work = read_sweep(file)
    check_readable(figure(work if isinstance(work, Study) else searched(work.space, 5)))


def test_the_scale_is_the_files_and_not_that_of_the_points() -> None:
    entries = {
        "n": {"distribution": "q_log_uniform_values", "min": 1, "max": 150, "q": 1},
        "k": {"values": [1, 2, 5, 10, 20, 40]},
        "gamma": {"min": 0.0, "max": 1.0},
        "refiner": {"values": ["null", "methods.refinement.PAMR"]},
    }
    made = figure(searched(Space(tuple(parameter(name, entry) for name, entry in entries.items())), 3))
    check_readable(made)
    n, k, gamma, refiner, order = panels(made)
    assert [axes.get_xscale() for axes in (n, k, gamma, order)] == ["log", "log", "linear", "linear"]
    assert ticks(k) == ["1", "2", "5", "10", "20", "40"]
    assert ticks(refiner) == ["null", "PAMR"]
    for axes, ends in ((n, (1, 150)), (k, (1, 40)), (gamma, (0, 1))):
        low, high = axes.get_xlim()
        assert low < ends[0] < ends[1] < high
        assert ends[0] - low < 0.1 * (high - low)


def places(axes: Axes) -> list[Sequence[float]]:
    return [list(line.get_xdata()) for line in axes.lines]  # type: ignore[arg-type]


def test_a_grid_without_numbers_has_its_values_side_by_side() -> None:
    made = figure(grid({"clip": {"values": ["null", "a/b.yaml"]}, "filter": {"values": ["null", 0.5, 0.9]}}))
    (axes,) = panels(made)
    assert axes.get_xlabel() == "filter"
    assert ticks(axes) == ["null", "0.5", "0.9"]
    assert places(axes) == [[0, 1, 2], [0, 1, 2]]
    assert {line.get_linestyle() for line in axes.lines} == {"None"}
    legend = axes.get_legend()
    assert legend is not None
    assert [text.get_text() for text in legend.get_texts()] == ["clip = null", "clip = b"]


def test_lists_are_values_too() -> None:
    study = grid({"scales": {"values": [[96], [96, 48]]}})
    (axes,) = panels(figure(study))
    assert curve_parameter(study).name == "scales"
    assert ticks(axes) == ["[96]", "[96, 48]"]
    assert np.concatenate([line.get_ydata() for line in axes.lines]).tolist() == [50.0, 51.0]


def test_numbers_come_first_and_are_joined() -> None:
    made = figure(grid({"refiner": {"values": ["null", "x.PAMR"]}, "k": {"values": [3, 1, 2]}}))
    (axes,) = panels(made)
    assert axes.get_xlabel() == "k"
    assert places(axes) == [[1, 2, 3], [1, 2, 3]]
    assert {line.get_linestyle() for line in axes.lines} == {"-"}


@pytest.mark.parametrize("values", [list(range(41)), [0, 0.001, 0.002, 100], [0.123456, 0.123457, 0.9], [7]])
def test_labels_give_way_to_each_other(values: list[float]) -> None:
    made = figure(grid({"x": {"values": values}}))
    check_readable(made)
    assert ticks(panels(made)[0])[-1] == f"{values[-1]:g}" or len(values) == 1


def test_many_lines_have_their_legend_outside() -> None:
    made = figure(grid({name: {"values": [1, 2, 3]} for name in ("n", "k", "gamma")}))
    (axes,) = panels(made)
    assert len(axes.lines) == 9
    legend = axes.get_legend()
    assert legend is not None
    assert legend.get_window_extent().x0 > axes.get_window_extent().x1


@pytest.mark.parametrize(
    ("values", "texts"),
    [
        (["null", "methods.refinement.PAMR", "configs/models/clip.yaml"], ["null", "PAMR", "clip"]),
        ([0.75, 1e-05, -3.5, [96, 48]], ["0.75", "1e-05", "-3.5", "[96, 48]"]),
        (["a.PAMR", "b.PAMR"], ["no. 1", "no. 2"]),
        (["x" * 30, "y"], ["no. 1", "y"]),
        (["$a$"], [r"\$a\$"]),
    ],
)
def test_labels_are_short_and_distinct(values: list[Any], texts: list[str]) -> None:
    assert list(labels(values).values()) == texts


def test_a_title_is_no_formula() -> None:
    made = figure(grid({"k": {"values": [1, 2]}}))
    title = made.get_suptitle()
    assert title.replace("\\", "") == TITLE
    assert title.count(r"\$") == 2
