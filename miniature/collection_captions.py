"""Captions for a reference collection: what people say of the small world's pictures, none of which was trained on.

``python -m miniature.collection_captions`` writes the file that the repository ships.
"""

from __future__ import annotations

import argparse
import os
from pathlib import Path

from miniature.painting.album import picture

FILE = Path(__file__).parent / "collection_captions.txt"
COUNT = 3000
# The painter's pictures have lower numbers, those that its autoencoder is measured with begin at ten million.
START = 20_000_000


def captions(count: int = COUNT) -> list[str]:
    """The captions of some pictures, as the painter's were written: of scenes, and of one thing or stuff alone."""
    return [picture(START + index)[2] for index in range(count)]


def write(path: Path = FILE, count: int = COUNT) -> None:
    """Write captions to a text file, one a line; it appears at once."""
    part = path.with_name(f"{path.name}.part")
    part.write_text("".join(f"{caption}\n" for caption in captions(count)), encoding="utf-8")
    os.replace(part, path)


def main(arguments: list[str] | None = None) -> None:
    """Run the command."""
    top = argparse.ArgumentParser(prog="python -m miniature.collection_captions", description="Write captions.")
    top.add_argument("path", nargs="?", type=Path, default=FILE, help="default: %(default)s")
    top.add_argument("--count", type=int, default=COUNT, help="number of captions (default: %(default)s)")
    options = top.parse_args(arguments)
    write(options.path, options.count)


if __name__ == "__main__":
    main()
