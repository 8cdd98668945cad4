"""Masks from objectness: one per connected salient part."""

import pytest
import torch
from torch import Tensor

from harness import ConfigurationError
from methods.regions import Saliency, SalientObjects


class RedChannel(Saliency):
    """Objectness is how red a pixel is."""

    def forward(self, image: Tensor) -> Tensor:
        return image[0].float() / 255


def red_image() -> Tensor:
    image = torch.zeros(3, 20, 30, dtype=torch.uint8)
    image[0, 2:8, 2:8] = 255  # 36 pixels
    image[0, 8:12, 8:13] = 200  # 20 pixels, which touch the first at a corner
    image[0, 15:17, 20:22] = 255  # 4 pixels
    image[0, 2:10, 20:28] = 120  # below one half
    return image


def test_every_connected_part_above_the_threshold_is_a_mask() -> None:
    masks = SalientObjects(RedChannel()).masks(red_image())
    assert [int(mask.sum()) for mask in masks] == [36, 20]
    assert masks.dtype == torch.bool
    assert masks.shape[1:] == (20, 30)
    assert masks[0, 2:8, 2:8].all()
    assert [int(mask.sum()) for mask in SalientObjects(RedChannel(), 0.4).masks(red_image())] == [36, 64, 20]
    assert len(SalientObjects(RedChannel(), min_area=1).masks(red_image())) == 3


def test_an_image_without_objects_has_no_masks() -> None:
    assert SalientObjects(RedChannel()).masks(torch.zeros(3, 8, 9, dtype=torch.uint8)).shape == (0, 8, 9)


def test_settings_tell_what_determines_the_masks() -> None:
    told = [SalientObjects(RedChannel(), *rest).settings() for rest in ((0.5, 16), (0.4, 16), (0.5, 8))]
    assert all(each["saliency"] == {"class": "RedChannel"} for each in told)
    assert told[0] != told[1] != told[2] != told[0]


@pytest.mark.parametrize("arguments", [(1.0, 16), (-0.1, 16), (0.5, 0)])
def test_settings_out_of_range_are_refused(arguments: tuple[float, int]) -> None:
    with pytest.raises(ConfigurationError, match="SalientObjects"):
        SalientObjects(RedChannel(), *arguments)
