"""Seconds per image, and per item of precompute, of every method: full-size architectures with random weights.

Runs on the GPU if there is one, else on one thread, and writes ``benchmarks/rates.json``, from which ``ovseg reproduce
--dry_run`` estimates hours. What is left small is said in the file: two classes; few images an item, multiplied; and,
without a GPU, few denoising steps, a further one costing what the second did.

Usage: ``OMP_NUM_THREADS=1 python benchmarks/rates.py [--only clip_diy ovdiff] [--out benchmarks/rates.json]``
       ``OMP_NUM_THREADS=1 python benchmarks/rates.py --tiny --out /tmp/rates.json`` with Miniature's own models
"""

import argparse
import math
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torchvision.transforms.functional as TF
from diffusers import AutoencoderKL, PNDMScheduler, StableDiffusionPipeline, UNet2DConditionModel
from safetensors.torch import save_file
from torch import nn
from transformers import (
    AutoModel,
    BlipConfig,
    BlipForConditionalGeneration,
    BlipImageProcessor,
    BlipProcessor,
    CLIPTextConfig,
    CLIPTextModel,
    CLIPTokenizer,
    Dinov2Config,
    ViTConfig,
)

from harness import ArtifactStore, Protocol, Sample, SegmentationMethod, Vocabulary
from harness.artifacts.precompute import precompute
from harness.commands import evaluate
from harness.commands.arguments import Parser, instantiate, plain
from harness.commands.planned import class_name
from harness.studies import costs
from harness.studies.readers import read_paper, select
from harness.system import atomic
from harness.system.provenance import commit
from methods.backbones import DiffusersTextToImage, DiffusionFeatures, HubCaptioner, HubViT, OpenCLIP, OpenCLIPDense
from methods.fossil.captions import Captions
from methods.regions import CutLER, Found
from methods.regions.cascade_rcnn import CascadeMaskRCNN
from methods.support import RuleNouns
from miniature.train_blip import build_processor
from miniature.training import WEIGHTS

# Captions of COCO's training images of 2017, five an image and some more.
CAPTIONS = 591_753
NAMES = ("cat", "boat")
VITS = {
    "facebook/dino-vits8": ViTConfig(
        hidden_size=384, num_hidden_layers=12, num_attention_heads=6, intermediate_size=1536, patch_size=8
    ),
    "facebook/dino-vitb8": ViTConfig(patch_size=8),
    "facebook/dinov2-large": Dinov2Config(
        hidden_size=1024, num_hidden_layers=24, num_attention_heads=16, patch_size=14, image_size=518
    ),
}
# What of Stable Diffusion 2.1-base differs from 1.5, by part.
SD21: dict[str, dict[str, Any]] = {
    "unet": {"attention_head_dim": (5, 10, 20, 20), "cross_attention_dim": 1024, "use_linear_projection": True},
    "text": {"hidden_size": 1024, "intermediate_size": 4096, "num_hidden_layers": 23, "num_attention_heads": 16},
}


@dataclass(frozen=True)
class Case:
    """A method to measure.

    Attributes:
        experiment: Its cell of a paper, ``PAPER/TABLE/ROW/COLUMN``.
        tiny: The file of the same with Miniature's models.
        flags: Settings that make its precompute small.
        num_images: How many images an item of precompute has in the experiment; 0 without precompute.
        items: How many items there are for all vocabularies; 0 where there is one for every class.
        note: What else differs from the experiment.
    """

    experiment: str
    tiny: str
    flags: tuple[str, ...] = ()
    num_images: int = 0
    items: int = 0
    note: str = ""


PAPERS = Path("configs/papers")
FOLDER = "configs/experiments"
CASES = {
    "clip_diy": Case("clip_diy/table1/vitb32/voc21", f"{FOLDER}/clip_diy_miniature.yaml"),
    "ovdiff": Case(
        "ovdiff/table1/ovdiff/voc21",
        f"{FOLDER}/ovdiff_miniature.yaml",
        ("--method.support_size=1", "--method.num_generated=1", "--method.num_parts=1"),
        num_images=32,
    ),
    "fossil": Case(
        "fossil/table1/fossil/ade20k",
        f"{FOLDER}/fossil_miniature.yaml",
        ("--method.num_references=2", "--method.num_prototypes=1", "--method.collection.keep_images=false"),
        num_images=64,
        items=math.ceil(CAPTIONS / 64),
    ),
    "freeseg_diff": Case(
        "freeseg_diff/table1/freeseg_diff/voc21",
        f"{FOLDER}/freeseg_diff_miniature.yaml",
        note="captioned by BLIP-base, not BLIP-2",
    ),
}


def seconds(act: Callable[[], object]) -> float:
    """Wall time, with all that a GPU still has to do."""

    def settle() -> None:
        if torch.cuda.is_available():
            torch.cuda.synchronize()

    settle()
    start = time.perf_counter()
    act()
    settle()
    return time.perf_counter() - start


def built(case: Case, tiny: bool) -> tuple[SegmentationMethod, Protocol, str]:
    """The method of an experiment, without its data, and its class."""
    flags = [*case.flags, *(["--method.captioner=configs/models/blip_base.yaml"] if case.note and not tiny else [])]
    paper, _, name = case.experiment.partition("/")
    experiment = (
        ["--config", case.tiny] if tiny else select(paper, name, read_paper(PAPERS / f"{paper}.yaml"))[0].arguments
    )
    parsed = evaluate.parser().parse_args([*experiment, *flags])
    parser = Parser()
    parser.add_subclass_arguments(SegmentationMethod, "method")
    parser.add_class_arguments(Protocol, "protocol")
    settings = {"method": plain(parsed.method), "protocol": plain(parsed.protocol)}
    made = instantiate(parser, parser.parse_object(settings))
    return made.method, made.protocol, class_name(parsed.method.class_path)


def stable_diffusion(second: bool) -> StableDiffusionPipeline:
    """Stable Diffusion 1.5, or 2.1-base, from their published configurations."""
    tokenizer = CLIPTokenizer.from_pretrained(WEIGHTS / "tokenizer")
    tokenizer.model_max_length = 77
    unet = {
        "sample_size": 64,
        "block_out_channels": (320, 640, 1280, 1280),
        "down_block_types": ("CrossAttnDownBlock2D",) * 3 + ("DownBlock2D",),
        "up_block_types": ("UpBlock2D",) + ("CrossAttnUpBlock2D",) * 3,
        "attention_head_dim": 8,
        "cross_attention_dim": 768,
    }
    text = {"vocab_size": 49408, "hidden_size": 768, "intermediate_size": 3072, "num_hidden_layers": 12}
    text |= {"num_attention_heads": 12, "max_position_embeddings": 77}
    vae = AutoencoderKL(
        sample_size=512,
        block_out_channels=(128, 256, 512, 512),
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        layers_per_block=2,
        latent_channels=4,
    )
    pipeline = StableDiffusionPipeline(
        vae=vae.eval(),
        text_encoder=CLIPTextModel(CLIPTextConfig(**text | (SD21["text"] if second else {}))).eval(),
        tokenizer=tokenizer,
        unet=UNet2DConditionModel(**unet | (SD21["unet"] if second else {})).eval(),
        scheduler=PNDMScheduler(beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", steps_offset=1),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    pipeline.set_progress_bar_config(disable=True)
    return pipeline.to(torch.float16) if torch.cuda.is_available() else pipeline


def randomise(method: SegmentationMethod, folder: Path) -> None:
    """Give every part random weights in the place of its files; what ``load`` would read is there already."""
    pipelines: dict[str, StableDiffusionPipeline] = {}
    for part in list(method.modules()):
        if isinstance(part, HubViT):
            part.adopt(AutoModel.from_config(VITS[part.name]))
        elif isinstance(part, OpenCLIP):
            part.pretrained = None
            continue
        elif isinstance(part, OpenCLIPDense):
            # Its CLIP is no submodule.
            part._source[0].pretrained = None
            continue
        elif isinstance(part, Found):
            part.head = str(folder / "head.safetensors")
            dim = VITS[part.backbone.name].hidden_size  # type: ignore[union-attr]
            save_file({"decoder.weight": torch.randn(1, dim, 1, 1), "decoder.bias": torch.zeros(1)}, part.head)
            continue
        elif isinstance(part, (DiffusersTextToImage, DiffusionFeatures)):
            if part.name not in pipelines:
                pipelines[part.name] = stable_diffusion("2-1" in part.name)
            part.precision = "float16" if torch.cuda.is_available() else "float32"
            part.adopt(pipelines[part.name])
        elif isinstance(part, HubCaptioner):
            config = BlipConfig(text_config={"num_attention_heads": 12, "projection_dim": 768})
            processor = BlipProcessor(BlipImageProcessor(), build_processor().tokenizer)
            part.adopt(BlipForConditionalGeneration(config), processor)
        elif isinstance(part, CutLER):
            part.network = CascadeMaskRCNN().requires_grad_(False).eval()
        else:
            continue
        part.load = _nothing  # type: ignore[method-assign, assignment]


def _nothing() -> None:
    """In the place of a part's ``load``."""


def simplify(method: SegmentationMethod, folder: Path, num_images: int) -> None:
    """A few captions in the place of COCO's, and nouns by rule in the place of a tagger's."""
    nouns = RuleNouns([*NAMES, "grass", *(chr(97 + n) for n in range(26))])
    if hasattr(method, "collection"):
        file = folder / "captions.txt"
        file.write_text("a cat and a boat on the grass\n" * num_images)
        method.collection.captions = Captions(file)
        method.collection.shard = num_images
        method.collection.nouns = nouns
    elif hasattr(method, "nouns"):
        method.nouns = nouns


def generation_seconds(generator: nn.Module, extrapolate: bool) -> float:
    """Seconds that the generator takes for an image in all its steps, with attribution where it is asked for."""
    steps = generator.steps
    taken = {}
    for count in (1, 2) if extrapolate and steps > 2 else (steps,):
        generator.steps = count
        taken[count] = seconds(lambda: generator.generate([f"a good picture of a {NAMES[0]}"], [0]))
    generator.steps = steps
    return taken[1] + (steps - 1) * max(taken[2] - taken[1], 0.0) if len(taken) == 2 else taken[steps]


def measure(case: Case, tiny: bool, num_images: int, extrapolate: bool) -> dict[str, Any]:
    """A method's entry in the file of rates."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    method, protocol, name = built(case, tiny)
    with tempfile.TemporaryDirectory() as temporary, torch.inference_mode():
        folder = Path(temporary)
        simplify(method, folder, num_images)
        if not tiny:
            randomise(method, folder)
        method.store = ArtifactStore(folder / "store")
        method.make_ready(Vocabulary.from_class_names(NAMES, background=method.scores_background), protocol)
        method.to(device)
        stages = precomputed(method, case, num_images, extrapolate) if case.num_images else []
        method.prepare()
        image = smooth_image(protocol).to(device)
        sample = Sample(0, "x", image, image, None, (375, 500))
        if device == "cuda":
            method.predict_image(sample)
        taken = seconds(lambda: method.predict_image(sample))
    experiment = case.tiny if tiny else case.experiment
    noted = f"{experiment} ({case.note})" if case.note and not tiny else experiment
    return {"method": name, "image": taken, "stages": stages, "experiment": noted}


def precomputed(method: SegmentationMethod, case: Case, num_images: int, extrapolate: bool) -> list[dict[str, Any]]:
    """The rates of the stages; the first of them generates, and its generation is measured on its own."""
    whole = generation_seconds(method.generator, extrapolate)
    steps, method.generator.steps = method.generator.steps, 1
    durations, generate = [], method.generator.generate

    def timed(*arguments: Any, **settings: Any) -> Any:
        made: list[Any] = []
        durations.append(seconds(lambda: made.append(generate(*arguments, **settings))))
        return made[0]

    method.generator.generate = timed
    reports = precompute(method, method.store).stages
    method.generator.generate, method.generator.steps = generate, steps
    found = []
    for number, report in enumerate(reports):
        each = report.seconds / report.num_items
        own = each - sum(durations) / report.num_items if number == 0 else each
        scaled = max(own, 0.0) * case.num_images / num_images + (whole * case.num_images if number == 0 else 0.0)
        per = "once" if case.items else "class"
        items = case.items or report.num_items
        found.append({"name": report.name, "seconds": scaled, "items": items, "per": per})
    return found


def smooth_image(protocol: Protocol) -> torch.Tensor:
    """[3, h, w] uint8: a landscape image of PASCAL VOC's usual size after the protocol's resize, smooth."""
    random = torch.Generator().manual_seed(0)
    coarse = torch.rand(3, 8, 8, generator=random)
    size = list(protocol.resized_size(375, 500))
    return (TF.resize(coarse, size, TF.InterpolationMode.BICUBIC).clamp(0, 1) * 255).to(torch.uint8)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", nargs="+", choices=CASES, default=list(CASES), metavar="METHOD")
    parser.add_argument("--tiny", action="store_true", help="Miniature's models, to try this script")
    parser.add_argument("--images", type=int, default=None, help="generated for an item (default: 8 on a GPU, else 1)")
    parser.add_argument("--out", type=Path, default=costs.FILE)
    arguments = parser.parse_args()
    gpu = torch.cuda.is_available()
    if not gpu:
        torch.set_num_threads(1)
    content: dict[str, Any] = {
        "schema": costs.SCHEMA,
        "hardware": costs.hardware(),
        "torch": torch.__version__,
        "commit": commit(),
        "extrapolated": "denoising steps, from 1 and 2" if not gpu else None,
        "rates": [],
    }
    for name in arguments.only:
        rate = measure(CASES[name], arguments.tiny, arguments.images or (8 if gpu else 1), not gpu)
        content["rates"].append(rate)
        # After each, since the next may take long.
        atomic.write_json(arguments.out, content)
        stages = ", ".join(f"{stage['name']} {stage['seconds']:.3g} s" for stage in rate["stages"])
        print(f"{name}: {rate['image']:.3g} s an image" + (f"; an item of {stages}" if stages else ""), flush=True)
    print(arguments.out)


if __name__ == "__main__":
    main()
