"""Evaluating parsed command lines, those that can share a pass over the data in one pass."""

import json
import pkgutil
from collections.abc import Callable, Sequence
from types import SimpleNamespace
from typing import Any, cast

from jsonargparse import Namespace
from lightning.pytorch import seed_everything
from lightning.pytorch.core.hooks import DataHooks, ModelHooks

from harness.artifacts.store import ArtifactStore
from harness.commands.arguments import Parser, instantiate, make_trainer, plain, resolve_names
from harness.commands.evaluate import evaluate_parsed, make_result_images, parser, require_seed
from harness.engine.evaluation import Evaluation
from harness.engine.one_pass import PassEntry, evaluate_in_one_pass
from harness.engine.progress import EvaluationProgress
from harness.engine.wandb_report import report, wanted
from harness.method.method import SegmentationMethod
from harness.method.part import SharedParts
from harness.studies.study import Cell
from harness.system.errors import ConfigurationError

# Points of one pass at most: each holds its bank and, for an image, its scores and its label map.
MAX_POINTS = 32
# Fields of a protocol that change nothing about how images and labels are read.
AFTER_READING = {
    "name",
    "version",
    "window",
    "stride",
    "small_images",
    "templates",
    "background",
    "absent_classes",
    "refine",
    "upsample",
    "reduction",
}


def groups(parsed: Sequence[Namespace], max_points: int = MAX_POINTS) -> list[list[int]]:
    """Which points can share a pass: the same class of method, data, reading of images, trainer, seed and store.

    Args:
        parsed: Arguments of ``ovseg evaluate``, per point.
        max_points: Points of one pass.

    Returns:
        Places in ``parsed``, each once; groups in the order of their first points.
    """
    found: dict[str, list[list[int]]] = {}
    order: list[list[int]] = []
    for place, one in enumerate(parsed):
        alike = found.setdefault(_shared_settings(one, place), [])
        if not alike or len(alike[-1]) >= max_points:
            alike.append([])
            order.append(alike[-1])
        alike[-1].append(place)
    return order


def _shared_settings(one: Namespace, place: int) -> str:
    """What the points of a pass have in common; with its place in it, for a point that must stay alone."""
    protocol = {name: value for name, value in plain(one.protocol).items() if name not in AFTER_READING}
    shared = [one.method.class_path, plain(one.data), protocol, plain(one.trainer), one.seed, str(one.store)]
    return json.dumps([*shared, *([] if _sharable(one.method.class_path) else [place])], sort_keys=True)


def _sharable(class_path: str) -> bool:
    """Whether Lightning need not drive the method itself: it overrides no hook but those of the contract."""
    cls = pkgutil.resolve_name(class_path)
    hooks = {name for owner in (ModelHooks, DataHooks) for name in vars(owner) if not name.startswith("_")}
    return all(getattr(cls, name) is getattr(SegmentationMethod, name) for name in hooks)


class JointEvaluator:
    """Parses cells as ``ovseg evaluate`` would, and evaluates those that can share a pass in one.

    Args:
        arguments: Of the study, before a cell's own.
        rest: Given to the command, after a cell's own.
        place: Completes the parsed settings of a cell: at least its run directory.
    """

    def __init__(self, arguments: Sequence[str], rest: Sequence[str], place: Callable[[Cell, Namespace], None]) -> None:
        self.parser = parser()
        self._arguments, self._rest, self._place = arguments, rest, place

    def parse(self, cell: Cell) -> Namespace:
        """The settings of a cell, with its run directory.

        Raises:
            ConfigurationError: They are wrong; the message names the row, or a paper's cell.
        """
        arguments = [*self._arguments, *cell.arguments, *self._rest]
        try:
            parsed = self.parser.parse_args(resolve_names(arguments))
            if parsed.seeds is not None:
                raise ConfigurationError("--seeds is not for sweeps; make the seed a parameter")
            if cell.seeds or cell.seed is not None:
                self._set_seed(parsed, cell.seed)
        except ConfigurationError as error:
            name = cell.row.name if cell.published is None else cell.name
            raise ConfigurationError(f"'{name}': {error}") from error
        self._place(cell, parsed)
        return parsed

    def _set_seed(self, parsed: Namespace, seed: int | None) -> None:
        """Give the method the seed of a run, where it is the mean over seeds that is asked for."""
        require_seed(parsed, "seeds")
        if any(word.partition("=")[0] == "--method.seed" for word in self._rest):
            raise ConfigurationError("--method.seed would make the runs of all seeds equal; give --seeds")
        if seed is not None:
            parsed.method.init_args.seed = seed

    def groups(self, parsed: Sequence[Namespace]) -> list[list[int]]:
        """Which parsed cells can share a pass, by their places."""
        return groups(parsed)

    def evaluate(self, parsed: Sequence[Namespace]) -> list[Evaluation]:
        """Evaluate the cells of one group.

        Raises:
            OvsegError: One of them cannot be evaluated.
        """
        return evaluate_group(self.parser, parsed)


def evaluate_group(built: Parser, parsed: Sequence[Namespace]) -> list[Evaluation]:
    """Evaluate points of one of ``groups``; a single one as ``ovseg evaluate`` does."""
    if len(parsed) == 1:
        return [evaluate_parsed(built, parsed[0], quiet=True)]
    parts, logged = SharedParts(), [wanted(one.logger) for one in parsed]
    made = [_instantiate(built, one, parts) for one in parsed]
    first, store = made[0], ArtifactStore(made[0].store)
    points = []
    for one, given, log in zip(made, parsed, logged, strict=True):
        one.method.store = store
        # Validated when they were parsed; it takes most of the time.
        config = built.dump(given, skip_none=False, skip_validation=True)
        points.append(PassEntry(one.method, one.protocol, one.run_dir, config, make_result_images(one, log)))
    seed_everything(first.seed, workers=True, verbose=False)
    trainer = make_trainer(first.trainer, [EvaluationProgress()])
    evaluations = evaluate_in_one_pass(points, first.data, trainer)
    for evaluation, one, log in zip(evaluations, made, logged, strict=True):
        if log:
            report(evaluation.directory.path, one.wandb, is_node_main=trainer.local_rank == 0)
    return evaluations


def _instantiate(built: Parser, parsed: Namespace, parts: SharedParts) -> Namespace:
    """Build a point's objects, with parts that other points have already where configurations are equal."""
    sharing = SimpleNamespace(instantiate=lambda one: built.instantiate(one, instantiators=[(parts, object, True)]))
    return instantiate(cast(Any, sharing), parsed)
