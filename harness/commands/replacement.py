"""Settings that replace others: a part that is given anew is the new one whole, with nothing left of the old one."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml
from jsonargparse import ActionConfigFile, ArgumentParser, Namespace  # type: ignore[attr-defined]

SUFFIXES = (".yaml", ".yml", ".json")


class ConfigFile(ActionConfigFile):
    """``--config``: what a file replaces is taken away before the file is merged."""

    def __call__(self, parser: Any, cfg: Any, values: Any, option_string: str | None = None) -> None:
        """Called for every file, in their order on the command line."""
        content, folder = _content(values, Path())
        if isinstance(content, Mapping):
            for key, value in content.items():
                replace(parser, cfg, [str(key)], value, folder)
        super().__call__(parser, cfg, values, option_string)  # type: ignore[no-untyped-call]


class Replacing:
    """An argument such as ``--method``, and what is below it, whose values replace what they are given for."""

    def __call__(self, *arguments: Any, **settings: Any) -> Any:
        """Called with nothing but settings when it is added, and for every use on the command line."""
        if arguments:
            parser, cfg, value, option = arguments
            option = str(option).lstrip("-").rstrip("+")
            arguments = (parser, cfg, *_through_mappings(cfg, option, value))
            if not str(arguments[3]).endswith("+"):
                replace(parser, cfg, str(arguments[3]).lstrip("-").split("."), arguments[2], Path())
        return super().__call__(*arguments, **settings)  # type: ignore[misc]


def make_replacing(parser: ArgumentParser, *names: str) -> None:
    """Let these arguments of a parser, which were added before, replace instead of merge."""
    for action in parser._actions:
        if action.dest in names:
            kind = type(action)
            action.__class__ = type(f"Replacing{kind.__name__}", (Replacing, kind), {})


def replace(parser: Any, cfg: Any, path: list[str], value: Any, folder: Path) -> None:
    """Take away what a value replaces, before it is merged.

    A value that names a class or a file is whole. One without ``class_path`` changes single settings of what is
    there; of a mapping of parts, each is looked at by itself.

    Args:
        parser: Knows the defaults of a group of settings, such as the protocol's.
        cfg: All settings so far; changed in place.
        path: Where the value is put, such as ``method``, ``extractors``, ``clip``.
        value: As on the command line or in a file.
        folder: Files in the value are relative to it.
    """
    holder: Any = cfg
    for name in (name for name in path[:-1] if name != "init_args"):
        holder = _settings(holder).get(name)
        if not isinstance(holder, (Namespace, dict)):
            return
    settings, name = _settings(holder), path[-1]
    if name == "class_path":
        replace(parser, cfg, path[:-1], {"class_path": value}, folder)
        return
    if name not in settings:
        return
    is_file = _is_file(value, folder)
    value, folder = _content(value, folder)
    if isinstance(value, Mapping) and "class_path" not in value and not (is_file and _is_group(settings[name])):
        inner = value["init_args"] if isinstance(value.get("init_args"), Mapping) else value
        for key, item in inner.items():
            replace(parser, cfg, [*path, str(key)], item, folder)
    elif len(path) == 1 and _is_group(settings[name]):
        if is_file:
            settings[name] = parser.get_defaults()[name]
    elif isinstance(settings[name], (Namespace, dict, list)):
        settings.pop(name)


def _settings(holder: Any) -> Any:
    """What holds the settings of a part, or the entries of a mapping."""
    held = holder.get("init_args") if isinstance(holder, (Namespace, dict)) and "class_path" in holder else holder
    return {} if held is None else held


def _is_group(value: Any) -> bool:
    """Whether these are the settings of a fixed class, such as the protocol, and not a part."""
    return isinstance(value, Namespace) and "class_path" not in value


def _is_file(value: Any, folder: Path) -> bool:
    return isinstance(value, str) and value.endswith(SUFFIXES) and (folder / value).is_file()


def _content(value: Any, folder: Path) -> tuple[Any, Path]:
    """A value as YAML gives it, read from a file if it names one, and the folder that its own files lie in."""
    if not isinstance(value, (str, Path)):
        return value, folder
    path = folder / value
    try:
        if path.suffix in SUFFIXES and path.is_file():
            return yaml.safe_load(path.read_text(encoding="utf-8")), path.parent
        return yaml.safe_load(str(value)), folder
    except (OSError, UnicodeDecodeError, yaml.YAMLError):
        return value, folder  # the parser says what is wrong


def _through_mappings(cfg: Any, option: str, value: Any) -> tuple[Any, str]:
    """A part of a mapping of parts by its name, as the mapping whole: the parser opens files only there.

    Args:
        cfg: All settings so far.
        option: Such as ``method.extractors.clip``.
        value: As on the command line.

    Returns:
        The value and the option that it is for.
    """
    names, holder = option.split("."), cfg
    for place, name in enumerate(names[:-1]):
        if name == "init_args":
            continue
        holder = _settings(holder).get(name)
        if isinstance(holder, dict) and "class_path" not in holder:
            if not _is_file(value, Path()):
                break
            for inner in reversed([key for key in names[place + 2 :] if key != "init_args"]):
                value = {"init_args": {inner: value}}
            return {**holder, names[place + 1]: value}, "--" + ".".join(names[: place + 1])
        if not isinstance(holder, (Namespace, dict)):
            break
    return value, "--" + option
