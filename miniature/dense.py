"""Nearest prototypes from true labels: how well dense features tell the classes apart."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor
from transformers import Dinov2Model

from miniature.crops import resized
from miniature.train_dino import PATCH, KeyTap
from miniature.training import WEIGHTS, to_tensor
from miniature.world import CLASSES, THINGS, Scene

Features = Callable[[NDArray[np.uint8]], Tensor]
SHORT = 96


def resize_short_side(image: NDArray[np.uint8], short: int = SHORT, multiple: int = PATCH) -> NDArray[np.uint8]:
    """The image with this short side, both sides rounded to a multiple."""
    scale = short / min(image.shape[:2])
    height, width = (max(multiple, round(side * scale / multiple) * multiple) for side in image.shape[:2])
    return resized(image, height, width)


def mean_iou(confusion: NDArray[np.int64]) -> float:
    """Mean IoU in percent of a confusion matrix [C, C] (truth by prediction) over the classes that occur."""
    hits, union = np.diag(confusion), confusion.sum(0) + confusion.sum(1) - np.diag(confusion)
    return float(100 * np.mean(hits[union > 0] / union[union > 0]))


def confusion(truth: NDArray[np.integer], guess: NDArray[np.integer], count: int) -> NDArray[np.int64]:
    """Confusion matrix int64 [count, count] of two label maps."""
    return np.bincount(truth.ravel().astype(np.int64) * count + guess.ravel(), minlength=count * count).reshape(
        count, count
    )


def merge_stuff(labels: NDArray[np.integer]) -> NDArray[np.integer]:
    """Labels in which all stuff is 0 and thing i is i + 1."""
    return np.where(labels < len(THINGS), labels.astype(np.int64) + 1, 0)


def raw_colours(image: NDArray[np.uint8]) -> Tensor:
    """The control: mean RGB of each patch, [h, w, 3] in -1..1."""
    small = F.avg_pool2d(torch.from_numpy(resize_short_side(image).copy()).permute(2, 0, 1).float(), PATCH)
    return small.permute(1, 2, 0) / 127.5 - 1


class DinoFeatures:
    """Dense features of the small DINOv2: patch tokens, or the keys of its last layer."""

    def __init__(self, folder: Path = WEIGHTS / "dino", keys: bool = False) -> None:
        self.model = Dinov2Model.from_pretrained(folder, dtype=torch.float32).eval()
        self.tap = KeyTap(self.model) if keys else None

    @torch.no_grad()
    def __call__(self, image: NDArray[np.uint8]) -> Tensor:
        """[h, w, D] for uint8 [H, W, 3], processed whole at short side 96."""
        pixels = to_tensor([resize_short_side(image)])
        tokens = self.model(pixels).last_hidden_state
        tokens = tokens if self.tap is None else self.tap.keys
        return tokens[0, 1:].reshape(pixels.shape[2] // PATCH, pixels.shape[3] // PATCH, -1)


def kmeans(points: Tensor, count: int, rounds: int = 15) -> Tensor:
    """k-means centres [K, D] of points [N, D], K at most `count`; starts from points spread over the input."""
    centres = points[torch.linspace(0, len(points) - 1, min(count, len(points))).long()].clone()
    for _ in range(rounds):
        nearest = torch.cdist(points, centres).argmin(1)
        for index in nearest.unique():
            centres[index] = points[nearest == index].mean(0)
    return centres


def prototypes(features: Features, scenes: Sequence[Scene], per_class: int = 15) -> tuple[Tensor, Tensor]:
    """k-means centres [P, D] of the patches of each class, and the class of each [P], from true labels."""
    patches: list[list[Tensor]] = [[] for _ in CLASSES]
    for scene in scenes:
        grid = features(scene.image)
        rows = (np.arange(grid.shape[0]) + 0.5) * scene.labels.shape[0] / grid.shape[0]
        columns = (np.arange(grid.shape[1]) + 0.5) * scene.labels.shape[1] / grid.shape[1]
        labels = torch.from_numpy(scene.labels[rows.astype(int)][:, columns.astype(int)])
        for index in labels.unique().tolist():
            patches[index].append(grid[labels == index])
    centres, owners = list[Tensor](), list[int]()
    order = np.random.default_rng(0)
    for index, parts in enumerate(patches):
        if parts:
            points = torch.cat(parts)
            means = kmeans(points[torch.from_numpy(order.permutation(len(points))[:4000])], per_class)
            centres.append(means)
            owners += [index] * len(means)
    return torch.cat(centres), torch.tensor(owners)


def prototype_scores(
    features: Features, support: Sequence[Scene], scenes: Sequence[Scene], cosine: bool = True
) -> tuple[float, float]:
    """Score (mIoU) of nearest prototypes from true labels: over the 17 classes, and over things and background.

    Args:
        features: dense features of an image, [h, w, D].
        support: training scenes, for the prototypes.
        scenes: validation scenes.
        cosine: compare by cosine; otherwise by Euclidean distance.
    """
    centres, owners = prototypes(features, support)
    fine, coarse = np.zeros((len(CLASSES),) * 2, np.int64), np.zeros((len(THINGS) + 1,) * 2, np.int64)
    for scene in scenes:
        grid = features(scene.image)
        flat = grid.reshape(-1, grid.shape[-1])
        close = F.normalize(flat, dim=-1) @ F.normalize(centres, dim=-1).T if cosine else -torch.cdist(flat, centres)
        best = torch.full((len(CLASSES), len(flat)), -1e4)
        for index in owners.unique().tolist():
            best[index] = close[:, owners == index].amax(1)
        scores = F.interpolate(best.reshape(1, -1, *grid.shape[:2]), scene.labels.shape, mode="bilinear")
        guess = scores[0].argmax(0).numpy()
        fine += confusion(scene.labels, guess, len(CLASSES))
        coarse += confusion(merge_stuff(scene.labels), merge_stuff(guess), len(THINGS) + 1)
    return mean_iou(fine), mean_iou(coarse)
