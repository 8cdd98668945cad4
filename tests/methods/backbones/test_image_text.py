"""The open_clip wrapper: what goes in, what comes out, and what is said when weights are missing."""

import numpy as np
import open_clip
import pytest
import torch
import torch.nn.functional as F
from PIL import Image

from harness import ConfigurationError, ModelError
from methods.backbones import OpenCLIP

CLIP = "local-dir:miniature/weights/clip"


@pytest.fixture(scope="module")
def clip() -> OpenCLIP:
    model = OpenCLIP(CLIP, text_batch=2)
    model.load()
    return model


@torch.inference_mode()
def test_images_are_encoded_as_open_clips_own_processor_does(clip: OpenCLIP) -> None:
    model, _, preprocess = open_clip.create_model_and_transforms(CLIP, precision="fp32")
    image = np.random.default_rng(0).integers(0, 256, (50, 50, 3), dtype=np.uint8)
    expected = model.eval().encode_image(preprocess(Image.fromarray(image))[None], normalize=True)
    found = clip.encode_images(torch.from_numpy(image).permute(2, 0, 1)[None])
    assert F.cosine_similarity(found, expected).item() > 0.999


@torch.inference_mode()
def test_classes_are_the_normalised_mean_over_templates(clip: OpenCLIP) -> None:
    found = clip.encode_classes(["cat", "red boat"], ["a photo of a {}.", "art of the {}.", "a {} in a video game."])
    for row, name in zip(found, ("cat", "red boat"), strict=True):
        texts = [f"a photo of a {name}.", f"art of the {name}.", f"a {name} in a video game."]
        expected = F.normalize(clip.encode_text(texts).mean(dim=0), dim=-1)
        torch.testing.assert_close(row, expected, atol=1e-5, rtol=1e-4)


def test_missing_models_are_one_sentence() -> None:
    with pytest.raises(ConfigurationError, match="did you mean 'ViT-B-32'"):
        OpenCLIP("ViT-B32").load()
    with pytest.raises(ModelError, match=r"no/such.*open_clip_config.json is missing"):
        OpenCLIP("local-dir:no/such").load()
    with pytest.raises(ModelError, match="no_such_tag"):
        OpenCLIP("ViT-B-32", "no_such_tag").load()
