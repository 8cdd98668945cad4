"""Discovery of methods and data modules, ours and other packages', by entry point."""

from importlib.metadata import EntryPoint, entry_points

METHODS, DATA = "ovseg.methods", "ovseg.datamodules"


def find_plugins(group: str) -> dict[str, EntryPoint]:
    """The entry points of ``group`` by name, ascending."""
    return {point.name: point for point in sorted(entry_points(group=group), key=lambda point: point.name)}


def import_paths(group: str) -> dict[str, str]:
    """``name -> package.module.Class`` for every plug-in of ``group``."""
    return {name: point.value.replace(":", ".") for name, point in find_plugins(group).items()}
