"""Captions of Miniature images for a reference collection; none of these images is used in training.

``python -m miniature.collection_captions`` writes the file that the repository ships.
"""

from __future__ import annotations

import argparse
import os
from pathlib import Path

from miniature.generation.captioned_images import training_image

FILE = Path(__file__).parent / "collection_captions.txt"
COUNT = 3000
# Training images of the diffusion model have lower indices; those that evaluate its autoencoder start at ten million.
START = 20_000_000


def captions(count: int = COUNT) -> list[str]:
    """Captions in the style of the diffusion model's training captions: of scenes, and of a single thing or stuff."""
    return [training_image(START + index)[2] for index in range(count)]


def write(path: Path = FILE, count: int = COUNT) -> None:
    """Write captions to a text file, one a line; the write is atomic."""
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
