"""What several subcommands ask for: a method, data, a protocol, a Trainer; and errors in one sentence."""

import inspect
import re
from collections.abc import Iterable
from importlib import import_module
from typing import Any, NoReturn

from jsonargparse import ArgumentParser, Namespace
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import Trainer

from harness.data import SegmentationData
from harness.errors import ConfigurationError, OvsegError, did_you_mean
from harness.method import SegmentationMethod
from harness.plugins import DATA, METHODS, import_paths
from harness.protocol import Protocol

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


class Parser(ArgumentParser):
    """A parser whose errors are one sentence."""

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        """Raise instead of printing usage and exiting.

        Raises:
            ConfigurationError: Always.
        """
        raise ConfigurationError(f"{sentence(message, self._known())} (see {self.prog} --help)") from ex

    def _known(self) -> list[str]:
        return [action.dest for action in self._actions]


def _parameters(class_path: str) -> Iterable[str]:
    """The constructor arguments of a class that an error message names; none if it cannot be imported."""
    module, _, name = class_path.rpartition(".")
    try:
        return list(inspect.signature(getattr(import_module(module), name)).parameters)
    except (ImportError, AttributeError, ValueError):
        return []


def sentence(message: str, known: Iterable[str] = ()) -> str:
    """The heart of a jsonargparse message, which may span many lines: which key, what is wrong with it."""
    keys = re.findall(r'Parser key "([^"]+)"', message)
    key = ".".join(dict.fromkeys(keys))
    classes = re.findall(r"class_path '([^']+)'", message)
    unknown = re.search(r"(?:Option|option) '([^']+)'(?: is not accepted)?", message)
    if unknown and "accept" in message:
        group = re.search(r"Group '([^']+)'", message)
        option = unknown[1]
        if classes:
            hint = did_you_mean(option, _parameters(classes[-1]))
        else:
            prefix = f"{group[1]}." if group else ""
            hint = did_you_mean(f"{prefix}{option}", known)
        where = ".".join(part for part in (key, group[1] if group else "", option) if part)
        return f"unknown key '{where}'" + (f" of {classes[-1]}" if classes else "") + hint
    missing = re.search(r"File does not exist: '([^']+)'", message)
    if missing:
        return f"the file {missing[1]} ({key or 'config'}) does not exist"
    module = re.search(
        r"No module named '([^']+)'|has no attribute '([^']+)'|Expected a dot import path string: (\S+)", message
    )
    if module or "Not a valid subclass" in message or "not a subclass" in message:
        value = (re.findall(r"Given value: (.+)", message) or classes or [""])[-1]
        return f"{key}: '{classes[-1] if classes else value}' is not a class that can be imported and used here"
    expected = [e for e in re.findall(r"(Expected .+?)(?:\n|$)", message) if "NoneType" not in e]
    if expected and key:
        value = (re.findall(r"Given value: (.+)", message) or [""])[0]
        return f"{key}: {expected[-1][0].lower()}{expected[-1][1:]}, not {value}"
    return " ".join(message.split())


def add_composition(parser: ArgumentParser, data_required: bool = True) -> None:
    """``--config``, ``--method``, ``--data``, ``--protocol`` and ``--trainer``."""
    parser.add_argument("--config", action="config", help="YAML file; may be repeated, later ones win, flags win last")
    parser.add_subclass_arguments(
        SegmentationMethod, "method", required=True, help="method: import path, entry point or YAML file"
    )
    parser.add_subclass_arguments(
        SegmentationData, "data", required=data_required, help="data: import path, entry point or YAML file"
    )
    parser.add_class_arguments(Protocol, "protocol", sub_configs=True)
    skip = set(inspect.signature(Trainer.__init__).parameters) - TRAINER - {"self"}
    parser.add_class_arguments(Trainer, "trainer", skip=skip, instantiate=False)
    parser.add_argument("--seed", type=int, default=0, help="seed of everything random")


def resolve_entry_points(arguments: list[str]) -> list[str]:
    """Replace ``--method NAME`` and ``--data NAME`` by the import path that an entry point gives the name."""
    resolved = list(arguments)
    for flag, group in (("--method", METHODS), ("--data", DATA)):
        paths = import_paths(group)
        for position, argument in enumerate(resolved):
            name, equals, value = argument.partition("=")
            if name == flag and equals and value in paths:
                resolved[position] = f"{flag}={paths[value]}"
            elif argument == flag and position + 1 < len(resolved):
                resolved[position + 1] = paths.get(resolved[position + 1], resolved[position + 1])
    return resolved


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
