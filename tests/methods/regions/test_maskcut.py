"""MaskCut and OpenCut: the fast solver against LAPACK, the rules of each stage, and masks of images."""

from collections.abc import Iterator

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from scipy.linalg import eigh
from threadpoolctl import threadpool_limits
from transformers import ViTConfig, ViTModel

import methods.regions.ncut as ncut
from benchmarks.maskcut import agreement, planted
from harness.system.errors import ConfigurationError
from methods.backbones import HubViT
from methods.refinement import DenseCRF
from methods.regions import MaskCut, OpenCut, maskcut
from methods.regions.maskcut import ReferenceGraph, component, cosines, cut_masks, foreground
from methods.regions.ncut import PatchGraph
from methods.regions.opencut import exclusive_regions

GRID = (20, 23)


@pytest.fixture(autouse=True, scope="module")
def one_thread() -> Iterator[None]:
    """LAPACK's threads wait for each other far longer than these matrices take, where other programs run."""
    with threadpool_limits(1):
        yield


def affinity(features: torch.Tensor, tau: float) -> np.ndarray:
    unit = F.normalize(features.flatten(1), dim=0)
    return np.where((unit.T @ unit).numpy() > tau, 1.0, 1e-5)


def regions(seed: int, noise: float, grid: tuple[int, int] = GRID) -> torch.Tensor:
    """[48, rows, columns]: three rectangles on a ground."""
    generator = torch.Generator().manual_seed(seed)
    features = torch.randn(48, 1, 1, generator=generator).repeat(1, *grid)
    for rows, columns in ((slice(2, 8), slice(3, 9)), (slice(10, 18), slice(2, 9)), (slice(5, 14), slice(13, 20))):
        features[:, rows, columns] = torch.randn(48, 1, 1, generator=generator)
    return features + noise * torch.randn(48, *grid, generator=generator)


@pytest.mark.parametrize("tau", [0.15, -0.05])
@pytest.mark.parametrize("excluded", [0, 60])
def test_the_iterated_eigenvector_is_lapacks(tau: float, excluded: int) -> None:
    features = planted(5, GRID, 48)
    patches = torch.arange(GRID[0] * GRID[1]) % 460 < excluded
    graph = PatchGraph(cosines(features), tau)
    graph.exclude(patches)
    matrix = affinity(features * ~patches.reshape(GRID), tau)
    degrees = np.diag(matrix.sum(axis=1))
    values, vectors = eigh(degrees - matrix, degrees, subset_by_index=[1, 2])
    expected = torch.from_numpy(vectors[:, 0])
    found = graph.second_eigenvector()
    found = found * torch.sign(found @ expected)
    assert values[1] - values[0] > 1e-3
    assert (found - expected).norm() < 2e-4 * expected.norm()


def test_eigenvalues_too_close_for_float32_are_told_apart() -> None:
    # Cliques of 100 and 101 on a ground: the second and third eigenvalue differ by less than 1e-4.
    cosine = torch.zeros(400, 400)
    for part in (slice(0, 100), slice(100, 201), slice(201, 400)):
        cosine[part, part] = 1
    matrix = np.where(cosine.numpy() > 0.5, 1.0, 1e-5)
    degrees = np.diag(matrix.sum(axis=1))
    values, vectors = eigh(degrees - matrix, degrees, subset_by_index=[1, 2])
    assert values[1] - values[0] < 1e-4
    found = PatchGraph(cosine, 0.5).second_eigenvector()
    expected = torch.from_numpy(vectors[:, 0])
    assert (found * torch.sign(found @ expected) - expected).norm() < 1e-3 * expected.norm()


@pytest.mark.parametrize("tau", [0.15, 0.3])
def test_fast_masks_are_the_references(tau: float) -> None:
    # Just more patches than are solved densely.
    maps = [planted(seed, (14, 15), 64) for seed in range(10)] + [regions(seed, 0.5) for seed in range(2)]
    alike = [agreement(maskcut(f, 3, tau, "reference"), maskcut(f, 3, tau, "fast")) for f in maps]
    assert sum(alike) / len(alike) >= 0.98


def test_clean_regions_are_found_one_by_one() -> None:
    truth = regions(0, 0.0)
    for mode in ("fast", "reference"):
        masks = maskcut(regions(0, 0.3), 3, 0.3, mode)
        assert masks.shape == (3, *GRID)
        assert masks.sum(dim=0).max() == 1
        for mask in masks:
            assert mask.any()
            # One colour per mask, and all of it.
            assert torch.equal(mask, (truth == truth[:, mask][:, :1, None]).all(dim=0))


def test_the_start_is_fixed_and_the_solver_reuses_what_it_knows(monkeypatch: pytest.MonkeyPatch) -> None:
    features = planted(1, GRID, 48)
    assert torch.equal(maskcut(features), maskcut(features))
    products = []
    multiply = PatchGraph._multiply
    monkeypatch.setattr(PatchGraph, "_multiply", lambda self, v: products.append(1) or multiply(self, v))
    graph = PatchGraph(cosines(features), 0.15)
    first = graph.second_eigenvector()
    spent = len(products)
    graph.exclude(torch.zeros(len(first), dtype=torch.bool))
    assert torch.equal(graph.second_eigenvector(), first)
    assert len(products) == spent
    assert spent < 20


class Scripted:
    """A graph whose eigenvectors are given, and which remembers what was generated."""

    device, uniform = torch.device("cpu"), False

    def __init__(self, *vectors: torch.Tensor) -> None:
        self.vectors = list(vectors)
        self.excluded: list[int] = []

    def second_eigenvector(self) -> torch.Tensor:
        return self.vectors.pop(0).flatten()

    def exclude(self, patches: torch.Tensor) -> None:
        self.excluded.append(int(patches.sum()))


def bump(rows: slice, columns: slice, grid: tuple[int, int] = (12, 12)) -> torch.Tensor:
    vector = torch.full(grid, -0.1)
    vector[rows, columns] = 1.0
    return vector


def test_a_repeated_mask_is_dropped_once_and_then_accepted_again() -> None:
    first, same = bump(slice(2, 6), slice(2, 6)), bump(slice(2, 6), slice(2, 7))
    graph = Scripted(first, same, same)
    masks = cut_masks(graph, (12, 12), 3)
    # Generated as a whole, but what is given back leaves out earlier masks.
    assert graph.excluded == [16, 0, 20]
    assert masks.flatten(1).sum(dim=1).tolist() == [16, 0, 4]


def test_masks_of_one_per_cent_are_dropped_but_for_the_first() -> None:
    dot = bump(slice(3, 4), slice(3, 4))
    assert cut_masks(Scripted(dot), (12, 12), 1).sum() == 1
    masks = cut_masks(Scripted(bump(slice(8, 11), slice(8, 11)), dot), (12, 12), 2)
    assert masks.flatten(1).sum(dim=1).tolist() == [9, 0]


@pytest.mark.parametrize("sign", [1, -1])
def test_the_foreground_does_not_depend_on_the_eigenvectors_sign(sign: int) -> None:
    object_, tail = bump(slice(2, 6), slice(2, 6)), bump(slice(8, 10), slice(8, 10))
    vector = torch.maximum(object_, 0.5 * tail)
    assert torch.equal(foreground(sign * vector.flatten(), (12, 12)), object_ > 0)
    # The side with the peak holds all corners: the other side is the object.
    frame = -bump(slice(3, 9), slice(3, 9))
    frame[0, 0] = 2.0
    assert torch.equal(foreground(sign * frame.flatten(), (12, 12)), bump(slice(3, 9), slice(3, 9)) > 0)
    # A frame that lacks two corners stays the object.
    frame[0, 11] = frame[11, 0] = -1.0
    kept = foreground(sign * frame.flatten(), (12, 12))
    assert kept[0, 0]
    assert not kept[5, 5]


def test_components_are_4_connected_and_grown_from_the_seed() -> None:
    mask = torch.zeros(30, 41, dtype=torch.bool)
    mask[::2] = True
    mask[1::4, -1] = True
    mask[3::4, 0] = True  # one long snake
    mask[29] = False
    snake = component(mask, torch.tensor(0))
    assert torch.equal(snake, mask)
    diagonal = torch.eye(5, dtype=torch.bool)
    assert component(diagonal, torch.tensor(6)).sum() == 1
    assert torch.equal(component(diagonal, torch.tensor(1)), ~diagonal)


def test_a_uniform_graph_is_not_cut() -> None:
    features = torch.randn(16, 1, 1).repeat(1, 6, 7)
    assert not maskcut(features).any()
    graph = PatchGraph(cosines(features), -0.1)
    assert graph.uniform
    half = PatchGraph(cosines(features), 0.1)
    half.exclude(torch.arange(42) < 20)
    assert not half.uniform
    half.exclude(torch.ones(42, dtype=torch.bool))
    assert half.uniform
    assert not ReferenceGraph(features.flatten(1), 0.1).uniform


@pytest.mark.parametrize("device", ["cpu", *(["cuda"] if torch.cuda.is_available() else [])])
def test_masks_stay_on_the_features_device(device: str) -> None:
    features = planted(2, GRID, 48)
    masks = maskcut(features.to(device))
    assert masks.device.type == device
    assert agreement(masks.cpu(), maskcut(features)) > 0.98


@pytest.fixture(scope="module")
def backbone(tmp_path_factory: pytest.TempPathFactory) -> HubViT:
    folder = tmp_path_factory.mktemp("vit")
    torch.manual_seed(0)
    config = ViTConfig(hidden_size=24, num_hidden_layers=1, num_attention_heads=3, patch_size=8, image_size=64)
    ViTModel(config, add_pooling_layer=False).save_pretrained(folder)
    return HubViT(str(folder))


@pytest.fixture
def image() -> torch.Tensor:
    """[3, 70, 90]: two plain rectangles on a noisy ground."""
    noise = torch.randint(0, 20, (3, 70, 90), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    noise[0, 10:34, 12:40] += 200
    noise[1, 40:62, 50:82] += 200
    return noise


@torch.inference_mode()
@pytest.mark.parametrize("refined", [False, pytest.param(True, marks=pytest.mark.crf)])
def test_masks_of_an_image(backbone: HubViT, image: torch.Tensor, refined: bool) -> None:
    regions_ = MaskCut(backbone, size=100, tau=0.9, crf=DenseCRF.cutler() if refined else None)
    regions_.load()
    masks = regions_.masks(image)
    assert masks.dtype == torch.bool
    assert masks.shape[1:] == image.shape[1:]
    assert 1 <= len(masks) <= 3
    assert masks.flatten(1).any(dim=1).all()
    regions_.tau = -1.0  # all patches are alike
    assert regions_.masks(image).shape == (0, 70, 90)
    regions_.tau = 0.9
    # 100 pixels are taken as 12 patches of 8, so a mask without a CRF is made of 12 x 12 cells.
    assert regions_.masks(image[:, :5, :5]).shape[1:] == (5, 5)


@torch.inference_mode()
@pytest.mark.parametrize(
    "settings",
    [
        {},
        pytest.param({"grid": "pixel", "crf_on": "masks"}, marks=pytest.mark.crf),
        pytest.param({"crf_on": "regions"}, marks=pytest.mark.crf),
    ],
)
def test_opencut_gives_exclusive_masks(backbone: HubViT, image: torch.Tensor, settings: dict[str, object]) -> None:
    if settings:
        settings = {**settings, "crf": DenseCRF.cutler()}
    regions_ = OpenCut(backbone, taus=(0.9, 0.7, 0.98), size=96, min_area=4, **settings)
    regions_.load()
    masks = regions_.masks(image)
    assert masks.shape[1:] == image.shape[1:]
    assert len(masks) > 1
    assert masks.sum(dim=0).max() == 1
    assert masks.flatten(1).any(dim=1).all()
    regions_.taus = (-1.0,)  # all patches are alike
    assert regions_.masks(image).shape == (0, 70, 90)


def block(rows: slice, columns: slice) -> torch.Tensor:
    mask = torch.zeros(20, 20, dtype=torch.bool)
    mask[rows, columns] = True
    return mask


def test_opencuts_rules() -> None:
    first = block(slice(0, 10), slice(0, 10))
    grown = block(slice(0, 11), slice(0, 10))  # IoU 0.91: the same object
    inside = block(slice(2, 8), slice(4, 11))  # 6/7 covered
    beside = block(slice(4, 12), slice(5, 20))  # overlaps less than half
    two = block(slice(15, 20), slice(0, 5)) | block(slice(15, 19), slice(10, 14)) | block(slice(14, 16), slice(18, 20))
    found = exclusive_regions([first, grown, inside, beside, two])
    assert len(found) == 4
    assert torch.equal(found[0], grown)
    assert torch.equal(found[1], beside & ~grown)
    # A mask's components are apart; the one of 4 pixels is too small.
    assert [int(mask.sum()) for mask in found[2:]] == [25, 16]
    assert found.sum(dim=0).max() == 1
    assert len(exclusive_regions([first, inside], max_overlap=0.9)) == 2
    assert len(exclusive_regions([first, grown], merge_iou=0.95, max_overlap=0.95)) == 2
    assert exclusive_regions(torch.zeros(2, 20, 20, dtype=torch.bool)).shape == (0, 20, 20)


def test_impossible_settings_are_named(backbone: HubViT) -> None:
    for settings in ({"stages": 0}, {"mode": "slow"}):
        with pytest.raises(ConfigurationError, match="MaskCut"):
            MaskCut(backbone, **settings)
    for settings in ({"taus": ()}, {"grid": "cell"}):
        with pytest.raises(ConfigurationError, match="OpenCut"):
            OpenCut(backbone, **settings)


@pytest.mark.crf
def test_opencut_refines_only_pixels_by_a_crf(backbone: HubViT) -> None:
    with pytest.raises(ConfigurationError, match="OpenCut"):
        OpenCut(backbone, crf=DenseCRF())


def test_a_small_image_of_few_patches_is_solved_densely(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ncut, "LARGEST_BASIS", 0)
    features = regions(3, 0.4, (20, 20))
    iterated = maskcut(features, 3, 0.3)
    monkeypatch.setattr(ncut, "LARGEST_BASIS", 1000)
    assert torch.equal(maskcut(features, 3, 0.3), iterated)
