"""``ovseg evaluate``: one method on one benchmark under one protocol."""

import os
from collections.abc import Mapping
from pathlib import Path
from statistics import mean, stdev
from typing import Any, Literal

from jsonargparse import Namespace
from lightning.pytorch import seed_everything

from harness.artifacts.store import ArtifactStore
from harness.commands.arguments import STORE_HELP, Parser, add_composition, instantiate, make_trainer
from harness.commands.console import console
from harness.engine.evaluation import Evaluation, evaluate
from harness.engine.progress import EvaluationProgress
from harness.engine.result_images import ResultImages
from harness.engine.wandb_report import LoggedImages, Wandb, report, wanted
from harness.results.results import results_table
from harness.system import atomic, distributed
from harness.system.errors import ConfigurationError

SUMMARY = "evaluate a method on a benchmark, on one process or many; the same --run_dir resumes the run"


def parser() -> Parser:
    """The command's arguments."""
    built = Parser(prog="ovseg evaluate", description=SUMMARY)
    add_composition(built)
    built.add_argument("--run_dir", type=Path | None, default=None, help="run directory (default: a new one in runs/)")
    built.add_argument("--save_label_maps", type=bool, default=False, help="save every predicted label map (PNG)")
    built.add_argument(
        "--save_explanations", type=int, default=0, help="save explanations of this many images, if supported"
    )
    built.add_argument(
        "--save_overlays", type=int, default=0, help="save this many images beside ground truth and prediction"
    )
    built.add_argument("--seeds", type=str | None, default=None, help="evaluate with each of these seeds: 0,1,2,3,4")
    built.add_argument("--store", type=Path | None, default=None, help=STORE_HELP)
    built.add_argument(
        "--logger",
        type=Literal["wandb"] | None,
        default=None,
        help="also log the finished run to Weights & Biases; offline without a key",
    )
    built.add_class_arguments(Wandb, "wandb")
    return built


def run(arguments: list[str]) -> None:
    """Parse and evaluate, once or per seed; rank 0 prints the tables and, last, the run directory."""
    built = parser()
    parsed = built.parse_args(arguments)
    if parsed.seeds is None:
        evaluation = evaluate_parsed(built, parsed)
        if distributed.rank() == 0:
            # print(), since a console would wrap a long path.
            print(evaluation.directory.path, flush=True)
        return
    seeds = parse_seeds(parsed.seeds)
    if parsed.run_dir is None:
        # Ranks are not connected yet, so they cannot agree on a name that contains the time.
        raise ConfigurationError("--seeds needs --run_dir, below which each seed gets a directory")
    folder = parsed.run_dir
    found = {}
    for seed in seeds:
        one = parsed.clone()
        one.seed, one.seeds, one.run_dir = seed, None, folder / f"seed-{seed}"
        require_seed(one, "--seeds")
        one.method.init_args.seed = seed
        if one.wandb.group is None and "WANDB_RUN_GROUP" not in os.environ:
            one.wandb.group = folder.name
        found[seed] = evaluate_parsed(built, one).results or {}
    if distributed.rank() == 0:
        summary = summarize_seeds(found)
        atomic.write_json(folder / "seeds.json", summary)
        miou = summary["miou"]
        print(f"mIoU over {len(seeds)} seeds: {_plus_minus(miou['mean'], miou['deviation'])}")
        print(folder, flush=True)


def require_seed(parsed: Namespace, asked: str) -> None:
    """Make sure that runs with several seeds of the method differ.

    Raises:
        ConfigurationError: The method has no seed; the message begins with what ``asked`` for seeds.
    """
    if "seed" not in (parsed.method.get("init_args") or {}):
        raise ConfigurationError(f"{asked}: {parsed.method.class_path} has no seed, so all runs would be equal")


def parse_seeds(text: str) -> list[int]:
    """``0,1,2`` as numbers.

    Raises:
        ConfigurationError: It is not a list of distinct whole numbers.
    """
    try:
        seeds = [int(part) for part in text.strip("[]").split(",")]
    except ValueError:
        seeds = []
    if not seeds or len(set(seeds)) != len(seeds):
        raise ConfigurationError(f"--seeds is a list of distinct whole numbers such as 0,1,2, not '{text}'")
    return seeds


def summarize_seeds(found: Mapping[int, Mapping[str, Any]]) -> dict[str, Any]:
    """Mean and sample standard deviation of each score over seeds.

    Args:
        found: The results per seed.

    Returns:
        ``seeds``; per score ``values`` (by seed, in percent), ``mean`` and ``deviation``, None where undefined.
    """
    summary: dict[str, Any] = {"seeds": list(found)}
    for score in ("miou", "pixel_accuracy", "mean_accuracy"):
        values = [results[score] for results in found.values()]
        defined = [value for value in values if value is not None]
        summary[score] = {
            "values": values,
            "mean": mean(defined) if defined else None,
            "deviation": stdev(defined) if len(defined) > 1 else None,
        }
    return summary


def _plus_minus(average: float | None, deviation: float | None) -> str:
    if average is None:
        return "-"
    return f"{average:.1f}" if deviation is None else f"{average:.1f} ± {deviation:.1f}"


def evaluate_parsed(built: Parser, parsed: Namespace, quiet: bool = False) -> Evaluation:
    """Evaluate what the command line describes; rank 0 prints the table unless ``quiet``.

    Raises:
        OvsegError: An error that the user can fix. When only the logger failed, the results are written.
    """
    logged = wanted(parsed.logger)
    config = built.dump(parsed, skip_none=False)
    objects = instantiate(built, parsed)
    objects.method.store = ArtifactStore(objects.store)
    seed_everything(objects.seed, workers=True, verbose=False)
    trainer = make_trainer(objects.trainer, [progress := EvaluationProgress()])
    images = make_result_images(objects, logged)
    evaluation = evaluate(
        objects.method, objects.data, objects.protocol, trainer, objects.run_dir, config, images, progress
    )
    if trainer.is_global_zero and evaluation.results is not None and not quiet:
        console().print(results_table(evaluation.results))
    if logged:
        report(evaluation.directory.path, objects.wandb, is_node_main=trainer.local_rank == 0)
    return evaluation


def make_result_images(objects: Namespace, logged: bool) -> ResultImages:
    """The images that a run with these settings saves.

    Args:
        objects: The settings, instantiated.
        logged: Whether some are logged to W&B.
    """
    return LoggedImages(
        objects.save_label_maps, objects.save_overlays, objects.save_explanations, objects.wandb.images if logged else 0
    )
