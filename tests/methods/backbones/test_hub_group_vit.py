"""GroupViT's groups against transformers' outputs."""

import json
import shutil
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


@torch.inference_mode()
def test_images_are_normalised_as_in_training_not_as_the_folder_says(group_vit: Path, tmp_path: Path) -> None:
    """The Hub's folders carry CLIP's constants; the release has ImageNet's, in training and in evaluation."""
    folder = shutil.copytree(group_vit, tmp_path / "group_vit")
    clip = {"image_mean": [0.48145466, 0.4578275, 0.40821073], "image_std": [0.26862954, 0.26130258, 0.27577711]}
    (folder / "preprocessor_config.json").write_text(json.dumps({"image_processor_type": "CLIPImageProcessor", **clip}))

    def seen(backbone: HubGroupViT) -> torch.Tensor:
        inputs = []
        embeddings = backbone.model.vision_model.embeddings
        hook = embeddings.register_forward_pre_hook(lambda _, given: inputs.append(given[0]))
        backbone.group(random_images())
        hook.remove()
        return inputs[0]

    plain, theirs = loaded(HubGroupViT(str(folder))), loaded(HubGroupViT(str(folder), mean=None, std=None))
    levels = random_images() / 255
    for backbone, mean, std in (
        (plain, (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
        (theirs, clip["image_mean"], clip["image_std"]),
    ):
        expected = (levels - torch.tensor(mean)[:, None, None]) / torch.tensor(std)[:, None, None]
        torch.testing.assert_close(seen(backbone), expected)
    assert plain.identity() != theirs.identity()
