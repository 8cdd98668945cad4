"""What several subcommands ask for: a method, data, a protocol, a Trainer; and errors in one sentence."""

import argparse
import inspect
import os
import re
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any, NoReturn

from jsonargparse import ArgumentParser, Namespace
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import Trainer

from harness.commands.mistakes import sentence, unknown_name
from harness.commands.replacement import ConfigFile, make_replacing
from harness.data.datamodule import SegmentationData
from harness.data.protocol import Protocol
from harness.method.method import SegmentationMethod
from harness.system.errors import ConfigurationError, OvsegError
from harness.system.plugins import DATA, METHODS, import_paths

# What of the Trainer has a meaning without training; the rest would only bury these in --help.
TRAINER = {
    "accelerator",
    "strategy",
    "devices",
    "num_nodes",
    "precision",
    "deterministic",
    "benchmark",
    "profiler",
    "plugins",
    "default_root_dir",
}

PROTOCOLS = Path("configs") / "protocols"
# No path, no file and no inline YAML.
PROTOCOL_NAME = re.compile(r"(?!.*\.ya?ml$)[\w.-]+")
STORE_HELP = "folder of the artifact store (default: $OVSEG_STORE or ~/.cache/ovseg)"


class Parser(ArgumentParser):
    """A parser whose errors are one sentence, and which takes no abbreviations: a wrong key must not pass as one."""

    def __init__(self, *arguments: Any, **settings: Any) -> None:
        super().__init__(*arguments, allow_abbrev=False, **settings)

    def parse_path(self, path: str | os.PathLike[str], *arguments: Any, **settings: Any) -> Namespace:
        """Parse a configuration file; what is wrong in it is said with its name."""
        try:
            return super().parse_path(path, *arguments, **settings)
        except ConfigurationError as error:
            raise ConfigurationError(f"{path}: {error}") from error

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        """Raise instead of printing usage and exiting.

        Raises:
            ConfigurationError: Always.
        """
        if not self.exit_on_error:
            # A parser of a nested class: the outermost one makes the sentence.
            super().error(message, ex)
        raise ConfigurationError(f"{sentence(message, self._known())} (see {self.prog} --help)") from ex

    def _known(self) -> list[str]:
        return [action.dest for action in self._actions]


class SentenceParser(argparse.ArgumentParser):
    """argparse's parser, which raises one sentence in the place of printing usage."""

    def error(self, message: str) -> NoReturn:
        """Raise the message.

        Raises:
            ConfigurationError: Always.
        """
        raise ConfigurationError(f"{message} (see {self.prog} --help)")


def add_composition(parser: ArgumentParser, data_required: bool = True) -> None:
    """``--config``, ``--method``, ``--data``, ``--protocol``, ``--trainer`` and ``--seed``."""
    parser.add_argument(
        "--config", action=ConfigFile, help="YAML file; may be repeated, later ones win, flags win last"
    )
    parser.add_subclass_arguments(
        SegmentationMethod, "method", required=True, help="method: import path, entry point or YAML file"
    )
    parser.add_subclass_arguments(
        SegmentationData, "data", required=data_required, help="data: import path, entry point or YAML file"
    )
    parser.add_class_arguments(Protocol, "protocol", sub_configs=True)
    make_replacing(parser, "method", "data", "protocol")
    skip = set(inspect.signature(Trainer.__init__).parameters) - TRAINER - {"self"}
    parser.add_class_arguments(Trainer, "trainer", skip=skip, instantiate=False)
    parser.add_argument("--seed", type=int, default=0, help="seed of everything random")


def resolve_names(arguments: list[str]) -> list[str]:
    """Replace the names of methods, data sets and protocols by import paths and files.

    ``--method NAME`` and ``--data NAME`` name entry points, ``--protocol NAME`` a file of ``PROTOCOLS``. Other values
    stay as they are.

    Raises:
        ConfigurationError: There is no protocol of this name.
    """
    resolved = list(arguments)
    for flag, group in (("--method", METHODS), ("--data", DATA)):
        _replace(resolved, (flag, f"{flag}.help", f"{flag}.class_path"), partial(_import_path, import_paths(group)))
    _replace(resolved, ("--protocol",), _protocol_path)
    return resolved


def _import_path(paths: Mapping[str, str], value: str) -> str:
    return paths.get(value, value)


def _protocol_path(value: str) -> str:
    return str(find_protocol(value)) if PROTOCOL_NAME.fullmatch(value) and not Path(value).is_file() else value


def _replace(arguments: list[str], flags: tuple[str, ...], replace: Callable[[str], str]) -> None:
    """Replace the values of these flags, ``FLAG VALUE`` and ``FLAG=VALUE``, in place."""
    for position, argument in enumerate(arguments):
        flag, equals, value = argument.partition("=")
        if flag in flags and equals:
            arguments[position] = f"{flag}={replace(value)}"
        elif argument in flags and position + 1 < len(arguments):
            arguments[position + 1] = replace(arguments[position + 1])


def find_protocol(name: str) -> Path:
    """The file of a protocol, by path or by name.

    Names are files of ``PROTOCOLS`` in the current folder and in the checkout that is installed; the former win.

    Raises:
        ConfigurationError: There is none.
    """
    if not PROTOCOL_NAME.fullmatch(name):
        if not Path(name).is_file():
            raise ConfigurationError(f"the protocol file {name} does not exist")
        return Path(name)
    folders = (Path(__file__).parents[2] / PROTOCOLS, PROTOCOLS)
    files = {path.stem: path for folder in folders for path in sorted(folder.glob("*.yaml"))}
    if name not in files:
        raise ConfigurationError(unknown_name("protocol", name, files))
    return files[name]


def plain(value: Any) -> Any:
    """A parsed setting as plain JSON values, without the paths of the files that it came from."""
    if isinstance(value, Namespace):
        value = vars(value)
    if isinstance(value, dict):
        return {key: plain(item) for key, item in value.items() if key not in ("__path__", "config")}
    if isinstance(value, (list, tuple, set, frozenset)):
        return [plain(item) for item in value]
    return value if isinstance(value, (str, int, float, bool, type(None))) else str(value)


def instantiate(parser: ArgumentParser, parsed: Namespace) -> Namespace:
    """Build the objects that the arguments describe.

    Raises:
        OvsegError: A constructor refuses its arguments.
    """
    try:
        return parser.instantiate(parsed)
    except OvsegError:
        raise
    except (TypeError, ValueError) as error:
        # jsonargparse wraps what a constructor says into what it tried itself.
        cause: BaseException | None = error
        while cause is not None:
            if isinstance(cause, OvsegError):
                raise cause from None
            cause = cause.__cause__ or cause.__context__
        raise ConfigurationError(" ".join(str(error).split())) from error


def make_trainer(settings: Namespace, callbacks: list[Any]) -> Trainer:
    """A Trainer for ``predict`` alone: no logger, no checkpoints, and sharding by the data module."""
    arguments = {key: value for key, value in vars(settings).items() if key in TRAINER}
    try:
        return Trainer(
            **arguments,
            callbacks=callbacks,
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            use_distributed_sampler=False,
        )
    except (MisconfigurationException, ValueError, TypeError, RuntimeError) as error:
        raise ConfigurationError(f"trainer: {' '.join(str(error).split())}") from error
