"""``ovseg segment``: a user's own images and class names."""

from pathlib import Path
from typing import Literal

from lightning.pytorch import seed_everything

from harness.artifacts.store import ArtifactStore
from harness.commands.arguments import STORE_HELP, Parser, add_composition, instantiate, make_trainer
from harness.data.vocabulary import Vocabulary
from harness.engine.progress import EvaluationProgress
from harness.engine.segment import ImageFiles, segment
from harness.system.errors import ConfigurationError

SUMMARY = (
    "segment images with your own class names: an indexed PNG and an overlay for each, and the share of each class"
)


def parser() -> Parser:
    """The command's arguments."""
    built = Parser(prog="ovseg segment", description=SUMMARY)
    built.add_argument("images", nargs="+", metavar="IMAGE", help="images, or folders of images")
    built.add_argument(
        "--classes",
        type=str | None,
        default=None,
        help="class names: 'corgi, bench'; not needed by methods that find names themselves",
    )
    built.add_argument("--background", type=bool, default=True, help="whether a pixel may be none of the classes")
    built.add_argument("--out", type=Path, default=Path("segmented"), help="folder to write to")
    built.add_argument("--save_explanations", type=bool, default=False, help="save the evidence for each class (PNG)")
    built.add_argument("--on_error", type=Literal["stop", "skip"], default="stop", help="when an image is damaged")
    add_composition(built, data_required=False)
    built.add_argument("--store", type=Path | None, default=None, help=STORE_HELP)
    return built


def run(arguments: list[str]) -> None:
    """Parse, segment, and print the share of each class in each image."""
    built = parser()
    objects = instantiate(built, built.parse_args(arguments))
    objects.method.store = ArtifactStore(objects.store)
    vocabulary: Vocabulary | None = None
    if objects.classes is not None:
        vocabulary = Vocabulary.from_class_names(objects.classes, objects.background)
    elif objects.data is not None and not objects.method.finds_names:
        vocabulary = objects.data.vocabulary_for(objects.protocol.class_names)
    elif not objects.method.finds_names:
        raise ConfigurationError("give class names: --classes 'corgi, bench', or --data for its class names")
    seed_everything(objects.seed, workers=True, verbose=False)
    images = ImageFiles(objects.images, vocabulary, on_error=objects.on_error, background=objects.background)
    trainer = make_trainer(objects.trainer, [EvaluationProgress()])
    written = segment(objects.method, images, objects.protocol, trainer, objects.out, objects.save_explanations)
    if not trainer.is_global_zero:
        return
    for index, id in enumerate(images.ids):
        if index in written.skipped:
            print(f"{id}: skipped: {written.skipped[index]}")
            continue
        shares = sorted(written.shares[index].items(), key=lambda item: -item[1])
        print(f"{id}: " + ", ".join(f"{name} {share:.1f} %" for name, share in shares if share > 0))
    print(objects.out)
