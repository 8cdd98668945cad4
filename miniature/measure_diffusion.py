"""Measure the small Stable Diffusion: does it paint what it is asked for, does a word's attention fall on its thing?"""

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

from miniature.crops import pool
from miniature.dense import prototype_scores
from miniature.painting import model
from miniature.painting.album import SIDE
from miniature.painting.attention import WordMaps, recorded, word_weights
from miniature.painting.features import PainterFeatures
from miniature.train_vae import SCALING, to_signed
from miniature.training import WEIGHTS
from miniature.world import CLASSES, STUFF, THINGS, Scene, draw_scene

PROMPT = "A good picture of a {}"
GUIDANCE = 8.0  # that of OVDiff's release
NAMING = ("a photo of a {}.", "a picture of a {}.", "a drawing of a {}.", "a photo of the {}.")
SHEET = Path(__file__).parent / "pictures" / "diffusion_sheet.png"
_SEED = 1 << 42  # scenes that no training has seen


def painted(
    pipeline: StableDiffusionPipeline,
    name: str,
    seeds: Sequence[int],
    steps: int = 25,
    guidance: float = GUIDANCE,
    prompt: str = PROMPT,
) -> tuple[np.ndarray, Tensor]:
    """Pictures of a class and the attention of its name.

    Args:
        pipeline: the model.
        name: a class.
        seeds: one per picture; a picture depends on its own alone, up to rounding.
        steps: of the sampler.
        guidance: scale.
        prompt: with {} for the name.

    Returns:
        uint8 [N, SIDE, SIDE, 3] and float32 [N, 16, 16].
    """
    texts = [prompt.format(name)] * len(seeds)
    maps = WordMaps(word_weights(pipeline.tokenizer, texts, [name] * len(seeds)), (model.LATENT, model.LATENT))
    noise = [torch.Generator().manual_seed(seed) for seed in seeds]
    with recorded(pipeline.unet, maps):
        images = pipeline(
            texts, num_inference_steps=steps, guidance_scale=guidance, generator=noise, output_type="np"
        ).images
    return (images * 255).round().astype(np.uint8), maps.mean()


class Namer:
    """The tiny CLIP as a judge."""

    def __init__(self, folder: Path = WEIGHTS / "clip") -> None:
        self.clip, _, self.prepare = open_clip.create_model_and_transforms(f"local-dir:{folder}")
        self.clip.eval()
        self.tokens = open_clip.get_tokenizer(f"local-dir:{folder}")

    @torch.no_grad()
    def __call__(self, images: np.ndarray, names: Sequence[str]) -> list[str]:
        """The name that fits each picture best; images uint8 [N, h, w, 3]."""
        prompts = [[template.format(name) for template in NAMING] for name in names]
        texts = torch.stack([self.clip.encode_text(self.tokens(group)).mean(0) for group in prompts])
        pictures = torch.stack([self.prepare(Image.fromarray(image)) for image in images])
        cosines = F.normalize(self.clip.encode_image(pictures), dim=-1) @ F.normalize(texts, dim=-1).T
        return [names[best] for best in cosines.argmax(1).tolist()]


def rivals(name: str) -> tuple[str, ...]:
    """What a class has to be told from: things from things, stuff from stuff."""
    return THINGS if name in THINGS else STUFF


def single_scene(name: str, number: int) -> Scene:
    """A square scene without any other kind of thing."""
    return draw_scene(_SEED + number, (SIDE, SIDE), name)


@torch.no_grad()
def attention_overlap(
    pipeline: StableDiffusionPipeline, names: Sequence[str], each: int = 20, time: int = 500
) -> tuple[float, float, float]:
    """How well the attention of a class's name marks the class in real scenes, in one pass at one time.

    Args:
        pipeline: the model.
        names: classes.
        each: scenes per class.
        time: to which the scenes are noised.

    Returns:
        Mean IoU of Otsu's mask (at SIDE pixels) with the true one, share of peaks inside it, mean IoU of a full mask.
    """
    overlaps, hits, full = list[float](), list[float](), list[float]()
    for name in names:
        scenes = [single_scene(name, number) for number in range(each)]
        latents = pipeline.vae.encode(to_signed(np.stack([scene.image for scene in scenes]))).latent_dist.mean * SCALING
        noise = torch.randn(latents.shape, generator=torch.Generator().manual_seed(time))
        times = torch.full((each,), time)
        noisy = pipeline.scheduler.add_noise(latents, noise, times)
        texts = [f"a photo of a {name}."] * each
        maps = WordMaps(word_weights(pipeline.tokenizer, texts, [name] * each), (model.LATENT, model.LATENT))
        with recorded(pipeline.unet, maps):
            pipeline.unet(noisy, times, pipeline.text_encoder(model.token_ids(pipeline.tokenizer, texts))[0])
        grown = F.interpolate(maps.mean()[:, None], (SIDE, SIDE), mode="bicubic", align_corners=False)[:, 0].numpy()
        for heat, scene in zip(grown, scenes, strict=True):
            truth, mask = scene.labels == CLASSES.index(name), heat > threshold_otsu(heat)
            overlaps.append(float((mask & truth).sum() / max(1, (mask | truth).sum())))
            hits.append(float(truth[np.unravel_index(heat.argmax(), heat.shape)]))
            full.append(float(truth.mean()))
    return float(np.mean(overlaps)), float(np.mean(hits)), float(np.mean(full))


def naming_shares(
    pipeline: StableDiffusionPipeline, namer: Namer, each: int, guidance: float, steps: int
) -> dict[str, tuple[float, float]]:
    """For every class, the share of painted and of real pictures that the tiny CLIP names rightly."""
    shares = {}
    for name in CLASSES:
        images, _ = painted(pipeline, name, range(each), steps, guidance)
        real = np.stack([single_scene(name, number).image for number in range(each)])
        right = [float(np.mean([found == name for found in namer(batch, rivals(name))])) for batch in (images, real)]
        shares[name] = (right[0], right[1])
    return shares


def sheet(
    pipeline: StableDiffusionPipeline, file: Path = SHEET, each: int = 6, steps: int = 25, guidance: float = GUIDANCE
) -> None:
    """Write a contact sheet: per class a row of pictures, below each where its name's attention fell."""
    blocks = []
    for name in CLASSES:
        images, maps = painted(pipeline, name, range(each), steps, guidance)
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
    parser.add_argument("--each", type=int, default=16, help="pictures per class")
    parser.add_argument("--guidance", type=float, default=GUIDANCE)
    parser.add_argument("--steps", type=int, default=25)
    parser.add_argument("--no-features", action="store_true", help="leave out the features' mIoU")
    parser.add_argument("--sheet", type=Path, default=SHEET)
    chosen = parser.parse_args()
    torch.set_num_threads(1)
    pipeline = model.load(chosen.folder)
    scores: dict[str, object] = {}
    for kind, names in (("things", THINGS), ("stuff", STUFF)):
        overlap, peak, full = (round(value, 3) for value in attention_overlap(pipeline, names))
        scores[f"attention {kind}"] = {"iou": overlap, "peak": peak, "iou of a full mask": full}
    shares = naming_shares(pipeline, Namer(), chosen.each, chosen.guidance, chosen.steps)
    scores["named rightly"] = {name: {"painted": round(p, 3), "real": round(r, 3)} for name, (p, r) in shares.items()}
    for kind, names in (("things", THINGS), ("stuff", STUFF)):
        means = np.mean([shares[name] for name in names], 0)
        scores[f"named rightly, {kind}"] = {"painted": round(float(means[0]), 3), "real": round(float(means[1]), 3)}
    if not chosen.no_features:
        fine, coarse = prototype_scores(PainterFeatures(pipeline), pool(200), pool(100, split="val"))
        scores["features, true prototypes, mIoU of 17 classes"] = round(fine, 1)
        scores["features, true prototypes, mIoU of things + background"] = round(coarse, 1)
    sheet(pipeline, chosen.sheet, steps=chosen.steps, guidance=chosen.guidance)
    print(json.dumps(scores, indent=2))


if __name__ == "__main__":
    main()
