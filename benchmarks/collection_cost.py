"""What a reference collection costs: measured on those in a store, and scaled to COCO's captions.

Rates are those of the entries, whose manifests say how long each took on the machine that made it; on a GPU a few
hundred captions with the real models are enough. Where there is no GPU, operations are counted instead: those of the
paper's Stable Diffusion 2.1-base and DINOv2 ViT-L/14, built without weights, over what a GPU is assumed to sustain.

Usage: ``python benchmarks/collection_cost.py STORE [--captions 590000] [--nouns 3.5] [--sustained 100]``
"""

import argparse
import re
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from torch.utils.flop_counter import FlopCounterMode
from transformers import Dinov2Config, Dinov2Model

from harness.artifacts.store import ArtifactStore

KINDS = {"caption_images": "maps", "references": "visual", "reference_texts": "text"}
# Published configurations where they differ from the classes' defaults: stable-diffusion-2-1-base, dinov2-large.
UNET = {"cross_attention_dim": 1024, "attention_head_dim": (5, 10, 20, 20), "use_linear_projection": True}
CHANNELS = (128, 256, 512, 512)
STEPS, VISUAL, TEXTUAL = 50, 1024, 768


class Entry(NamedTuple):
    """One entry of a store: a shard of captions."""

    captions: int
    seconds: float
    size: int
    rows: int
    width: int


def entries(store: ArtifactStore) -> dict[str, list[Entry]]:
    """The entries of a collection, by kind."""
    found = defaultdict(list)
    for key in store.all_keys():
        manifest = store.manifest(key)
        shard = re.search(r"(\d+) to (\d+)", manifest["title"])
        if manifest["kind"] in KINDS and shard is not None:
            _, rows, *rest = manifest["tensors"][KINDS[manifest["kind"]]]
            size = sum(file.stat().st_size for file in store.folder(key).iterdir())
            captions = int(shard[2]) - int(shard[1]) + 1
            found[manifest["kind"]].append(Entry(captions, manifest["seconds"], size, rows, rest[0]))
    return found


def tera(call: Callable[[], object]) -> float:
    """Operations of a call on the meta device, in 10^12."""
    with FlopCounterMode(display=False) as counter:
        call()
    return counter.get_total_flops() / 1e12


@torch.no_grad()
def operations() -> dict[str, float]:
    """10^12 operations of one caption in the paper's setting, by model."""
    with torch.device("meta"):
        unet = UNet2DConditionModel(sample_size=64, **UNET)
        vae = AutoencoderKL(
            block_out_channels=CHANNELS,
            down_block_types=("DownEncoderBlock2D",) * 4,
            up_block_types=("UpDecoderBlock2D",) * 4,
            layers_per_block=2,
            latent_channels=4,
        )
        dino = Dinov2Model(Dinov2Config(hidden_size=1024, num_hidden_layers=24, num_attention_heads=16, patch_size=14))
        latents, prompt, image = torch.empty(1, 4, 64, 64), torch.empty(1, 77, 1024), torch.empty(1, 3, 518, 518)
    step = tera(lambda: unet(latents, torch.zeros(1, device="meta"), prompt))
    # Two passes a step: with and without the prompt.
    return {
        "UNet": 2 * STEPS * step,
        "VAE's decoder": tera(lambda: vae.decode(latents)),
        "DINOv2": tera(lambda: dino(image)),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("store", type=Path)
    parser.add_argument("--captions", type=int, default=590_000, help="COCO's training captions")
    parser.add_argument("--nouns", type=float, default=3.5, help="per caption; an assumption for COCO")
    parser.add_argument("--sustained", type=float, default=100, help="10^12 operations a second; an assumption")
    arguments = parser.parse_args()
    found = entries(ArtifactStore(arguments.store))
    for kind, every in found.items():
        captions, rows, size = (sum(getattr(each, name) for each in every) for name in ("captions", "rows", "size"))
        rate = sum(each.seconds for each in every) / captions
        print(
            f"{kind}: {captions} captions, {rows / captions:.2f} nouns each, {1000 * rate:.1f} ms a caption, "
            f"{size / rows:.0f} bytes a noun; "
            f"{arguments.captions} captions: {rate * arguments.captions / 3600:.1f} hours"
        )
    if "references" in found and "reference_texts" in found:
        kept = [each for kind in ("references", "reference_texts") for each in found[kind]]
        per_number = sum(each.size for each in kept) / sum(each.rows * each.width for each in kept)
        each = per_number * (VISUAL + TEXTUAL)
        total = each * arguments.nouns * arguments.captions / 1e9
        print(f"{VISUAL} + {TEXTUAL} numbers a noun: {each / 1000:.1f} kB, {total:.1f} GB in all")
    counted = operations()
    hours = sum(counted.values()) * arguments.captions / arguments.sustained / 3600
    print("operations a caption, 10^12: " + ", ".join(f"{name} {value:.1f}" for name, value in counted.items()))
    print(f"{hours:.0f} GPU-hours at {arguments.sustained:.0f} * 10^12 a second")


if __name__ == "__main__":
    main()
