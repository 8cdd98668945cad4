"""CLIPSeg's masks against transformers' outputs."""

from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

from harness import ConfigurationError
from methods.backbones.hub_clip_seg import HubCLIPSeg
from methods.backbones.pixels import IMAGENET_MEAN, IMAGENET_STD, normalise
from tests.methods.baselines import loaded, random_images


@torch.inference_mode()
def test_masks_are_transformers_own(clip_seg: Path) -> None:
    backbone = loaded(HubCLIPSeg(str(clip_seg), size=32, class_batch=2))
    texts = ["a photo of a cat.", "tree", "a boat"]
    tokens = backbone._tokenizer(texts, padding=True, return_tensors="pt")
    ids = {key: tokens[key] for key in ("input_ids", "attention_mask")}
    images = random_images(2, 32, 32)
    found = backbone.masks(backbone.activations(images), backbone.embed_text(texts))
    for number, image in enumerate(images):
        pixels = normalise(image[None], IMAGENET_MEAN, IMAGENET_STD).expand(3, -1, -1, -1)
        theirs = backbone.model(pixel_values=pixels, **ids)
        torch.testing.assert_close(found[number], theirs.logits.sigmoid())
        features = backbone.model.clip.get_image_features(pixels[:1]).pooler_output
        torch.testing.assert_close(backbone.encode_images(image[None]), F.normalize(features, dim=-1))
    assert not torch.allclose(found[0], found[1], atol=1e-4)
    assert not torch.allclose(found[:, 0], found[:, 1], atol=1e-4)
    coarse = backbone.masks(backbone.activations(images), backbone.embed_text(texts), 5)
    assert coarse.shape == (2, 3, 7, 7)
    halved = backbone.masks(backbone.activations(images), backbone.embed_text(texts), 2)
    torch.testing.assert_close(halved, F.avg_pool2d(found, 2))


def test_a_size_that_is_no_whole_number_of_patches_is_named(clip_seg: Path) -> None:
    with pytest.raises(ConfigurationError, match="multiple of"):
        HubCLIPSeg(str(clip_seg), size=33).load()
