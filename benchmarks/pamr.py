"""PAMR against a literal one, same image and planes, one thread: CPU seconds, their ratio, the largest difference.

Usage: ``OMP_NUM_THREADS=1 python benchmarks/pamr.py [--size 448] [--classes 21]``
"""

import argparse
import time

import torch
import torch.nn.functional as F
from torch import Tensor

from methods.refinement.pamr import DILATIONS, PAMR


def _gather(planes: Tensor, dilation: int, centre: bool) -> Tensor:
    """[B, h, w] -> [B, 8 or 9, h, w]: each pixel's neighbours by a convolution with one-hot kernels."""
    kernels = torch.eye(9).reshape(9, 1, 3, 3)
    if not centre:
        kernels = torch.cat([kernels[:4], kernels[5:]])
    padded = F.pad(planes[:, None], (dilation,) * 4, mode="replicate")
    return F.conv2d(padded, kernels.to(planes), dilation=dilation)


def literal_pamr(image: Tensor, planes: Tensor, iterations: int = 10, dilations: tuple[int, ...] = DILATIONS) -> Tensor:
    """PAMR written down as it is defined, all neighbours of all planes held at once, as released code does.

    Args:
        image: [3, h, w] float.
        planes: [C, h', w'] float.
        iterations: How often planes are averaged.
        dilations: Distances of the neighbours.

    Returns:
        [C, h, w].
    """
    planes = F.interpolate(planes[None], image.shape[1:], mode="bilinear", align_corners=True)[0]
    std = torch.cat([_gather(image, d, True) for d in dilations], dim=1).std(dim=1, keepdim=True)
    difference = (torch.cat([_gather(image, d, False) for d in dilations], dim=1) - image[:, None]).abs()
    affinity = (-difference / (1e-8 + 0.1 * std)).mean(dim=0).softmax(dim=0)
    for _ in range(iterations):
        planes = (torch.cat([_gather(planes, d, False) for d in dilations], dim=1) * affinity).sum(dim=1)
    return planes


def scene(size: int, generator: torch.Generator) -> Tensor:
    """[3, size, size] uint8: smooth colours with edges and noise."""
    coarse = torch.rand(1, 3, 12, 12, generator=generator)
    smooth = F.interpolate(coarse, (size, size), mode="bicubic")
    edges = F.interpolate((coarse.roll(3, 2) > 0.5).float(), (size, size), mode="nearest")
    noisy = 0.6 * smooth + 0.3 * edges + 0.03 * torch.randn(1, 3, size, size, generator=generator)
    return (noisy[0].clamp(0, 1) * 255).to(torch.uint8)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--size", type=int, default=448)
    parser.add_argument("--classes", type=int, default=21)
    parser.add_argument("--repeats", type=int, default=3)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    generator = torch.Generator().manual_seed(0)
    image = scene(arguments.size, generator)
    planes = torch.rand(arguments.classes, arguments.size, arguments.size, generator=generator)
    fast, seconds = planes, []
    refine = PAMR()
    refine(scene(arguments.size, generator), planes[:1])  # the index of a size is built once per size
    for _ in range(arguments.repeats):
        refine._seen = None
        start = time.process_time()
        fast = refine(image, planes)
        seconds.append(time.process_time() - start)
    start = time.process_time()
    literal = literal_pamr(image.float(), planes)
    slow = time.process_time() - start
    best = min(seconds)
    print(f"{arguments.classes} classes at {arguments.size}x{arguments.size}, 1 thread, CPU seconds, affinity included")
    print(f"literal {slow:.2f} s, PAMR {best:.3f} s: {slow / best:.1f} times faster")
    print(f"largest difference {(fast - literal).abs().max().item():.1e}")


if __name__ == "__main__":
    main()
