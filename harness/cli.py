"""``ovseg``: the command line. Each subcommand is imported only when it is called."""

import argparse
import logging
import os
import sys
import warnings
from importlib import import_module

COMMANDS = {
    "evaluate": "evaluate a method on a benchmark and print its mIoU",
    "segment": "segment your own pictures with your own words",
    "info": "list methods, data sets, installed versions and devices",
}


def _quiet() -> None:
    """Leave on the terminal what a person can act on; libraries announce themselves at length."""
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    for name in ("lightning.pytorch", "lightning.fabric", "lightning", "transformers", "diffusers"):
        logging.getLogger(name).setLevel(logging.ERROR)
    # Each of these is about a loader or a plug-in choice that the harness makes on purpose.
    warnings.filterwarnings("ignore", module=r"lightning\..*")
    warnings.filterwarnings("ignore", module=r"jsonargparse.*")
    warnings.filterwarnings("ignore", module=r"torchmetrics.*")


def main(arguments: list[str] | None = None) -> int:
    """Run ``ovseg``; returns the exit code: 0, 2 for what the user can mend, 130 when interrupted."""
    arguments = sys.argv[1:] if arguments is None else arguments
    top = argparse.ArgumentParser(
        prog="ovseg",
        description="Training-free open-vocabulary semantic segmentation: evaluate methods, segment pictures.",
        epilog="commands:\n"
        + "\n".join(f"  {name:<10} {text}" for name, text in COMMANDS.items())
        + "\n\n'ovseg COMMAND --help' lists a command's arguments,\n"
        "'ovseg evaluate --method.help CLASS' those of a method, '--data.help CLASS' those of a data set.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    top.add_argument("command", choices=COMMANDS, metavar="COMMAND", help=", ".join(COMMANDS))
    top.add_argument("arguments", nargs=argparse.REMAINDER, metavar="...", help="the command's arguments")
    parsed = top.parse_args(arguments)
    _quiet()

    from harness import distributed
    from harness.commands.arguments import resolve_entry_points
    from harness.errors import OvsegError

    if "LOCAL_RANK" in os.environ:
        # Launched as a rank: by Lightning, or by torchrun.
        distributed.end_with_parent()
    try:
        rest = resolve_entry_points(parsed.arguments) if parsed.command != "info" else parsed.arguments
        import_module(f"harness.commands.{parsed.command}").run(rest)
    except OvsegError as error:
        if distributed.speaks():
            print(f"ovseg {parsed.command}: {error}", file=sys.stderr, flush=True)
        return 2
    except KeyboardInterrupt:
        return 130
    finally:
        distributed.leave()
    return 0


if __name__ == "__main__":
    sys.exit(main())
