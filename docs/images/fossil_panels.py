"""Draws ``fossil_panels.png``: images, OpenCut's regions, FOSSIL with and without them, ground truth.

Usage: ``python docs/images/fossil_panels.py [--scenes 0 1 2 3 4] [--out docs/images/fossil_panels.png]``, with the
collection of ``configs/experiments/fossil_miniature.yaml`` in the store.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

import matplotlib
import numpy as np
import torch
from jsonargparse import Namespace
from matplotlib import pyplot as plt
from matplotlib.patches import Patch

from harness.artifacts.precompute import precompute
from harness.artifacts.store import ArtifactStore
from harness.commands import evaluate
from harness.commands.arguments import instantiate
from methods.fossil.method import FOSSIL

EXPERIMENT = ["--config", "configs/experiments/fossil_miniature.yaml"]
OPENCUT = ["--method.regions", "configs/models/miniature_opencut.yaml"]


def ready(flags: Sequence[str]) -> tuple[FOSSIL, Namespace]:
    """The method with its bank, and what else the flags describe."""
    built = evaluate.parser()
    made = instantiate(built, built.parse_args([*EXPERIMENT, *flags]))
    method: FOSSIL = made.method
    method.make_ready(made.data.vocabulary, made.protocol)
    method.store = ArtifactStore()
    precompute(method, method.store)
    method.prepare()
    return method, made


@torch.inference_mode()
def main() -> None:
    """Draw them."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--scenes", type=int, nargs="+", default=[0, 1, 2, 3, 4])
    parser.add_argument("--out", type=Path, default=Path("docs/images/fossil_panels.png"))
    arguments = parser.parse_args()
    matplotlib.use("Agg")
    (with_regions, made), (without, _) = ready(OPENCUT), ready([])
    assert with_regions.regions is not None
    data, vocabulary = made.data, made.data.vocabulary
    data.plan(made.protocol, arguments.scenes)
    colours, kinds = np.array(vocabulary.palette), set()
    shades = matplotlib.colormaps["tab20"](np.arange(20))[:, :3]
    samples = [sample for batch in data.predict_dataloader() for sample in batch]
    figure, axes = plt.subplots(len(samples), 5, figsize=(10, 2 * len(samples)), squeeze=False)
    for sample, row in zip(samples, axes, strict=True):
        image = sample.original.permute(1, 2, 0).numpy()
        regions = with_regions.regions.masks(sample.original).numpy()
        shown = image // 4
        for number, region in enumerate(regions):
            shown[region] = 255 * shades[number % len(shades)]
        maps = [with_regions.predict_image(sample), without.predict_image(sample), sample.labels]
        kinds |= {int(value) for each in maps for value in each.unique()} - {255}
        for axis, panel in zip(row, [image, shown, *(colours[each.numpy()] for each in maps)], strict=True):
            axis.imshow(panel)
    titles = ["image", "OpenCut's regions", "FOSSIL with OpenCut", "FOSSIL with patches", "ground truth"]
    for axis, title in zip(axes[0], titles, strict=True):
        axis.set_title(title, fontsize=10)
    for axis in axes.flat:
        axis.set_axis_off()
    legend = [Patch(color=colours[kind] / 255, label=vocabulary.names[kind]) for kind in sorted(kinds)]
    figure.legend(handles=legend, loc="lower center", ncols=9, fontsize=8, frameon=False)
    figure.tight_layout(rect=(0, 0.06, 1, 1))
    figure.savefig(arguments.out, dpi=80)


if __name__ == "__main__":
    main()
