"""Evaluate the small Stable Diffusion: accuracy of generated images and localization by attention maps."""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
import open_clip
import torch
import torch.nn.functional as F
from diffusers import StableDiffusionPipeline
from PIL import Image
from skimage.filters import threshold_otsu
from torch import Tensor

from miniature.crops import draw_scenes
from miniature.dense import prototype_scores
from miniature.generation import model
from miniature.generation.attention import WordMaps, record_attention, word_weights
from miniature.generation.captioned_images import SIDE
from miniature.generation.features import DenoiserFeatures
from miniature.train_vae import SCALING, to_signed
from miniature.training import WEIGHTS
from miniature.world import CLASSES, STUFF, THINGS, Scene, draw_scene

PROMPT = "A good picture of a {}"
GUIDANCE = 8.0  # that of OVDiff's release
NAMING = ("a photo of a {}.", "a picture of a {}.", "a drawing of a {}.", "a photo of the {}.")
SHEET = Path(__file__).parent / "pictures" / "diffusion_sheet.png"
_SEED = 1 << 42  # apart from the seeds of all training scenes


def generate_images(
    pipeline: StableDiffusionPipeline,
    name: str,
    seeds: Sequence[int],
    steps: int = 25,
    guidance: float = GUIDANCE,
    prompt: str = PROMPT,
) -> tuple[np.ndarray, Tensor]:
    """Images of a class and the attention maps of its name.

    Args:
        pipeline: the model.
        name: a class.
        seeds: one per image; an image depends on its own seed only, up to rounding.
        steps: of the sampler.
        guidance: scale.
        prompt: with {} for the name.

    Returns:
        uint8 [N, SIDE, SIDE, 3] and float32 [N, 16, 16].
    """
    texts = [prompt.format(name)] * len(seeds)
    maps = WordMaps(word_weights(pipeline.tokenizer, texts, [name] * len(seeds)), (model.LATENT, model.LATENT))
    noise = [torch.Generator().manual_seed(seed) for seed in seeds]
    with record_attention(pipeline.unet, maps):
        images = pipeline(
            texts, num_inference_steps=steps, guidance_scale=guidance, generator=noise, output_type="np"
        ).images
    return (images * 255).round().astype(np.uint8), maps.mean()


class ZeroShotClassifier:
    """Zero-shot classification with the tiny CLIP."""

    def __init__(self, folder: Path = WEIGHTS / "clip") -> None:
        self.clip, _, self.prepare = open_clip.create_model_and_transforms(f"local-dir:{folder}")
        self.clip.eval()
        self.tokens = open_clip.get_tokenizer(f"local-dir:{folder}")

    @torch.no_grad()
    def __call__(self, images: np.ndarray, names: Sequence[str]) -> list[str]:
        """The name that fits each image best; images uint8 [N, h, w, 3]."""
        prompts = [[template.format(name) for template in NAMING] for name in names]
        texts = torch.stack([self.clip.encode_text(self.tokens(group)).mean(0) for group in prompts])
        inputs = torch.stack([self.prepare(Image.fromarray(image)) for image in images])
        cosines = F.normalize(self.clip.encode_image(inputs), dim=-1) @ F.normalize(texts, dim=-1).T
        return [names[best] for best in cosines.argmax(1).tolist()]


def competing_classes(name: str) -> tuple[str, ...]:
    """The candidate classes for zero-shot classification: all things for a thing, all stuff for stuff."""
    return THINGS if name in THINGS else STUFF


def single_scene(name: str, number: int) -> Scene:
    """A square scene without any other kind of thing."""
    return draw_scene(_SEED + number, (SIDE, SIDE), name)


@torch.no_grad()
def attention_overlap(
    pipeline: StableDiffusionPipeline, names: Sequence[str], num_scenes: int = 20, time: int = 500
) -> tuple[float, float, float]:
    """How well the attention of a class name localizes the class in real scenes, from one pass at one timestep.

    Args:
        pipeline: the model.
        names: classes.
        num_scenes: scenes per class.
        time: timestep to which the scenes are noised.

    Returns:
        Mean IoU of Otsu's mask (at SIDE pixels) with the true one, share of peaks inside it, mean IoU of a full mask.
    """
    overlaps, hits, full = list[float](), list[float](), list[float]()
    for name in names:
        scenes = [single_scene(name, number) for number in range(num_scenes)]
        latents = pipeline.vae.encode(to_signed(np.stack([scene.image for scene in scenes]))).latent_dist.mean * SCALING
        noise = torch.randn(latents.shape, generator=torch.Generator().manual_seed(time))
        times = torch.full((num_scenes,), time)
        noisy = pipeline.scheduler.add_noise(latents, noise, times)
        texts = [f"a photo of a {name}."] * num_scenes
        maps = WordMaps(word_weights(pipeline.tokenizer, texts, [name] * num_scenes), (model.LATENT, model.LATENT))
        with record_attention(pipeline.unet, maps):
            pipeline.unet(noisy, times, pipeline.text_encoder(model.token_ids(pipeline.tokenizer, texts))[0])
        grown = F.interpolate(maps.mean()[:, None], (SIDE, SIDE), mode="bicubic", align_corners=False)[:, 0].numpy()
        for heat, scene in zip(grown, scenes, strict=True):
            truth, mask = scene.labels == CLASSES.index(name), heat > threshold_otsu(heat)
            overlaps.append(float((mask & truth).sum() / max(1, (mask | truth).sum())))
            hits.append(float(truth[np.unravel_index(heat.argmax(), heat.shape)]))
            full.append(float(truth.mean()))
    return float(np.mean(overlaps)), float(np.mean(hits)), float(np.mean(full))


def naming_accuracy(
    pipeline: StableDiffusionPipeline, classifier: ZeroShotClassifier, num_images: int, guidance: float, steps: int
) -> dict[str, tuple[float, float]]:
    """Per class, the share of generated and of real images that the tiny CLIP classifies correctly."""
    shares = {}
    for name in CLASSES:
        images, _ = generate_images(pipeline, name, range(num_images), steps, guidance)
        real = np.stack([single_scene(name, number).image for number in range(num_images)])
        correct = [
            float(np.mean([predicted == name for predicted in classifier(batch, competing_classes(name))]))
            for batch in (images, real)
        ]
        shares[name] = (correct[0], correct[1])
    return shares


def sheet(
    pipeline: StableDiffusionPipeline,
    file: Path = SHEET,
    num_images: int = 6,
    steps: int = 25,
    guidance: float = GUIDANCE,
) -> None:
    """Write a contact sheet: per class a row of images, and below each image the attention map of the class name."""
    blocks = []
    for name in CLASSES:
        images, maps = generate_images(pipeline, name, range(num_images), steps, guidance)
        lowest, highest = maps.amin((1, 2), keepdim=True), maps.amax((1, 2), keepdim=True)
        relative = (maps - lowest) / (highest - lowest)
        heat = F.interpolate(relative[:, None], (SIDE, SIDE), mode="bilinear")[:, 0].numpy()
        lit = (images * (0.1 + 0.9 * heat[..., None])).astype(np.uint8)
        blocks.append(np.concatenate([np.concatenate(list(images), 1), np.concatenate(list(lit), 1)]))
    blocks += [np.zeros_like(blocks[0])] * (len(blocks) % 2)
    half = len(blocks) // 2
    page = np.concatenate([np.concatenate(blocks[:half]), np.concatenate(blocks[half:])], 1)
    file.parent.mkdir(parents=True, exist_ok=True)
    # A palette of 256 colours keeps the file small.
    small = cv2.resize(page, None, fx=0.75, fy=0.75, interpolation=cv2.INTER_AREA)
    Image.fromarray(small).quantize(256).save(file, optimize=True)


def main() -> None:
    """Print the scores and write the contact sheet."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--folder", type=Path, default=model.FOLDER, help="the pipeline to measure")
    parser.add_argument("--num_images", type=int, default=16, help="images per class")
    parser.add_argument("--guidance", type=float, default=GUIDANCE)
    parser.add_argument("--steps", type=int, default=25)
    parser.add_argument("--no-features", action="store_true", help="skip the mIoU of the features")
    parser.add_argument("--sheet", type=Path, default=SHEET)
    chosen = parser.parse_args()
    torch.set_num_threads(1)
    pipeline = model.load(chosen.folder)
    scores: dict[str, object] = {}
    for kind, names in (("things", THINGS), ("stuff", STUFF)):
        overlap, peak, full = (round(value, 3) for value in attention_overlap(pipeline, names))
        scores[f"attention {kind}"] = {"iou": overlap, "peak": peak, "iou of a full mask": full}
    shares = naming_accuracy(pipeline, ZeroShotClassifier(), chosen.num_images, chosen.guidance, chosen.steps)
    scores["accuracy"] = {name: {"generated": round(p, 3), "real": round(r, 3)} for name, (p, r) in shares.items()}
    for kind, names in (("things", THINGS), ("stuff", STUFF)):
        means = np.mean([shares[name] for name in names], 0)
        scores[f"accuracy, {kind}"] = {"generated": round(float(means[0]), 3), "real": round(float(means[1]), 3)}
    if not chosen.no_features:
        fine, coarse = prototype_scores(DenoiserFeatures(pipeline), draw_scenes(200), draw_scenes(100, split="val"))
        scores["features, true prototypes, mIoU of 17 classes"] = round(fine, 1)
        scores["features, true prototypes, mIoU of things + background"] = round(coarse, 1)
    sheet(pipeline, chosen.sheet, steps=chosen.steps, guidance=chosen.guidance)
    print(json.dumps(scores, indent=2))


if __name__ == "__main__":
    main()
