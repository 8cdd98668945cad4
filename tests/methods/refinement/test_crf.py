"""The dense CRF: posteriors against mean field written out, published parameters, and MaskCut's rules around it."""

import sys

import numpy as np
import pytest
import torch
from pydensecrf import densecrf
from pydensecrf.utils import unary_from_labels, unary_from_softmax

from harness.system.errors import ConfigurationError
from methods.refinement import DenseCRF, refine_proposal

SIZE = 48


@pytest.fixture
def image() -> torch.Tensor:
    """A bright square on a dark ground, with noise."""
    noise = torch.randint(0, 12, (3, SIZE, SIZE), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    noise[:, 12:36, 12:36] += 180
    return noise


@pytest.fixture
def ragged() -> torch.Tensor:
    """The square's mask with a false border, a hole and speckles."""
    mask = torch.zeros(SIZE, SIZE, dtype=torch.bool)
    mask[11:37, 13:38] = True
    mask[20:23, 20:23] = False
    mask[2, 40] = True
    return mask


def square() -> torch.Tensor:
    mask = torch.zeros(SIZE, SIZE, dtype=torch.bool)
    mask[12:36, 12:36] = True
    return mask


def by_hand(image, unary, gaussian, bilateral):
    crf = densecrf.DenseCRF2D(SIZE, SIZE, 2)
    crf.setUnaryEnergy(np.ascontiguousarray(unary))
    crf.addPairwiseGaussian(sxy=gaussian[0], compat=gaussian[1])
    rgb = np.ascontiguousarray(image.permute(1, 2, 0).numpy())
    crf.addPairwiseBilateral(sxy=bilateral[0], srgb=bilateral[1], rgbim=rgb, compat=bilateral[2])
    return torch.from_numpy(np.array(crf.inference(10))[1].reshape(SIZE, SIZE))


def test_cutlers_parameters(image, ragged):
    logits = torch.stack([1 - ragged.double(), ragged.double()])
    unary = unary_from_softmax(logits.softmax(dim=0).numpy())
    expected = by_hand(image, unary, (3, 7), (50, 5, 10))
    assert torch.allclose(DenseCRF.cutler()(image, ragged[None].float())[0], expected, atol=1e-5)


def test_freeseg_diffs_parameters(image, ragged):
    unary = unary_from_labels(ragged.long().numpy(), 2, gt_prob=0.9, zero_unsure=False)
    expected = by_hand(image, unary, (20, 5), (20, 20, 100))
    assert torch.allclose(DenseCRF.freeseg_diff()(image, ragged[None].float())[0], expected, atol=1e-5)


@pytest.mark.parametrize("crf", [DenseCRF.cutler(), DenseCRF.freeseg_diff()])
def test_masks_snap_to_the_images_edges(crf, image, ragged):
    refined = crf.mask(image, ragged)
    assert (refined ^ square()).sum() < (ragged ^ square()).sum() / 4


def test_each_plane_is_refined_alone(image):
    planes = torch.rand(3, SIZE, SIZE, generator=torch.Generator().manual_seed(1))
    crf = DenseCRF()
    together = crf(image, planes)
    assert together.shape == planes.shape
    assert 0 <= together.min() <= together.max() <= 1
    for i in range(3):
        assert torch.equal(crf(image, planes[i : i + 1])[0], together[i])


def test_proposals_holes_are_filled_and_disagreeing_ones_emptied(image, ragged):
    assert torch.equal(refine_proposal(DenseCRF.cutler(), image, ragged), square())
    # A ring in the image: the CRF alone leaves the hole open.
    ring = image.clone()
    ring[:, 20:28, 20:28] -= 150
    mask = square()
    mask[20:28, 20:28] = False
    crf = DenseCRF.cutler()
    assert not crf.mask(ring, mask)[22:26, 22:26].any()
    assert refine_proposal(crf, ring, mask)[20:28, 20:28].all()
    # A few pixels of the square: the CRF swallows them.
    speck = torch.zeros(SIZE, SIZE, dtype=torch.bool)
    speck[12:14, 12:14] = True
    assert not refine_proposal(crf, image, speck).any()
    assert not refine_proposal(crf, image, torch.zeros_like(speck)).any()


@pytest.mark.parametrize("settings", [{"unary": "logit"}, {"label_certainty": 1.0}, {"iterations": 0}])
def test_impossible_settings_are_named(settings):
    with pytest.raises(ConfigurationError, match="DenseCRF"):
        DenseCRF(**settings)


def test_float_images_and_other_sizes_are_refused(image):
    with pytest.raises(ConfigurationError, match="uint8 image"):
        DenseCRF()(image.float(), torch.zeros(1, SIZE, SIZE))
    with pytest.raises(ConfigurationError, match="planes of its size"):
        DenseCRF()(image, torch.zeros(1, SIZE, SIZE // 2))


def test_a_missing_package_is_one_sentence(monkeypatch):
    monkeypatch.setitem(sys.modules, "pydensecrf", None)
    with pytest.raises(ConfigurationError, match="pip install pydensecrf2"):
        DenseCRF().load()
