"""``ovseg precompute``: the precompute stage of a method, without predictions."""

from pathlib import Path

from lightning.pytorch import seed_everything

from harness.artifacts.stage import PrecomputeReport
from harness.artifacts.store import ArtifactStore
from harness.commands.arguments import STORE_HELP, Parser, add_composition, instantiate, make_trainer
from harness.engine.evaluation import predict

SUMMARY = (
    "compute what a method needs before its first image, on one process or many; items in the store are not recomputed"
)


def parser() -> Parser:
    """The command's arguments."""
    built = Parser(prog="ovseg precompute", description=SUMMARY)
    add_composition(built)
    built.add_argument("--store", type=Path | None, default=None, help=STORE_HELP)
    return built


def run(arguments: list[str]) -> PrecomputeReport:
    """Parse and precompute; rank 0 prints the numbers of cached and computed items and, last, the store's folder."""
    built = parser()
    objects = instantiate(built, built.parse_args(arguments))
    seed_everything(objects.seed, workers=True, verbose=False)
    method, data, store = objects.method, objects.data, ArtifactStore(objects.store)
    trainer = make_trainer(objects.trainer, [])
    method.store = store
    method.make_ready(data.vocabulary_for(objects.protocol.class_names), objects.protocol)
    data.plan(objects.protocol, [])
    predict(trainer, method, [method], data)
    done: PrecomputeReport = method.precomputed
    if trainer.is_global_zero:
        for stage in done.stages:
            copied = f", {stage.num_copied} copied between ranks" if stage.num_copied else ""
            counts = f"{stage.num_cached} cached, {sum(stage.computed_per_rank)} computed"
            print(f"{stage.name}: {counts}{copied}, {stage.seconds:.1f} s")
        if not done.stages:
            print(f"{method.name} needs nothing")
        if done.bank is not None:
            print(f"bank: {done.bank[:16]}")
        print(store.root, flush=True)
    return done
