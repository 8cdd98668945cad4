"""Peak memory of scoring a 1024x2048 image with 19 and with 171 classes, each in a fresh process.

    python benchmarks/score_memory.py

Whole-resolution planes of all classes would take 1.4 GB for 171 classes; the engine stitches and compares them in
chunks. Everything is counted: Python, torch and its libraries, the image, the score maps, the planes. The method's
scores are random numbers at a sixteenth of the window's resolution, so that nothing but scoring is measured.
"""

import argparse
import json
import os
import resource
import subprocess
import sys
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from harness import Box, Protocol, Sample, ScoreMap, SegmentationMethod, Vocabulary

CLASSES = (19, 171)
LIMIT = 1.5


class Noise(SegmentationMethod):
    """Random scores."""

    name = "noise"

    def load(self) -> None:
        """There is nothing to load."""

    def encode(self, windows: Tensor, boxes: Sequence[Box], image: Any) -> Tensor:
        """[B, C, h / 16, w / 16] in [0, 1)."""
        count, _, height, width = windows.shape
        return torch.rand(count, len(self.vocabulary), height // 16, width // 16)

    def score(self, encoded: Tensor, boxes: Sequence[Box], context: Any) -> list[ScoreMap]:
        """As encoded."""
        return [ScoreMap(encoded)]


def resident() -> tuple[float, float]:
    """Resident memory of this process in MB: now, and at its peak."""
    with open("/proc/self/statm") as file:
        now = int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    return now / 1e6, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e6


def measure(classes: int, height: int, width: int) -> dict[str, float]:
    """Score one image in this process."""
    method = Noise()
    vocabulary = Vocabulary(tuple(f"class {index}" for index in range(classes)))
    # TCL's windows on an image that is not resized.
    method.bind(vocabulary, Protocol(name="memory", resize="none"))
    image = torch.randint(0, 256, (3, height, width), dtype=torch.uint8)
    before, _ = resident()
    with torch.inference_mode():
        labels = method.predict_image(Sample(0, "x", image, image, None, (height, width)))
    assert labels.shape == (height, width)
    _, peak = resident()
    return {"classes": classes, "before": before, "peak": peak}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--height", type=int, default=1024)
    parser.add_argument("--width", type=int, default=2048)
    parser.add_argument("--classes", type=int, help="measure this number in this process and print JSON")
    given = parser.parse_args()
    if given.classes is not None:
        print(json.dumps(measure(given.classes, given.height, given.width)))
        return 0
    size = ["--height", str(given.height), "--width", str(given.width)]
    found = []
    for classes in CLASSES:
        line = [sys.executable, __file__, *size, "--classes", str(classes)]
        found.append(json.loads(subprocess.run(line, check=True, capture_output=True, text=True).stdout))
    few, many = found
    print(f"one image of {given.height}x{given.width}, resident memory in MB")
    print(f"{'classes':>8} {'before':>8} {'peak':>8} {'growth':>8}")
    for each in found:
        print(f"{each['classes']:8} {each['before']:8.0f} {each['peak']:8.0f} {each['peak'] - each['before']:8.0f}")
    growth = (many["peak"] - many["before"]) / (few["peak"] - few["before"])
    print(f"   ratio {'':8} {many['peak'] / few['peak']:8.2f} {growth:8.2f}   (limit of both {LIMIT})")
    return int(max(many["peak"] / few["peak"], growth) >= LIMIT)


if __name__ == "__main__":
    sys.exit(main())
