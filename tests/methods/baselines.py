"""What the tests of the baselines share: Miniature's CLIP by patches, random images, methods that are ready."""

from typing import Any

import torch

from harness import Protocol, Sample, SegmentationMethod, Vocabulary
from methods.backbones import OpenCLIP
from methods.backbones.clip_patches import CLIPPatches

CLIP = "local-dir:miniature/weights/clip"
WORDS = Vocabulary.from_class_names("cat, tree, boat")
CLOSED = Vocabulary(("cat", "tree", "boat"))
PROTOCOL = Protocol("test", resize="none", window=64, stride=32, templates=("a photo of a {}.", "{}"))


def patches(size: int | None = None) -> CLIPPatches:
    return CLIPPatches(OpenCLIP(CLIP), size)


def random_images(count: int = 2, height: int = 64, width: int = 64, seed: int = 0) -> torch.Tensor:
    random = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (count, 3, height, width), generator=random, dtype=torch.uint8)


def sample(height: int = 64, width: int = 64, seed: int = 0) -> Sample:
    image = random_images(1, height, width, seed)[0]
    return Sample(0, "x", image, image, None, (height, width))


def ready(method: SegmentationMethod, words: Vocabulary = WORDS, protocol: Protocol = PROTOCOL) -> Any:
    method.make_ready(words, protocol)
    with torch.inference_mode():
        method.prepare()
    return method


def loaded(model: Any) -> Any:
    model.load()
    return model
