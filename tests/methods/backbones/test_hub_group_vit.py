"""GroupViT's groups against transformers' outputs."""

from pathlib import Path

import torch
import torch.nn.functional as F

from methods.backbones.hub_group_vit import HubGroupViT
from methods.backbones.pixels import IMAGENET_MEAN, IMAGENET_STD, normalise
from tests.methods.baselines import loaded, random_images


@torch.inference_mode()
def test_groups_make_up_transformers_segmentation(group_vit: Path) -> None:
    backbone = loaded(HubGroupViT(str(group_vit)))
    texts = ["a photo of a cat.", "tree"]
    tokens = backbone._tokenizer(texts, padding=True, return_tensors="pt")
    ids = {key: tokens[key] for key in ("input_ids", "attention_mask")}
    images = random_images()
    pixels = normalise(images, IMAGENET_MEAN, IMAGENET_STD)
    theirs = backbone.model(pixel_values=pixels, output_segmentation=True, **ids)
    groups = backbone.group(images)
    text = backbone.encode_text(texts)
    torch.testing.assert_close(text, theirs.text_embeds)
    torch.testing.assert_close(groups.mean, theirs.image_embeds)
    torch.testing.assert_close(backbone.encode_images(images), theirs.image_embeds)
    scale = backbone.model.logit_scale.exp()
    logits = groups.embeddings @ text.T * scale
    spread = F.interpolate(groups.assignment, (64, 64), mode="bilinear", align_corners=False)
    segmentation = torch.einsum("bgt,bghw->bthw", logits, spread) * scale
    torch.testing.assert_close(segmentation, theirs.segmentation_logits, atol=1e-3, rtol=1e-4)
    torch.testing.assert_close(groups.assignment.sum(dim=1), torch.ones(2, 8, 8))
