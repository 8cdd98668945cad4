"""Class names and palettes of mmsegmentation, read from the installed package."""

import ast
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple

from harness.system.errors import ConfigurationError


class Metainfo(NamedTuple):
    """The classes of a data set of mmsegmentation.

    Attributes:
        names: Class names in the order of their labels, unchanged.
        palette: (R, G, B) in [0, 255] per class.
    """

    names: tuple[str, ...]
    palette: tuple[tuple[int, int, int], ...]


@lru_cache
def metainfo(module: str, dataset: str) -> Metainfo:
    """``METAINFO`` of ``mmseg.datasets.<module>.<dataset>``.

    Parsed from the source: importing mmseg takes seconds and needs compiled operators and GPU libraries.

    Raises:
        ConfigurationError: mmsegmentation is not installed, or has no such class.
    """
    package = find_spec("mmseg")
    if package is None or package.origin is None:
        raise ConfigurationError(
            "class names come from mmsegmentation, which is not installed: pip install onedl-mmsegmentation"
        )
    path = Path(package.origin).parent / "datasets" / f"{module}.py"
    try:
        tree = ast.parse(path.read_text(encoding="utf-8"))
        values = _metainfo_keywords(tree, dataset)
        palette = tuple((int(red), int(green), int(blue)) for red, green, blue in values["palette"])
        return Metainfo(tuple(values["classes"]), palette)
    except (OSError, KeyError, ValueError, SyntaxError) as error:
        raise ConfigurationError(f"the installed mmsegmentation has no class names of {dataset} in {path}") from error


def _metainfo_keywords(tree: ast.Module, dataset: str) -> dict[str, list]:
    """The keywords of ``METAINFO = dict(...)`` in the class ``dataset``.

    Raises:
        KeyError: There is no such assignment.
    """
    for node in tree.body:
        if isinstance(node, ast.ClassDef) and node.name == dataset:
            for statement in node.body:
                if (
                    isinstance(statement, ast.Assign)
                    and isinstance(statement.targets[0], ast.Name)
                    and statement.targets[0].id == "METAINFO"
                    and isinstance(statement.value, ast.Call)
                ):
                    return {str(item.arg): ast.literal_eval(item.value) for item in statement.value.keywords}
    raise KeyError(dataset)
