"""MaskCut's fast mode against its reference mode: CPU seconds, their ratio, and how alike the masks are.

Feature maps have elliptic regions planted over a ground, a smooth drift in a few dimensions and noise, so that many
cosines lie near the threshold; or, with ``--scenes``, are Miniature's DINO on Miniature's scenes, enlarged to 60x60
patches. Both modes run on each map, one thread.

Usage: ``OMP_NUM_THREADS=1 python benchmarks/maskcut.py [--maps 50] [--grid 60 60] [--dim 768] [--stages 3]``
       ``OMP_NUM_THREADS=1 python benchmarks/maskcut.py --scenes --maps 10 --tau 0.7``
"""

import argparse
import time

import torch
import torch.nn.functional as F
from torch import Tensor

from methods.backbones.dense import HubViT
from methods.backbones.pixels import resize
from methods.regions.maskcut import maskcut
from miniature.world import scene


def planted(seed: int, grid: tuple[int, int], dim: int) -> Tensor:
    """[dim, rows, columns] float32: 2 to 6 regions, drift and noise of a strength that differs from map to map."""
    generator = torch.Generator().manual_seed(seed)

    def uniform(low: float, high: float) -> float:
        return low + (high - low) * torch.rand((), generator=generator).item()

    rows, columns = torch.arange(grid[0])[:, None] / grid[0], torch.arange(grid[1]) / grid[1]
    features = torch.randn(dim, 1, 1, generator=generator).repeat(1, *grid)
    for _ in range(2 + int(5 * uniform(0, 1))):
        down = (rows - uniform(0, 1)) / uniform(0.08, 0.25)
        right = (columns - uniform(0, 1)) / uniform(0.08, 0.25)
        features[:, down**2 + right**2 < 1] = torch.randn(dim, 1, generator=generator)
    drift = F.interpolate(torch.randn(1, 24, 6, 6, generator=generator), grid, mode="bicubic")[0]
    directions = torch.randn(dim, 24, generator=generator) / 24**0.5
    features += uniform(0.5, 1.5) * torch.einsum("dk,khw->dhw", directions, drift)
    return features + uniform(0.7, 2) * torch.randn(dim, *grid, generator=generator)


@torch.no_grad()
def scene_features(backbone: HubViT, index: int, grid: tuple[int, int]) -> Tensor:
    """[D, rows, columns]: tokens of a validation scene."""
    image = torch.from_numpy(scene("val", index).image).permute(2, 0, 1)
    side = backbone.patch_size
    return backbone.features(resize(image[None], (grid[0] * side, grid[1] * side)), "token").patches[0]


def agreement(one: Tensor, other: Tensor) -> float:
    """Mean over stages of the IoU of two [stages, rows, columns] bool; two empty masks agree."""
    overlap, union = (one & other).flatten(1).sum(dim=1), (one | other).flatten(1).sum(dim=1)
    return torch.where(union > 0, overlap / union.clamp(min=1), torch.ones(())).mean().item()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--maps", type=int, default=50)
    parser.add_argument("--first", type=int, default=0, help="number of the first map, to resume where it was stopped")
    parser.add_argument("--grid", type=int, nargs=2, default=(60, 60))
    parser.add_argument("--dim", type=int, default=768)
    parser.add_argument("--stages", type=int, default=3)
    parser.add_argument("--tau", type=float, default=0.15)
    parser.add_argument("--scenes", action="store_true", help="Miniature's scenes; --dim is that of its DINO")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    backbone = HubViT("./miniature/weights/dino")
    if arguments.scenes:
        backbone.load()
        arguments.dim = backbone.dim
    grid = (arguments.grid[0], arguments.grid[1])
    seconds: dict[str, list[float]] = {"reference": [], "fast": []}
    alike = []
    for seed in range(arguments.first, arguments.first + arguments.maps):
        features = scene_features(backbone, seed, grid) if arguments.scenes else planted(seed, grid, arguments.dim)
        masks = {}
        for mode in seconds:
            start = time.process_time()
            masks[mode] = maskcut(features, arguments.stages, arguments.tau, mode)  # type: ignore[arg-type]
            seconds[mode].append(time.process_time() - start)
        alike.append(agreement(masks["reference"], masks["fast"]))
        print(
            f"map {seed}: reference {seconds['reference'][-1]:.2f} s, fast {seconds['fast'][-1]:.3f} s, "
            f"IoU {alike[-1]:.4f}, patches {masks['reference'].flatten(1).sum(dim=1).tolist()}",
            flush=True,
        )
    slow, fast = (torch.tensor(seconds[mode]) for mode in ("reference", "fast"))
    print(
        f"{arguments.maps} maps of {arguments.grid}, {arguments.dim}-d, N = {arguments.stages}, 1 thread, CPU seconds"
    )
    print(
        f"reference {slow.mean():.2f} s, fast {fast.mean():.3f} s a map: {slow.sum() / fast.sum():.1f} times faster "
        f"(least {(slow / fast).min():.1f})"
    )
    print(f"mean IoU {sum(alike) / len(alike):.4f}, least {min(alike):.4f}")


if __name__ == "__main__":
    main()
