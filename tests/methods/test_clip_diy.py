"""CLIP-DIY against a literal reading of its equations, with Miniature's CLIP."""

import cv2
import pytest
import torch
import torch.nn.functional as F
import yaml
from torch import nn

from harness import ConfigurationError, Protocol, Sample, Vocabulary
from harness.commands import evaluate
from harness.studies.readers import read_paper
from methods import ClipDIY
from methods.backbones import OpenCLIP
from methods.clip_diy import positions
from methods.regions import Saliency
from tests.methods.doubles import window_scores
from tests.running import REPOSITORY

CLIP = "local-dir:miniature/weights/clip"
WORDS = Vocabulary.from_class_names("cat, tree, boat")
PROTOCOL = Protocol("test", resize="none", window=None)


class LeftHalf(Saliency):
    """An objectness that is known: 0.9 on the left half, 0.2 on the right."""

    def __init__(self) -> None:
        super().__init__()
        self.sizes: list[tuple[int, int]] = []
        self.level = nn.Parameter(torch.tensor([0.9, 0.2]))

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        height, width = image.shape[1:]
        self.sizes.append((height, width))
        return torch.where(torch.arange(width) < width // 2, *self.level).expand(height, width)


def sample(height: int = 64, width: int = 64, seed: int = 0) -> Sample:
    random = torch.Generator().manual_seed(seed)
    image = torch.randint(0, 256, (3, height, width), generator=random, dtype=torch.uint8)
    return Sample(0, "x", image, image, None, (height, width))


def bound(protocol: Protocol = PROTOCOL, words: Vocabulary = WORDS, **settings: object) -> ClipDIY:
    method = ClipDIY(OpenCLIP(CLIP), **settings)
    method.bind(words, protocol)
    method.load()
    method.eval()
    with torch.inference_mode():
        method.prepare()
    return method


@torch.inference_mode()
def test_label_map_is_the_argmax_of_equations_1_to_4() -> None:
    method = bound(saliency=LeftHalf(), patch_sizes=(64, 32, 16))
    x = sample()
    text = method.clip.encode_classes(WORDS.names, ["a photo of a {}"])
    scales = []
    for patch in (64, 32, 16):
        rows = []
        for top in range(0, 64, patch):
            cells = [x.image[None, :, top : top + patch, left : left + patch] for left in range(0, 64, patch)]
            rows.append(torch.stack([method.clip.encode_images(cell)[0] @ text.T for cell in cells], dim=-1))
        similarity = torch.stack(rows, dim=1)
        scales.append(F.interpolate(similarity[None], (64, 64), mode="bilinear", align_corners=False)[0])
    m_clip = torch.stack(scales).mean(dim=0)
    theta = LeftHalf()(x.image)
    guide = torch.stack([1 - theta, theta, theta, theta])
    expected = (m_clip * guide).softmax(dim=0).argmax(dim=0)
    assert torch.equal(method.predict_image(x).long(), expected)


@torch.inference_mode()
def test_objectness_changes_the_map_and_only_with_a_background() -> None:
    guided = bound(saliency=LeftHalf(), patch_sizes=(32,)).predict_image(sample())
    plain = bound(patch_sizes=(32,)).predict_image(sample())
    assert not torch.equal(guided, plain)
    closed = Vocabulary(("cat", "tree", "boat"))
    with_saliency = bound(words=closed, saliency=LeftHalf(), patch_sizes=(32,))
    assert with_saliency.saliency is None
    assert torch.equal(
        with_saliency.predict_image(sample()), bound(words=closed, patch_sizes=(32,)).predict_image(sample())
    )


def test_patches_of_paper_and_release() -> None:
    assert positions(256, 128, 0.0) == [0, 128]
    # The release: 1 + 9 + 49 crops of 256, 128 and 64 pixels on 256.
    assert [len(positions(256, patch, 0.5)) ** 2 for patch in (256, 128, 64)] == [1, 9, 49]
    # N = ceil(H / P), all complete and inside (Sec. 3.1).
    for length in (96, 100, 448, 500):
        for patch in (64, 128, 256):
            starts = positions(length, patch, 0.0)
            assert len(starts) == max(1, -(-length // patch))
            assert starts[0] == 0
            assert starts[-1] == max(0, length - patch)


@torch.inference_mode()
def test_placement_puts_overlapping_patches_where_they_were_cut() -> None:
    windows = sample().image[None]
    centre = window_scores(bound(patch_sizes=(32,), overlap=0.5), windows)[0]
    stretch = window_scores(bound(patch_sizes=(32,), overlap=0.5, placement="stretch"), windows)[0]
    assert torch.equal(centre.scores, stretch.scores)
    # Three patches of 32 px at 0, 16 and 32: centres 16, 32, 48, so cells of 16 px from 8 to 56.
    assert centre.extent == (8.0, 8.0, 56.0, 56.0)
    assert stretch.extent is None


@torch.inference_mode()
def test_scale_weights_are_a_weighted_mean() -> None:
    windows = sample().image[None]
    first, second = window_scores(bound(patch_sizes=(64, 32)), windows)
    weighted = window_scores(bound(patch_sizes=(64, 32), scale_weights=(3, 1)), windows)
    torch.testing.assert_close(weighted[0].scores / 2, first.scores * 0.75)
    torch.testing.assert_close(weighted[1].scores / 2, second.scores * 0.25)


@torch.inference_mode()
def test_saliency_sees_the_resized_or_the_native_image() -> None:
    small = Sample(0, "x", sample(48, 48).image, sample(96, 96).image, None, (96, 96))
    for setting, size in (("resized", (48, 48)), ("native", (96, 96))):
        method = bound(saliency=LeftHalf(), patch_sizes=(32,), saliency_input=setting)
        method.predict_image(small)
        assert method.saliency.sizes == [size]


@pytest.mark.parametrize(
    ("settings", "word"),
    [
        ({"patch_sizes": ()}, "patch_sizes"),
        ({"scale_weights": (1.0,)}, "scale_weights"),
        ({"scale_weights": (0.0, 0.0, 0.0)}, "scale_weights"),
        ({"overlap": 1.0}, "overlap"),
        ({"templates": ("no name",)}, "templates"),
        ({"window_batch": 0}, "window_batch"),
    ],
)
def test_bad_settings_are_named(settings: dict[str, object], word: str) -> None:
    with pytest.raises(ConfigurationError, match=word):
        ClipDIY(OpenCLIP(CLIP), **settings)


@torch.inference_mode()
def test_native_saliency_is_resized_as_opencv_does() -> None:
    """The release resizes FOUND's map with the image's transform: OpenCV's bilinear, without antialiasing."""

    class Noise(LeftHalf):
        def forward(self, image: torch.Tensor) -> torch.Tensor:
            return torch.rand(image.shape[1:], generator=torch.Generator().manual_seed(0))

    native = sample(75, 100).image
    context = bound(saliency=Noise(), saliency_input="native").encode_image(
        Sample(0, "x", sample(64, 64).image, native, None, (75, 100))
    )
    expected = cv2.resize(Noise()(native).numpy(), (64, 64), interpolation=cv2.INTER_LINEAR)
    torch.testing.assert_close(context, torch.from_numpy(expected), atol=1e-6, rtol=0)


PAPER = read_paper(REPOSITORY / "configs" / "papers" / "clip_diy.yaml")


def test_scale_0_is_global_in_every_row_of_the_paper() -> None:
    """P_0 = 256 on the whole image of 256x256, seen at once; then 2x2, 4x4, ... patches, or 3x3, 7x7 that overlap."""
    parser = evaluate.parser()
    for cell in PAPER:
        parsed = parser.parse_args(cell.arguments)
        protocol, method = parsed.protocol, parsed.method.init_args
        assert (protocol.resize, tuple(protocol.size), protocol.window) == ("squash", (256, 256), None), cell.name
        release = "_release/" in cell.name
        assert (protocol.name, method.overlap) == (("clip_diy_release", 0.5) if release else ("clip_diy_whole", 0.0))
        counts = {size: len(positions(256, size, method.overlap)) for size in method.patch_sizes}
        all_counts = {256: 1, 128: 3, 64: 7, 32: 15, 16: 31} if release else {256: 1, 128: 2, 64: 4, 32: 8, 16: 16}
        assert counts == {size: all_counts[size] for size in counts}, cell.name
        assert (256 in counts) == ("scales_123" not in cell.name), cell.name


@pytest.mark.parametrize(("name", "crops"), [("clip_diy_whole", 1 + 4 + 16), ("clip_diy_release", 1 + 9 + 49)])
@torch.inference_mode()
def test_clip_sees_the_whole_image_and_its_parts(name: str, crops: int) -> None:
    settings = yaml.safe_load((REPOSITORY / "configs" / "protocols" / f"{name}.yaml").read_text())
    protocol = Protocol(**{key: tuple(value) if isinstance(value, list) else value for key, value in settings.items()})
    method = bound(protocol, overlap=0.5 if name == "clip_diy_release" else 0.0)
    seen: list[torch.Tensor] = []
    encode = method.clip.encode_images
    method.clip.encode_images = lambda images: seen.extend(images) or encode(images)
    picture = sample(75, 100).image
    resized = protocol.resize_image(picture.permute(1, 2, 0).numpy())
    expected = torch.from_numpy(cv2.resize(picture.permute(1, 2, 0).numpy(), (256, 256))).permute(2, 0, 1)
    image = torch.from_numpy(resized).permute(2, 0, 1)
    method.predict_image(Sample(0, "x", image, picture, None, (75, 100)))
    assert len(seen) == crops
    assert torch.equal(seen[0], expected)
    assert torch.equal(seen[1], expected[:, :128, :128])
    assert torch.equal(seen[-1], expected[:, 192:, 192:])
