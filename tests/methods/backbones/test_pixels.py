"""From uint8 images to a model's input: resizing is Pillow's, value for value."""

from typing import get_args

import numpy as np
import pytest
import torch
from PIL import Image

from methods.backbones.pixels import Filter, resize, two_passes

# To smaller and larger, one side alone, sides of one pixel, and those of CLIP, BLIP, CutLER and MaskCut.
SIZES = [
    ((256, 256), (224, 224)), ((64, 64), (224, 224)), ((375, 500), (384, 384)), ((60, 90), (60, 31)),
    ((60, 90), (13, 90)), ((1, 40), (17, 3)), ((40, 1), (1, 1)), ((97, 131), (48, 48)), ((333, 500), (480, 480)),
    ((375, 500), (800, 1067)), ((30, 40), (30, 40)),
]  # fmt: skip


def random_images(height: int, width: int, count: int = 2, channels: int = 3) -> torch.Tensor:
    """Noise, and half of it black or white, where filters with negative weights leave [0, 255]."""
    random = np.random.default_rng(height * 1000 + width)
    noise = random.integers(0, 256, (count, channels, height, width), dtype=np.uint8)
    noise[:, :, : height // 2] = (noise[:, :, : height // 2] > 127) * 255
    return torch.from_numpy(noise)


def pillow(images: torch.Tensor, size: tuple[int, int], mode: Filter) -> torch.Tensor:
    resampling = {"bilinear": Image.BILINEAR, "bicubic": Image.BICUBIC, "lanczos": Image.LANCZOS}[mode]
    resized = [
        np.array(Image.fromarray(image.permute(1, 2, 0).contiguous().numpy()).resize((size[1], size[0]), resampling))
        for image in images
    ]
    return torch.from_numpy(np.stack(resized)).permute(0, 3, 1, 2)


@pytest.mark.parametrize("mode", get_args(Filter))
@pytest.mark.parametrize(("seen", "size"), SIZES)
def test_images_are_resized_as_pillow_does_to_the_last_level(
    mode: Filter, seen: tuple[int, int], size: tuple[int, int]
) -> None:
    images = random_images(*seen)
    expected = pillow(images, size, mode)
    found = resize(images, size, mode)
    assert found.dtype == torch.float32
    assert torch.equal(found, expected.float())
    # What other devices do.
    assert torch.equal(two_passes(images, size, mode), expected)


def test_channels_and_images_are_independent_of_how_many_there_are() -> None:
    images = random_images(40, 56, 3, 4)
    expected = torch.cat(
        [pillow(images[:, :3], (23, 64), "bicubic"), pillow(images[:, 1:], (23, 64), "bicubic")[:, 2:]], 1
    )
    assert torch.equal(resize(images, (23, 64)), expected.float())
    assert torch.equal(resize(images[:, 3:], (23, 64)), expected[:, 3:].float())
    assert resize(images[:0, :3], (23, 64)).shape == (0, 3, 23, 64)
    assert resize(images[:0, :1], (23, 64)).shape == (0, 1, 23, 64)
    assert resize(images, (23, 64)).is_contiguous()
