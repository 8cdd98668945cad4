"""Evaluating parsed command lines, those that can share a pass over the data in one pass."""

import json
import pkgutil
from collections.abc import Callable, Iterator, Sequence
from types import SimpleNamespace
from typing import Any, cast

from jsonargparse import Namespace
from lightning.pytorch import seed_everything
from lightning.pytorch.core.hooks import DataHooks, ModelHooks

from harness.artifacts.store import ArtifactStore
from harness.commands.arguments import Parser, instantiate, make_trainer, plain
from harness.commands.evaluate import evaluate_parsed, make_result_images
from harness.commands.planned import lacks_requirements
from harness.engine.evaluation import Evaluation
from harness.engine.one_pass import PassEntry, evaluate_in_one_pass
from harness.engine.progress import EvaluationProgress
from harness.engine.wandb_report import report, wanted
from harness.method.method import SegmentationMethod
from harness.method.part import SharedParts
from harness.system.errors import OvsegError

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


def groups(parsed: Sequence[Namespace], most: int = MAX_POINTS) -> list[list[int]]:
    """Which points can share a pass: the same class of method, data, reading of images, trainer, seed and store.

    Args:
        parsed: Arguments of ``ovseg evaluate``, per point.
        most: Points of one pass.

    Returns:
        Places in ``parsed``, each once; groups in the order of their first points.
    """
    found: dict[str, list[list[int]]] = {}
    order: list[list[int]] = []
    for place, one in enumerate(parsed):
        alike = found.setdefault(_shared_settings(one, place), [])
        if not alike or len(alike[-1]) >= most:
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


def evaluate_in_passes(
    built: Parser,
    parsed: Sequence[Namespace],
    most: int = MAX_POINTS,
    announce: Callable[[list[int]], None] = lambda group: None,
) -> Iterator[tuple[int, Evaluation]]:
    """Evaluate several points; those that can share a pass over the data do, the others follow each other.

    Args:
        built: The parser of ``ovseg evaluate``.
        parsed: What it parsed, per point.
        most: Points of one pass.
        announce: Is told the points of each pass, by their places in ``parsed``, before it begins.

    Yields:
        A point's place in ``parsed``, and its finished evaluation.

    Raises:
        OvsegError: Something that the user can mend; one sentence.
    """
    for group in groups(parsed, most):
        announce(group)
        yield from zip(group, evaluate_group(built, [parsed[place] for place in group]), strict=True)


def evaluate_independently(
    built: Parser,
    parsed: Sequence[Namespace],
    most: int = MAX_POINTS,
    announce: Callable[[list[int]], None] = lambda group: None,
) -> Iterator[tuple[int, Evaluation | OvsegError]]:
    """Evaluate several points in shared passes; one that fails does not stop the others.

    A point that lacks a model or a file is evaluated alone, for the sentence that says so. Where a shared pass fails,
    its points are evaluated one by one.

    Args:
        built: The parser of ``ovseg evaluate``.
        parsed: What it parsed, per point.
        most: Points of one pass.
        announce: Is told the points of each pass, by their places in ``parsed``, before it begins.

    Yields:
        A point's place in ``parsed``, and its finished evaluation or its error.
    """
    lacking = [place for place, one in enumerate(parsed) if lacks_requirements(one)]
    ready = [place for place in range(len(parsed)) if place not in lacking]
    shared = [[ready[place] for place in group] for group in groups([parsed[place] for place in ready], most)]
    for group in sorted([*shared, *([place] for place in lacking)]):
        announce(group)
        try:
            evaluations = evaluate_group(built, [parsed[place] for place in group])
        except OvsegError as error:
            if len(group) == 1:
                yield group[0], error
                continue
            for place in group:
                try:
                    yield place, evaluate_parsed(built, parsed[place], quiet=True)
                except OvsegError as alone:
                    yield place, alone
        else:
            yield from zip(group, evaluations, strict=True)


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
