"""What is wrong with an argument, in one sentence: from jsonargparse's messages, which may span many lines."""

import inspect
import re
from collections.abc import Iterable
from pathlib import Path
from pkgutil import resolve_name

from harness.system.errors import did_you_mean
from harness.system.plugins import DATA, METHODS, find_plugins

# Entry points that name a value of these keys, and what such a value is.
NAMED = {"method": (METHODS, "method"), "data": (DATA, "data set")}


def sentence(message: str, known: Iterable[str] = ()) -> str:
    """Which key, and what is wrong with it.

    Args:
        message: jsonargparse's.
        known: The keys that there are, for a hint.
    """
    known = list(known)
    key = ".".join(dict.fromkeys(re.findall(r'Parser key "([^"]+)"', message)))
    owner = re.findall(r"class_path '([^']+)'", message)
    for found in (
        _unknown_flag(message, known),
        _unknown_key(message, key, owner, known),
        _missing_argument(message, key, owner),
        _file(message, key),
        _name(message, key),
        _class(message, key),
        _type(message, key),
    ):
        if found:
            return found
    return " ".join(message.split())


def _unknown_flag(message: str, known: list[str]) -> str | None:
    flags = re.match(r"unrecognized arguments: (.+)", message, re.DOTALL)
    if not flags:
        return None
    first = next((part for part in flags[1].split() if part.startswith("--")), flags[1].split()[0])
    name = first.partition("=")[0]
    return f"unknown argument {name}" + did_you_mean(name, [f"--{each}" for each in known])


def _unknown_key(message: str, key: str, owner: list[str], known: list[str]) -> str | None:
    option = re.search(r"[Oo]ption '([^']+)'", message)
    if not option or "accept" not in message:
        return None
    group = re.search(r"Group '([^']+)'", message)
    where = ".".join(part for part in (key, group[1] if group else "", option[1]) if part)
    if owner:
        return f"unknown key '{where}' of {owner[-1]}{did_you_mean(option[1], _parameters(owner[-1]))}"
    return f"unknown key '{where}'{did_you_mean(where, known)}"


def _parameters(class_path: str) -> list[str]:
    """The constructor arguments of a class that a message names; none if it cannot be imported."""
    try:
        return list(inspect.signature(resolve_name(class_path)).parameters)
    except (ImportError, AttributeError, ValueError):
        return []


def _missing_argument(message: str, key: str, owner: list[str]) -> str | None:
    names = re.search(r"following arguments are required: (.+)", message)
    if not names:
        return None
    missing = [f"{key}.{name}" if key else name for name in names[1].split(", ")]
    plural = "are" if len(missing) > 1 else "is"
    return f"{', '.join(missing)} {plural} missing" + (f" (of {owner[-1]})" if owner else "")


def _file(message: str, key: str) -> str | None:
    damaged = re.search(r"Invalid content in sub-config file (.+?): (.+?)\n", message)
    if damaged:
        return f"{key}: the file {damaged[1]} is no valid YAML: {damaged[2]}"
    if match := re.search(r"Problems parsing config: (.+?)(?:\n|$)", message):
        return f"no valid YAML: {match[1]}"
    if match := re.search(r"Unexpected config: (.+?)(?:\n|$)", message):
        return f"a configuration is a mapping of keys to values, not {match[1]}"
    named = re.search(r"File does not exist: '([^']+)'|Unable to load config '([^']+)'", message)
    path = (named[1] or named[2]) if named else ""
    if not named and (given := re.search(r"Expected a path but (.+?) either not accessible or invalid", message)):
        # What ends like a file, or has a folder in front, was not meant as the name of a class.
        path = given[1] if given[1].endswith((".yaml", ".yml")) or "/" in given[1] else ""
    if not path:
        return None
    if Path(path).is_file():
        return f"{key}: the file {path} is no valid YAML: {' '.join(message.split(' - ', 1)[-1].split())}"
    return f"{key or 'config'}: the file {path} does not exist"


def unknown_name(kind: str, name: str, names: Iterable[str]) -> str:
    """``there is no KIND 'NAME' (did you mean 'x'?); KINDs: x, y``.

    Args:
        kind: What is named, in the singular.
        name: The name that does not exist.
        names: All names that exist.
    """
    names = sorted(names)
    return f"there is no {kind} '{name}'{did_you_mean(name, names)}; {kind}s: {', '.join(names) or 'none'}"


def _name(message: str, key: str) -> str | None:
    """A method or data set that no entry point names; a dot makes it an import path."""
    name = re.search(r"Expected a dot import path string: ([^\s.]+)(?:\n|$)", message)
    key = (key or message.partition(":")[0].strip("- ")).removesuffix(".help")
    if not name or key not in NAMED:
        return None
    group, kind = NAMED[key]
    return unknown_name(kind, name[1], find_plugins(group))


def _class(message: str, key: str) -> str | None:
    reason = re.search(
        r"(No module named '[^']+'|module '\S+' has no attribute '[^']+'|cannot import name \S+)"
        r"|Expected a dot import path string"
        r"|(not correspond to a subclass of \w+)|not a subclass|Not a valid subclass",
        message,
    )
    if not reason:
        return None
    values = re.findall(r"class_path '([^']+)'|Expected a dot import path string: (\S+)|Given value: (.+)", message)
    value = next((part for part in values[-1] if part), "") if values else ""
    key = key or message.partition(":")[0].strip("- ")
    why = f" ({reason[1]})" if reason[1] else f" (it does {reason[2]})" if reason[2] else ""
    return f"{key}: '{value}' is not a class that can be imported and used here{why}"


def _type(message: str, key: str) -> str | None:
    expected = re.findall(r"(Expected .+?|Invalid .+?|must be .+?)(?:\. Got value: (.+?))?(?:\n|$)", message)
    wanted = [(text, value) for text, value in expected if "NoneType" not in text]
    if not wanted or not key:
        return None
    text, value = wanted[-1]
    if not value:
        value = (re.findall(r"Given value: (.+)", message) or ["what is given"])[0]
    text = re.sub(r"<class '(?:\w+\.)*(\w+)'>", r"\1", text)
    text = re.sub(r"typing\.Literal\[(.+?)\]", r"one of \1", text).replace("a one of", "one of")
    return f"{key}: {text[0].lower()}{text[1:]}, not {value}"
