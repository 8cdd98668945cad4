"""Print the rooms of the repository and which imports which, as Markdown: `python docs/rooms.py`.

With `--write FILE` the output replaces what stands between the two markers in the file, as in docs/architecture.md.
"""

import argparse
from collections import Counter, defaultdict
from pathlib import Path

import grimp

REPOSITORY = Path(__file__).parent.parent
PACKAGES = ("harness", "methods", "datamodules", "miniature")
# Packages whose folders and files are rooms of their own; the others are one room each.
SPLIT = ("harness", "methods")
BEGIN, END = "<!-- begin: python docs/rooms.py -->", "<!-- end -->"


def room_of(module: str) -> str:
    """The room of a module: ``harness.data`` of ``harness.data.protocol``, ``datamodules`` of ``datamodules.voc``."""
    package, *rest = module.split(".")
    return f"{package}.{rest[0]}" if rest and package in SPLIT else package


def arrows(graph: grimp.ImportGraph) -> dict[str, set[str]]:
    """Which rooms each room imports, itself left out."""
    imported: dict[str, set[str]] = defaultdict(set)
    for module in graph.modules:
        room = room_of(module)
        imported[room] |= {room_of(other) for other in graph.find_modules_directly_imported_by(module)} - {room}
    return imported


def line_counts(graph: grimp.ImportGraph) -> tuple[Counter[str], Counter[str]]:
    """Files and lines per room."""
    files: Counter[str] = Counter()
    lines: Counter[str] = Counter()
    for module in graph.modules:
        path = REPOSITORY / module.replace(".", "/")
        source = path / "__init__.py" if path.is_dir() else path.with_suffix(".py")
        files[room_of(module)] += 1
        lines[room_of(module)] += len(source.read_text().splitlines())
    return files, lines


def floors(imported: dict[str, set[str]]) -> dict[str, int]:
    """The longest way down from each room; no room may lie on a circle.

    Raises:
        SystemExit: Rooms import each other in a circle.
    """
    floor: dict[str, int] = {}
    while left := imported.keys() - floor.keys():
        ready = [room for room in left if imported[room] <= floor.keys()]
        if not ready:
            raise SystemExit(f"a circle among {', '.join(sorted(left))}")
        floor |= {room: 1 + max((floor[other] for other in imported[room]), default=-1) for room in ready}
    return floor


def reachable(imported: dict[str, set[str]], room: str) -> set[str]:
    """All rooms below a room."""
    direct = imported[room]
    return direct.union(*(reachable(imported, other) for other in direct))


def render(graph: grimp.ImportGraph) -> str:
    """The table of rooms, from the top floor to the ground, and the drawing."""
    imported = arrows(graph)
    files, lines = line_counts(graph)
    floor = floors(imported)
    ordered = sorted(imported, key=lambda room: (PACKAGES.index(room.split(".")[0]), -floor[room], room))
    rows = ["| room | files | lines | imports |", "|---|---:|---:|---|"]
    for room in ordered:
        others = ", ".join(other for other in ordered if other in imported[room])
        rows.append(f"| {room} | {files[room]} | {lines[room]} | {others or '-'} |")
    for package in PACKAGES:
        total = sum(lines[room] for room in ordered if room.split(".")[0] == package)
        rows.append(f"| **{package}** | | **{total}** | |")
    drawing = ["```mermaid", "flowchart TD"]
    # The packages' own files only re-export; an arrow that follows from others is not drawn.
    drawn = [room for room in ordered if room not in SPLIT]
    for room in drawn:
        implied = set().union(*(reachable(imported, other) for other in imported[room]))
        drawing += [f"    {room} --> {other}" for other in drawn if other in imported[room] - implied]
    return "\n".join([*rows, "", *drawing, "```"])


def main() -> None:
    """Print the rooms, or write them into a file."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--write", type=Path, help="file whose marked part is replaced")
    file = parser.parse_args().write
    text = render(grimp.build_graph(*PACKAGES, cache_dir=None))
    if file is None:
        print(text)
        return
    before, rest = file.read_text().split(BEGIN)
    file.write_text(f"{before}{BEGIN}\n\n{text}\n\n{END}{rest.split(END)[1]}")


if __name__ == "__main__":
    main()
