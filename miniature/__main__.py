"""`python -m miniature`: train the small models, measure them, draw a contact sheet."""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable
from pathlib import Path


def parser() -> argparse.ArgumentParser:
    """The command line."""
    top = argparse.ArgumentParser(prog="python -m miniature", description="A small world with small models.")
    commands = top.add_subparsers(dest="command", required=True)
    train = commands.add_parser("train", help="train models on this CPU and write their weights")
    train.add_argument(
        "model",
        choices=("clip", "dino", "found", "vae", "diffusion", "all"),
        help="dino starts from clip, found needs dino, diffusion needs vae; the last two take hours",
    )
    train.add_argument("--steps", type=int, help="fewer or more steps than the default")
    train.add_argument("--out", type=Path, help="a folder other than miniature/weights/MODEL")
    commands.add_parser("measure", help="print the scores of the model card")
    sheet = commands.add_parser("sheet", help="draw a contact sheet of the validation split")
    sheet.add_argument("path", type=Path, metavar="OUT.png")
    sheet.add_argument("--count", type=int, default=28, help="number of scenes (default: %(default)s)")
    sheet.add_argument("--labels", action="store_true", help="show the label maps as well")
    return top


def main(arguments: list[str] | None = None) -> None:
    """Run one command."""
    top = parser()
    options = top.parse_args(arguments)
    # Before torch is loaded: idle threads must not take CPU time from other jobs.
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    if options.command == "sheet":
        from miniature.sheet import write

        write(options.path, options.count, options.labels)
    elif options.command == "measure":
        from miniature.measure import report

        for name, value in report():
            print(f"{name:64s} {value:6.1f}")
    else:
        from transformers.utils import logging

        from miniature import train_clip, train_diffusion, train_dino, train_found, train_vae

        if options.model == "all" and options.out is not None:
            top.error("--out goes with one model")
        if options.model == "vae" and options.steps is not None:
            top.error("--steps does not apply to the vae, which trains in two legs")
        logging.disable_progress_bar()
        chosen = {"steps": options.steps, "folder": options.out}
        options_set = {name: value for name, value in chosen.items() if value is not None}
        runs: dict[str, Callable[..., None]] = {
            "clip": train_clip.train,
            "dino": train_dino.train,
            "found": train_found.train,
            "vae": train_vae.train,
            "diffusion": train_diffusion.train,
        }
        for name, run in runs.items():
            if options.model in (name, "all"):
                run(
                    **(
                        options_set
                        if name != "vae"
                        else {key: value for key, value in options_set.items() if key != "steps"}
                    )
                )


if __name__ == "__main__":
    main()
