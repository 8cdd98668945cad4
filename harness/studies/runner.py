"""Evaluating the cells of a study, those that can share a pass over the data in one pass."""

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from jsonargparse import Namespace

from harness.engine.evaluation import Evaluation
from harness.results.run_directory import RESULTS, differences
from harness.studies.study import METRICS, Cell, CellResult, Sampling, Study, mean_over_seeds
from harness.studies.suggestions import Suggestion, suggest
from harness.studies.sweeps import identity, with_points
from harness.studies.tables import write_study
from harness.system import atomic, distributed
from harness.system.errors import OvsegError, RunError

SCHEMA = 2
SUGGESTIONS = "suggestions.json"


class Evaluator(Protocol):
    """What a runner needs of ``ovseg evaluate``."""

    def parse(self, cell: Cell) -> Namespace:
        """The settings of a cell, with its run directory.

        Raises:
            ConfigurationError: They are wrong; the message names the cell.
        """

    def groups(self, parsed: Sequence[Namespace]) -> list[list[int]]:
        """Which parsed cells can share a pass, by their places."""

    def evaluate(self, parsed: Sequence[Namespace]) -> list[Evaluation]:
        """Evaluate the cells of one group; those that are finished are only read.

        Raises:
            OvsegError: One of them cannot be evaluated.
        """


class Evaluated(NamedTuple):
    """What became of a cell.

    Attributes:
        place: Its place among the cells.
        evaluation: Its evaluation; None when it failed.
        error: Why it failed, in one sentence; None when it did not.
        joint: Its pass was shared, so that its seconds are a share of the pass's.
    """

    place: int
    evaluation: Evaluation | None
    error: str | None = None
    joint: bool = False


class Runner:
    """Evaluates cells in one folder, each in a run directory of its own.

    Args:
        evaluator: Parses and evaluates.
        folder: Of all runs and of the table.
    """

    def __init__(self, evaluator: Evaluator, folder: Path) -> None:
        self.folder = folder
        self._evaluator = evaluator

    def study(self, study: Study) -> tuple[Study, list[CellResult]]:
        """Evaluate all cells; rank 0 writes the table after each.

        Returns:
            The study, with all points that were tried where they were not known in advance, and the cells' results.

        Raises:
            ConfigurationError: The settings of a cell that is known in advance are wrong; nothing has run then.
            RunError: The folder belongs to another sweep.
        """
        cells = study.cells()
        runs = [run for cell in cells for run in cell.per_seed()]
        parsed = [self._evaluator.parse(run) for run in runs]
        if study.sampling is not None and study.sampling.method == "bayes":
            return self._search(study, study.sampling)
        found: dict[str, CellResult] = {}
        results: list[CellResult] = []
        for done in self.evaluate(parsed, [run.name for run in runs]):
            run = runs[done.place]
            found[run.name] = result_of(run, done)
            results = results_of(cells, found)
            if distributed.rank() == 0:
                write_study(self.folder, study, results)
        return study, results

    def evaluate(
        self,
        parsed: Sequence[Namespace],
        names: Sequence[str],
        first: int = 0,
        total: int | None = None,
        keep_going: bool = False,
    ) -> Iterator[Evaluated]:
        """Evaluate parsed cells, those that can share a pass over the data in one pass.

        Args:
            parsed: What the evaluator parsed.
            names: What to call them.
            first: How many cells of the study came before these.
            total: How many cells there may be in all (default: these).
            keep_going: Report a cell that fails and evaluate the others. When a shared pass fails, its cells are
                evaluated one by one, so that only those fail that lack something.

        Yields:
            What became of each cell.

        Raises:
            OvsegError: A cell failed, unless ``keep_going``.
        """
        total = total or first + len(parsed)
        for group in self._evaluator.groups(parsed):
            joint = _announce(parsed, names, group, first, total) > 1
            try:
                evaluations = self._evaluator.evaluate([parsed[place] for place in group])
            except OvsegError as error:
                if not keep_going:
                    raise
                if len(group) == 1:
                    yield Evaluated(group[0], None, str(error))
                else:
                    yield from (self._evaluate_alone(parsed[place], place) for place in group)
                continue
            for place, evaluation in zip(group, evaluations, strict=True):
                yield Evaluated(place, evaluation, joint=joint)

    def _evaluate_alone(self, parsed: Namespace, place: int) -> Evaluated:
        try:
            return Evaluated(place, self._evaluator.evaluate([parsed])[0])
        except OvsegError as error:
            return Evaluated(place, None, str(error))

    def _search(self, study: Study, sampling: Sampling) -> tuple[Study, list[CellResult]]:
        """Evaluate points of which each depends on the scores of the earlier ones.

        Rank 0 suggests, and keeps every suggestion before it is tried, so that a restart repeats none of it.
        """
        kept = self._kept(study)
        tried: list[Suggestion] = []
        results: list[CellResult] = []
        while len(tried) < sampling.count:
            scores = [result.score(study.metric) for result in results]
            suggestion = self._next(study, sampling, kept, list(zip(tried, scores, strict=True)))
            if suggestion is None:
                break
            tried.append(suggestion)
            study = with_points(study, tried)
            cell = study.cells()[-1]
            parsed = self._evaluator.parse(cell)
            (done,) = self.evaluate([parsed], [cell.name], len(results), study.num_cells)
            results.append(result_of(cell, done))
            if distributed.rank() == 0:
                write_study(self.folder, study, results)
        return study, results

    def _next(
        self, study: Study, sampling: Sampling, kept: list[Suggestion], tried: list[tuple[Suggestion, float | None]]
    ) -> Suggestion | None:
        """The next point, the same on every rank."""
        number, suggestion = len(tried), None
        # Before the first evaluation there is no process group; the first points depend on nothing but the file.
        if distributed.rank() == 0:
            suggestion = kept[number] if number < len(kept) else suggest(study.space, sampling.seed, study.goal, tried)
            if suggestion is not None and number >= len(kept) and distributed.is_main_process():
                kept.append(suggestion)
                self._keep(study, kept)
        agreed = distributed.broadcast(None if suggestion is None else suggestion.sampled)
        return None if agreed is None else study.space.suggestion(agreed)

    def _kept(self, study: Study) -> list[Suggestion]:
        """The suggestions of an earlier start of the same sweep.

        Raises:
            RunError: The folder's are of another sweep, or corrupt.
        """
        file = self.folder / SUGGESTIONS
        if not file.exists():
            return []
        try:
            content = json.loads(file.read_text(encoding="utf-8"))
            if changed := differences(content["sweep"], identity(study)):
                raise RunError(f"{self.folder} belongs to another sweep: {'; '.join(changed)}; give another --run_dir")
            return [study.space.suggestion(sampled) for sampled in content["sampled"]]
        except (OSError, ValueError, KeyError, TypeError, AttributeError, IndexError) as error:
            raise RunError(f"{file} is damaged ({error}); give another --run_dir") from error

    def _keep(self, study: Study, kept: Sequence[Suggestion]) -> None:
        content = {"schema": SCHEMA, "sweep": identity(study), "sampled": [dict(each.sampled) for each in kept]}
        atomic.write_json(self.folder / SUGGESTIONS, content)


def results_of(cells: Sequence[Cell], found: Mapping[str, CellResult]) -> list[CellResult]:
    """The results of the cells of which all runs are done.

    Args:
        cells: In their order.
        found: The results of runs, by name.
    """
    whole = [(cell, cell.per_seed()) for cell in cells]
    return [
        mean_over_seeds(cell, [found[run.name] for run in runs])
        for cell, runs in whole
        if all(run.name in found for run in runs)
    ]


def result_of(cell: Cell, done: Evaluated, **others: Any) -> CellResult:
    """The result of a cell that was evaluated or failed; ``others`` are further attributes of it."""
    if done.evaluation is None:
        return CellResult(cell, why=done.error, **others)
    evaluation, results = done.evaluation, done.evaluation.results or {}
    scores: dict[str, Any] = {metric: results.get(metric) for metric in METRICS}
    return CellResult(
        cell,
        run=evaluation.directory.path.name,
        **scores,
        images=results.get("num_images", 0),
        whole=not results.get("skipped") and len(evaluation.data.ids) == len(evaluation.data.all_ids()),
        seconds=results.get("seconds", 0.0),
        joint=done.joint,
        **others,
    )


def _announce(parsed: Sequence[Namespace], names: Sequence[str], group: Sequence[int], first: int, total: int) -> int:
    """Print the cells of a pass; how many of them are not finished."""
    finished = [_finished(parsed[place].run_dir) for place in group]
    if distributed.is_main_process():
        for place, known in zip(group, finished, strict=True):
            print(f"{first + place + 1} of {total}: {names[place]}" + " (finished)" * known, flush=True)
        if finished.count(False) > 1:
            print(f"these {finished.count(False)} in one pass over the data", flush=True)
    return finished.count(False)


def _finished(directory: Path) -> bool:
    """Whether an earlier start finished the run, so that it is only read."""
    try:
        return bool(json.loads((directory / RESULTS).read_text(encoding="utf-8"))["status"] == "complete")
    except (OSError, ValueError, KeyError, TypeError):
        return False
