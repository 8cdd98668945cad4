"""``ovseg``: the command line. Each subcommand is imported only when it is called."""

import argparse
import logging
import os
import sys
import warnings
from importlib import import_module
from typing import NoReturn

from harness.system.errors import OvsegError, did_you_mean

COMMANDS = {
    "evaluate": "evaluate a method on a benchmark and print its mIoU",
    "precompute": "compute what a method needs before its first image, such as generated support sets",
    "table": "evaluate every row of a table, such as an ablation",
    "sweep": "evaluate every point of a W&B sweep file and draw its curves",
    "reproduce": "evaluate the rows of a paper's tables and print measured beside published",
    "regress": "compare small fixed runs with a committed baseline: a gate for CI",
    "compare": "compare two runs, with bootstrap intervals",
    "segment": "segment your own images with your own class names",
    "store": "list, verify or prune the artifact store",
    "data": "list benchmarks, check one on disk, or convert one",
    "protocol": "show a protocol, or the fields in which two differ",
    "info": "list methods, data sets, installed versions and devices",
}


def _quiet() -> None:
    """Silence messages of libraries that a user cannot act on."""
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    for name in ("lightning.pytorch", "lightning.fabric", "lightning", "transformers", "diffusers"):
        logging.getLogger(name).setLevel(logging.ERROR)
    # Each of these is about a loader or a plug-in choice that the harness makes on purpose.
    warnings.filterwarnings("ignore", module=r"lightning\..*")
    warnings.filterwarnings("ignore", module=r"jsonargparse.*")
    warnings.filterwarnings("ignore", module=r"torchmetrics.*")


class _Parser(argparse.ArgumentParser):
    """One sentence without the usage."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: {message} (see {self.prog} --help)\n")


def main(arguments: list[str] | None = None) -> int:
    """Run ``ovseg``; returns the exit code: 0 success, 1 problems found, 2 user error, 130 interrupted."""
    arguments = sys.argv[1:] if arguments is None else arguments
    top = _Parser(
        prog="ovseg",
        description="Training-free open-vocabulary semantic segmentation: evaluate methods, segment images.",
        epilog="commands:\n"
        + "\n".join(f"  {name:<10} {text}" for name, text in COMMANDS.items())
        + "\n\n'ovseg COMMAND --help' lists a command's arguments,\n"
        "'ovseg evaluate --method.help CLASS' those of a method, '--data.help CLASS' those of a data set.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    top.add_argument("command", metavar="COMMAND", help=", ".join(COMMANDS))
    top.add_argument("arguments", nargs=argparse.REMAINDER, metavar="...", help="the command's arguments")
    parsed = top.parse_args(arguments)
    if parsed.command not in COMMANDS:
        hint = did_you_mean(parsed.command, COMMANDS)
        top.error(f"there is no command '{parsed.command}'{hint}; commands: {', '.join(COMMANDS)}")
    _quiet()

    from harness.commands.arguments import resolve_names
    from harness.system import distributed

    if "LOCAL_RANK" in os.environ:
        # Launched as a rank: by Lightning, or by torchrun.
        distributed.exit_with_parent()
    try:
        rest = resolve_names(parsed.arguments) if parsed.command != "info" else parsed.arguments
        code = import_module(f"harness.commands.{parsed.command}").run(rest)
    except OvsegError as error:
        if distributed.is_main_process():
            print(f"ovseg {parsed.command}: {error}", file=sys.stderr, flush=True)
        return 2
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:
        # The reader, such as head, closed the pipe; without this Python reports the error again at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141
    except SystemExit as end:
        # Lightning turns an interrupt during the images into an exit with code 1.
        if isinstance(end.__context__, KeyboardInterrupt):
            return 130
        raise
    finally:
        distributed.leave_process_group()
    return code if isinstance(code, int) else 0


if __name__ == "__main__":
    sys.exit(main())
