"""The scores of the model card, on the validation split. Labels are used for evaluation only."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import open_clip
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from safetensors.torch import load_file
from torch import Tensor

from miniature.crops import draw_scenes, resized
from miniature.dense import DinoFeatures, prototype_scores, raw_colours
from miniature.training import WEIGHTS, to_tensor
from miniature.world import THINGS, Scene


class Objectness:
    """The small FOUND head on the last keys of the small DINOv2."""

    def __init__(self, dino: Path = WEIGHTS / "dino", head: Path = WEIGHTS / "found" / "found.safetensors") -> None:
        self.keys = DinoFeatures(dino, keys=True)
        tensors = load_file(head)
        self.weight, self.bias = tensors["decoder.weight"].float().flatten(), tensors["decoder.bias"].float()

    def __call__(self, image: NDArray[np.uint8]) -> Tensor:
        """Objectness in 0..1, [H, W], for uint8 [H, W, 3]."""
        logits = self.keys(image) @ self.weight + self.bias
        return F.interpolate(logits[None, None], image.shape[:2], mode="bilinear")[0, 0].sigmoid()


def found_scores(objectness: Callable[[NDArray[np.uint8]], Tensor], scenes: Sequence[Scene]) -> tuple[float, float]:
    """IoU of (objectness > 0.5) with all things, and the mean absolute error of the objectness, in percent."""
    hits = union = 0
    error = 0.0
    for scene in scenes:
        truth, soft = torch.from_numpy(scene.labels < len(THINGS)), objectness(scene.image)
        hits += int((truth & (soft > 0.5)).sum())
        union += int((truth | (soft > 0.5)).sum())
        error += float((soft - truth.float()).abs().mean())
    return 100 * hits / max(1, union), 100 * error / len(scenes)


@torch.no_grad()
def clip_scores(scenes: Sequence[Scene], folder: Path = WEIGHTS / "clip") -> tuple[float, float]:
    """Zero-shot accuracy in percent of naming the thing among the 12: on crops around it, on scenes with one kind."""
    model, _, _ = open_clip.create_model_and_transforms(f"local-dir:{folder}")
    tokens = open_clip.get_tokenizer(f"local-dir:{folder}")
    model.eval()
    texts = F.normalize(model.encode_text(tokens([f"a photo of a {name}" for name in THINGS])), dim=-1)
    crops, wholes = list[tuple[NDArray[np.uint8], int]](), list[tuple[NDArray[np.uint8], int]]()
    for scene in scenes:
        things = [index for index in range(len(THINGS)) if THINGS[index] in scene.tags]
        if len(things) == 1:
            wholes.append((resized(scene.image, 32, 32), things[0]))
        for index in things:
            rows, columns = np.nonzero(scene.labels == index)
            window = scene.image[max(0, rows.min() - 3) : rows.max() + 4, max(0, columns.min() - 3) : columns.max() + 4]
            crops.append((resized(window, 32, 32), index))
    scores = []
    for group in (crops, wholes):
        images = F.normalize(model.encode_image(to_tensor([image for image, _ in group])), dim=-1)
        guess = (images @ texts.T).argmax(1)
        scores.append(100 * float((guess == torch.tensor([index for _, index in group])).float().mean()))
    return scores[0], scores[1]


def report() -> list[tuple[str, float]]:
    """All scores, by name, in percent."""
    torch.set_num_threads(1)
    scenes, support = draw_scenes(200, split="val"), draw_scenes(200)
    rows = list[tuple[str, float]]()
    crops, wholes = clip_scores(scenes)
    rows += [
        ("CLIP accuracy, object crops, 12 things", crops),
        ("CLIP accuracy, scenes with one kind of thing", wholes),
    ]
    for name, features, cosine in (
        ("DINO patch tokens", DinoFeatures(), True),
        ("DINO last keys", DinoFeatures(keys=True), True),
        ("control: raw RGB", raw_colours, False),
    ):
        fine, coarse = prototype_scores(features, support, scenes, cosine)
        rows += [
            (f"{name}, true prototypes, mIoU of 17 classes", fine),
            (f"{name}, true prototypes, mIoU of things + background", coarse),
        ]
    overlap, error = found_scores(Objectness(), scenes)
    rows += [("FOUND IoU of objectness > 0.5 with things", overlap), ("FOUND mean absolute error", error)]
    return rows
