"""``ovseg evaluate``: one method on one benchmark under one protocol."""

from pathlib import Path

from lightning.pytorch import seed_everything
from rich.console import Console

from harness.commands.arguments import Parser, add_composition, instantiate, make_trainer, plain
from harness.evaluation import Evaluation, evaluate
from harness.progress import EvaluationProgress
from harness.results import table

SUMMARY = "evaluate a method on a benchmark, on one process or many; the same --run_dir goes on where it stopped"


def parser() -> Parser:
    """The command's arguments."""
    built = Parser(prog="ovseg evaluate", description=SUMMARY)
    add_composition(built)
    built.add_argument("--run_dir", type=Path | None, default=None, help="run directory (default: a new one in runs/)")
    built.add_argument("--save_label_maps", type=bool, default=False, help="keep every predicted label map (PNG)")
    built.add_argument("--save_overlays", type=int, default=0, help="draw this many images beside truth and prediction")
    return built


def run(arguments: list[str]) -> Evaluation:
    """Parse and evaluate; rank 0 prints the table and, last, the run directory."""
    built = parser()
    parsed = built.parse_args(arguments)
    settings, config = plain(parsed.method), built.dump(parsed, skip_none=False)
    made = instantiate(built, parsed)
    seed_everything(made.seed, workers=True, verbose=False)
    trainer = make_trainer(made.trainer, [progress := EvaluationProgress()])
    evaluation = evaluate(
        made.method,
        made.data,
        made.protocol,
        trainer,
        made.run_dir,
        settings,
        config,
        made.save_label_maps,
        made.save_overlays,
        progress,
    )
    if trainer.is_global_zero and evaluation.results is not None:
        console = Console()
        console.print(table(evaluation.results))
        # print(), since a console would wrap a long path.
        print(evaluation.directory.path, flush=True)
    return evaluation
