"""CLIP's image as the release of OVDiff makes it."""

import pytest
import torch
import torchvision.transforms as T
import torchvision.transforms.functional as TF
from PIL import Image

from harness import ConfigurationError
from methods.backbones import OpenCLIP
from methods.ovdiff.release_clip import ReleaseCLIP


@torch.inference_mode()
def test_images_are_squashed_by_lanczos_and_then_bilinearly() -> None:
    clip = OpenCLIP("local-dir:miniature/weights/clip")
    release = ReleaseCLIP(clip, size=100)
    release.load()
    images = torch.randint(0, 256, (2, 3, 60, 90), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    # The release's lines (mmdata.py ``prep_sample``, utils/clip_class.py); torchvision 0.13 did not antialias tensors.
    mean, std = clip.normalisation
    augment = T.Compose([T.Resize(clip.input_size, antialias=False), T.Normalize(mean, std)])
    expected = []
    for image in images:
        whole = Image.fromarray(image.permute(1, 2, 0).numpy())
        seen = TF.to_tensor(TF.resize(whole, (100, 100), interpolation=TF.InterpolationMode.LANCZOS))
        embedded = clip.model.encode_image(augment(seen)[None])[0]
        expected.append(embedded / embedded.norm())
    torch.testing.assert_close(release.encode_images(images), torch.stack(expected), atol=1e-5, rtol=1e-4)
    assert not torch.allclose(clip.encode_images(images), torch.stack(expected), atol=1e-3)
    assert torch.equal(release.encode_text(["a cat"]), clip.encode_text(["a cat"]))


def test_a_size_of_nothing_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="positive"):
        ReleaseCLIP(OpenCLIP(), size=0)
