"""Rooms of the code and the arrows between them, read from the imports.

    python docs/rooms.py           prints docs/architecture.md

``lint-imports`` (part of ``make lint``) holds the arrows to the contracts in pyproject.toml.
"""

from collections import Counter
from pathlib import Path

import grimp

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = ("harness", "methods", "datamodules", "miniature")
# Packages whose folders are rooms of their own; the others are one room each.
HOUSES = ("harness", "methods")


def room_of(module: str) -> str:
    """``harness.engine.evaluation`` -> ``harness.engine``; files that lie beside the rooms belong to the package."""
    package, *rest = module.split(".")
    folder = ROOT.joinpath(*module.split(".")[:2])
    return f"{package}.{rest[0]}" if package in HOUSES and rest and folder.is_dir() else package


def arrows() -> Counter[tuple[str, str]]:
    """How many imports lead from one room to another."""
    graph = grimp.build_graph(*PACKAGES)
    found: Counter[tuple[str, str]] = Counter()
    for module in graph.modules:
        for imported in graph.find_modules_directly_imported_by(module):
            pair = room_of(module), room_of(imported)
            if pair[0] != pair[1]:
                found[pair] += 1
    return found


def lines() -> Counter[str]:
    """Lines of Python per room."""
    found: Counter[str] = Counter()
    for package in PACKAGES:
        for file in sorted((ROOT / package).rglob("*.py")):
            module = ".".join(file.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
            found[room_of(module)] += len(file.read_text(encoding="utf-8").splitlines())
    return found


def drawing(pairs: Counter[tuple[str, str]]) -> str:
    """The arrows inside ``harness``, as Mermaid draws them."""
    inside = sorted((a, b) for a, b in pairs if a.startswith("harness.") and b.startswith("harness."))
    rows = [f"    {start.split('.')[1]} --> {end.split('.')[1]}" for start, end in inside]
    return "\n".join(["```mermaid", "flowchart TD", *rows, "```"])


def page() -> str:
    """``docs/architecture.md``."""
    pairs, counts = arrows(), lines()
    table = ["| room | lines | imports from |", "| --- | ---: | --- |"]
    for room in sorted(counts):
        targets = sorted({end for start, end in pairs if start == room})
        table.append(f"| `{room}` | {counts[room]} | {', '.join(f'`{target}`' for target in targets)} |")
    return "\n".join(
        [
            "# Rooms and arrows",
            "",
            "Written by `python docs/rooms.py > docs/architecture.md`. `make lint` fails on an arrow that",
            "the contracts in `pyproject.toml` do not allow, and on a circle.",
            "",
            drawing(pairs),
            "",
            *table,
        ]
    )


if __name__ == "__main__":
    print(page())
