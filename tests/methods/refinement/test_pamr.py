"""PAMR: against its definition pixel by pixel, its invariances, chunks of classes and its cache."""

import pytest
import torch
import torch.nn.functional as F

import methods.refinement.pamr as pamr
from harness.system.errors import ConfigurationError
from methods.refinement.pamr import DILATIONS, PAMR

HEIGHT, WIDTH, CLASSES = 40, 53, 5


def slow_pamr(image, planes, iterations, dilations):
    """The definition, pixel by pixel, in float64."""
    height, width = image.shape[1:]
    planes = F.interpolate(planes[None].double(), (height, width), mode="bilinear", align_corners=True)[0]
    image = image.double()

    def at(values, row, column):
        return values[:, min(max(row, 0), height - 1), min(max(column, 0), width - 1)]

    around = [(d * i, d * j) for d in dilations for i in (-1, 0, 1) for j in (-1, 0, 1)]
    weights = {}
    for row in range(height):
        for column in range(width):
            patch = torch.stack([at(image, row + i, column + j) for i, j in around])
            distance = (patch - at(image, row, column)).abs() / (1e-8 + 0.1 * patch.std(dim=0, unbiased=True))
            keep = torch.tensor([i != 0 or j != 0 for i, j in around])
            weights[row, column] = (-distance.mean(dim=1))[keep].softmax(dim=0)
    neighbours = [(i, j) for i, j in around if i or j]
    for _ in range(iterations):
        refined = torch.empty_like(planes)
        for (row, column), weight in weights.items():
            values = torch.stack([at(planes, row + i, column + j) for i, j in neighbours])
            refined[:, row, column] = weight @ values
        planes = refined
    return planes.float()


@pytest.fixture
def scene():
    generator = torch.Generator().manual_seed(3)
    image = torch.randint(0, 256, (3, HEIGHT, WIDTH), generator=generator, dtype=torch.uint8)
    image[:, 5:30, 8:30] = torch.tensor([200, 40, 90], dtype=torch.uint8)[:, None, None]
    return image, torch.rand(CLASSES, HEIGHT, WIDTH, generator=generator)


def test_equals_the_definition(scene):
    image, planes = scene
    expected = slow_pamr(image, planes, 2, DILATIONS)
    assert (PAMR(iterations=2)(image, planes) - expected).abs().max() < 1e-5


def test_planes_of_another_size_are_brought_to_the_image_with_aligned_corners(scene):
    image, planes = scene
    small = planes[:2, :10, :14]
    expected = slow_pamr(image[:, :20, :27], small, 1, (1, 3))
    assert (PAMR(iterations=1, dilations=(1, 3))(image[:, :20, :27], small) - expected).abs().max() < 1e-5


def test_ten_iterations_by_shifted_planes_equal_those_by_the_sparse_matrix(scene, monkeypatch):
    image, planes = scene
    by_matrix = PAMR()(image, planes)
    monkeypatch.setattr(pamr.torch.backends.mkl, "is_available", lambda: False)
    by_shifts = PAMR()(image, planes)
    assert (by_matrix - by_shifts).abs().max() < 1e-5


def test_a_channels_scale_and_offset_change_nothing(scene):
    image, planes = scene
    normalised = (image.float() - torch.tensor([123.675, 116.28, 103.53])[:, None, None]) / torch.tensor(
        [58.395, 57.12, 57.375]
    )[:, None, None]
    assert (PAMR()(image, planes) - PAMR()(normalised, planes)).abs().max() < 1e-4


def test_classes_are_refined_alone_in_chunks_with_one_affinity(scene, monkeypatch):
    image, planes = scene
    whole = PAMR()(image, planes)
    refine = PAMR()
    calls = []
    affinity = refine.affinity
    monkeypatch.setattr(refine, "affinity", lambda image: calls.append(1) or affinity(image))
    # A slice of the same image, a new tensor each time, as the engine gives it.
    parts = [refine(image[:, :HEIGHT], planes[i : i + 1]) for i in range(CLASSES)]
    assert torch.cat(parts).sub(whole).abs().max() < 1e-6
    assert len(calls) == 1
    changed = image.clone()
    changed[0, 0, 0] ^= 255
    refine(changed, planes)
    assert len(calls) == 2
    image.copy_(changed)
    assert torch.equal(refine(image, planes), PAMR()(changed, planes))


def test_memory_is_bounded_by_chunks_of_classes(scene, monkeypatch):
    image, planes = scene
    whole = PAMR()(image, planes)
    widths = []
    multiply = PAMR._multiply
    monkeypatch.setattr(pamr, "class_chunks", lambda c, h, w: [slice(i, min(i + 2, c)) for i in range(0, c, 2)])
    monkeypatch.setattr(PAMR, "_multiply", lambda self, m, p: widths.append(len(p)) or multiply(self, m, p))
    assert torch.allclose(PAMR()(image, planes), whole, atol=1e-6)
    assert widths == [2, 2, 1]


def test_edges_hold_and_flat_regions_stay_finite():
    image = torch.zeros(3, 32, 64, dtype=torch.uint8)
    image[:, :, 32:] = 255
    plane = torch.zeros(1, 32, 64)
    plane[:, :, 36:] = 1.0  # four pixels off the edge
    refined = PAMR()(image, plane)
    assert refined.isfinite().all()
    assert refined[0, 16, 33] > 0.5
    assert refined[0, 16, 30] < 0.05
    constant = PAMR()(torch.full((3, 32, 64), 7, dtype=torch.uint8), torch.full((1, 32, 64), 0.25))
    assert torch.allclose(constant, torch.tensor(0.25), atol=1e-6)


@pytest.mark.parametrize("settings", [{"iterations": -1}, {"dilations": ()}, {"dilations": (0, 1)}])
def test_impossible_settings_are_named(settings):
    with pytest.raises(ConfigurationError, match="PAMR"):
        PAMR(**settings)


@pytest.mark.parametrize("device", ["cpu", *(["cuda"] if torch.cuda.is_available() else [])])
def test_stays_on_the_device_of_the_planes(scene, device):
    image, planes = scene
    refined = PAMR()(image.to(device), planes.to(device))
    assert refined.device.type == device
    assert (refined.cpu() - PAMR()(image, planes)).abs().max() < 1e-4
