"""What ``ovseg table`` and ``ovseg sweep`` share: evaluate the points of a study, or of a search, one after another."""

import argparse
import json
import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NoReturn

from jsonargparse import Namespace
from rich.table import Table
from rich.text import Text

from harness.commands import evaluate
from harness.commands.arguments import resolve_names, vary
from harness.commands.console import console
from harness.commands.together import evaluate_together
from harness.engine.evaluation import Evaluation
from harness.results.run_directory import RESULTS, differences
from harness.studies.curves import draw, drawable
from harness.studies.study import MIOU, Outcome, Point, Search, Study, best, body, folder_of, header, write
from harness.studies.suggestions import Suggestion
from harness.system import atomic, distributed
from harness.system.errors import ConfigurationError, RunError

SCHEMA = 1
SUGGESTIONS = "suggestions.json"


class _Arguments(argparse.ArgumentParser):
    """Raises one sentence in the place of printing usage."""

    def error(self, message: str) -> NoReturn:
        raise ConfigurationError(f"{message} (see {self.prog} --help)")


def run_file(
    command: str,
    summary: str,
    read: Callable[[argparse.Namespace], Study | Search],
    arguments: list[str],
    options: Callable[[argparse.ArgumentParser], None] = lambda parser: None,
) -> None:
    """Parse, check all points known in advance, then evaluate; finished points are only read.

    Args:
        command: ``table`` or ``sweep``.
        summary: What the command does.
        read: Makes a study or a search of the command's own arguments, ``file`` among them.
        arguments: FILE, ``--run_dir``, and flags of ``ovseg evaluate`` that all points get.
        options: Adds further arguments of the command's own.

    Raises:
        ConfigurationError: The file or a point's settings are wrong; nothing has run then.
    """
    built = _Arguments(
        prog=f"ovseg {command}",
        description=summary,
        epilog="All other flags are those of 'ovseg evaluate' and hold for all points.",
        allow_abbrev=False,
    )
    built.add_argument("file", type=Path, metavar="FILE", help=f"a {command} file (YAML)")
    built.add_argument("--run_dir", type=Path, default=None, help="where to put all runs (default: runs/NAME_OF_FILE)")
    options(built)
    known, rest = built.parse_known_args(arguments)
    work = read(known)
    points = Points(work.title, work.arguments, rest, known.run_dir or Path("runs") / known.file.stem)
    study, outcomes = points.search(work) if isinstance(work, Search) else (work, points.study(work))
    if distributed.rank() == 0:
        if drawable(study):
            draw(points.folder / "curves.png", study, outcomes)
        # Not as the table's title, which is broken to the width of its columns.
        console().print(Text(study.title, style="italic"))
        console().print(_table(study, outcomes))
        if study.parameters and (top := best(study, outcomes)) is not None:
            print(f"best {study.metric_title}: {top.score:.1f} at {top.row.name}")
        print(points.folder, flush=True)


class Points:
    """Evaluates points in one folder, each in a run directory of its own.

    Args:
        title: Of the study, and the group of its runs where they are logged.
        shared: Command-line arguments of the study's file, for all points.
        rest: Arguments that this command was given for all points.
        folder: Of all runs and of the table.
    """

    def __init__(self, title: str, shared: Sequence[str], rest: Sequence[str], folder: Path) -> None:
        self.folder = folder
        self._title, self._shared, self._rest = title, shared, rest
        self._parser = evaluate.parser()
        self._parsed: tuple[list[str], Namespace] | None = None

    def study(self, study: Study) -> list[Outcome]:
        """Evaluate all points, which are known in advance; rank 0 writes the table after each.

        Raises:
            ConfigurationError: A point's settings are wrong; nothing has run then.
        """
        points = study.points()
        parsed = [self.parse(row, column) for row, column in points]
        names = [row.name if len(study.columns) == 1 else f"{row.name} / {column.name}" for row, column in points]
        outcomes: dict[int, Outcome] = {}
        for place, evaluation in self.evaluate(parsed, names):
            outcomes[place] = _outcome(study, *points[place], evaluation)
            if distributed.rank() == 0:
                write(self.folder, study, [outcomes[each] for each in sorted(outcomes)])
        return [outcomes[each] for each in sorted(outcomes)]

    def evaluate(
        self, parsed: Sequence[Namespace], names: Sequence[str], first: int = 0, most: int | None = None
    ) -> Iterator[tuple[int, Evaluation]]:
        """Evaluate parsed points, those that can share a pass over the data together.

        Args:
            parsed: What ``parse`` returned.
            names: What to call them.
            first: How many points of the study came before these.
            most: How many points there may be in all (default: these).

        Returns:
            One by one a point's place in ``parsed``, and its evaluation.
        """
        total = most or first + len(parsed)

        def announce(group: list[int]) -> None:
            if not distributed.is_main_process():
                return
            finished = [_finished(parsed[place].run_dir) for place in group]
            for place, known in zip(group, finished, strict=True):
                print(f"{first + place + 1} of {total}: {names[place]}" + " (finished)" * known, flush=True)
            if finished.count(False) > 1:
                print(f"these {finished.count(False)} in one pass over the data", flush=True)

        return evaluate_together(self._parser, parsed, announce=announce)

    def search(self, search: Search) -> tuple[Study, list[Outcome]]:
        """Evaluate points of which each depends on the scores of the earlier ones.

        Rank 0 suggests, and keeps every suggestion before it is tried, so that a restart repeats none of it.

        Raises:
            ConfigurationError: The settings of one of the first points are wrong; nothing has run then.
            RunError: The folder belongs to another sweep.
        """
        for row, column in search.points():
            self.parse(row, column)
        kept = self._kept(search)
        tried: list[Suggestion] = []
        scores: list[float | None] = []
        outcomes: list[Outcome] = []
        while len(tried) < search.count:
            suggestion = self._next(search, kept, list(zip(tried, scores, strict=True)))
            if suggestion is None:
                break
            tried.append(suggestion)
            study = search.study(tried)
            row = study.rows[-1]
            ((_, evaluation),) = self.evaluate([self.parse(row, MIOU)], [row.name], len(outcomes), search.most)
            outcomes.append(_outcome(study, row, MIOU, evaluation))
            scores.append(outcomes[-1].score)
            if distributed.rank() == 0:
                write(self.folder, study, outcomes)
        return search.study(tried), outcomes

    def _next(
        self, search: Search, kept: list[Suggestion], found: list[tuple[Suggestion, float | None]]
    ) -> Suggestion | None:
        """The next point, the same on every rank."""
        number, suggestion = len(found), None
        # Before the first evaluation there is no process group; the first points depend on nothing but the file.
        if distributed.rank() == 0:
            suggestion = kept[number] if number < len(kept) else search.suggest(found)
            if suggestion is not None and number >= len(kept) and distributed.is_main_process():
                kept.append(suggestion)
                self._keep(search, kept)
        agreed = distributed.broadcast(None if suggestion is None else [suggestion.flags, suggestion.places])
        return None if agreed is None else Suggestion(*agreed)

    def _kept(self, search: Search) -> list[Suggestion]:
        """The suggestions of an earlier start of the same sweep.

        Raises:
            RunError: The folder's are of another sweep, or damaged.
        """
        file = self.folder / SUGGESTIONS
        if not file.exists():
            return []
        try:
            content = json.loads(file.read_text(encoding="utf-8"))
            known, kept = content["sweep"], [Suggestion(**each) for each in content["suggestions"]]
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise RunError(f"{file} is damaged ({error}); give another --run_dir") from error
        if changed := differences(known, search.identity):
            raise RunError(f"{self.folder} belongs to another sweep: {'; '.join(changed)}; give another --run_dir")
        return kept

    def _keep(self, search: Search, kept: Sequence[Suggestion]) -> None:
        entries = [{"flags": dict(each.flags), "places": dict(each.places)} for each in kept]
        atomic.write_json(
            self.folder / SUGGESTIONS, {"schema": SCHEMA, "sweep": search.identity, "suggestions": entries}
        )

    def parse(self, row: Point, column: Point) -> Namespace:
        """The settings of a point, in its run directory.

        Raises:
            ConfigurationError: They are wrong; the message names the row.
        """
        given = [*self._shared, *column.arguments(), *row.arguments(), *self._rest]
        arguments = resolve_names(given)
        parsed = None if self._parsed is None else vary(*self._parsed, arguments)
        if parsed is None:
            try:
                parsed = self._parser.parse_args(arguments)
            except ConfigurationError as error:
                raise ConfigurationError(f"'{row.name}': {error}") from error
        self._parsed = arguments, parsed.clone()
        parsed.run_dir = self.folder / folder_of(row, column)
        if parsed.seeds is not None:
            raise ConfigurationError(f"'{row.name}': --seeds is not for studies; make the seed a parameter")
        if parsed.wandb.group is None and "WANDB_RUN_GROUP" not in os.environ:
            parsed.wandb.group = self._title
        return parsed


def _finished(directory: Path) -> bool:
    """Whether an earlier start finished the run, so that it is only read."""
    try:
        return bool(json.loads((directory / RESULTS).read_text(encoding="utf-8"))["status"] == "complete")
    except (OSError, ValueError, KeyError, TypeError):
        return False


def _outcome(study: Study, row: Point, column: Point, evaluation: Evaluation) -> Outcome:
    results = evaluation.results or {}
    return Outcome(row, column, results.get("miou"), evaluation.directory.path, results.get(study.metric))


def _table(study: Study, outcomes: list[Outcome]) -> Table:
    # Titles, names and values are the user's text, so no markup.
    drawn = Table()
    for position, title in enumerate(header(study)):
        words = position == 0 and not study.parameters
        drawn.add_column(Text(title), justify="left" if words else "right", overflow="fold")
    for line in body(study, outcomes):
        drawn.add_row(*map(Text, line))
    return drawn
