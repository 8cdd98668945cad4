"""The sealed pipeline: what every method gets for its scores, and what it cannot change."""

from collections.abc import Sequence
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from harness import (
    ConfigurationError,
    Protocol,
    Refiner,
    Sample,
    ScoreMap,
    SegmentationData,
    SegmentationMethod,
    Vocabulary,
)
from harness.method import windows
from harness.method.windows import Box


class Pooled(SegmentationMethod):
    """Scores of a fixed random projection of 4x4 pixels; keeps what it was asked."""

    name = "pooled"
    scores_background = True

    def __init__(self, window_batch: int = 8, background_threshold: float | None = None) -> None:
        super().__init__(window_batch, background_threshold)
        self.seen: list[tuple[int, ...]] = []
        self.boxes: list[Box] = []

    def load(self) -> None:
        generator = torch.Generator().manual_seed(0)
        self.projection = torch.nn.Conv2d(3, len(self.vocabulary) - (not self.scores_background), 4, 4, bias=False)
        self.projection.weight.data = torch.randn(self.projection.weight.shape, generator=generator)
        self.projection.requires_grad_(False)

    def encode(self, windows: Tensor, boxes: Sequence[Box], image: Any) -> Tensor:
        self.seen.append(tuple(windows.shape))
        self.boxes.extend(boxes)
        return self.projection(windows.float() / 255 - 0.5)

    def score(self, encoded: Tensor, boxes: Sequence[Box], context: Any) -> list[ScoreMap]:
        return [ScoreMap(encoded)]


class Named(Pooled):
    """Scores the named classes only."""

    scores_background = False


class Doubled(Refiner):
    """Shows which planes it got by doubling them."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[tuple[tuple[int, ...], int]] = []

    def forward(self, image: Tensor, planes: Tensor) -> Tensor:
        self.calls.append((tuple(image.shape[1:]), planes.shape[0]))
        return planes * 2


VOCABULARY = Vocabulary(("background", "a", "b", "c", "d"), background=True)


def sample(height: int = 40, width: int = 56, size: tuple[int, int] | None = None, number: int = 0) -> Sample:
    image = torch.randint(
        0, 256, (3, height, width), dtype=torch.uint8, generator=torch.Generator().manual_seed(number)
    )
    return Sample(number, str(number), image, image, None, size or (height, width))


def made(kind: type[Pooled] = Pooled, vocabulary: Vocabulary = VOCABULARY, **protocol: Any) -> Pooled:
    method = kind(background_threshold=0.1)
    method.bind(vocabulary, Protocol(**{"name": "test", "window": 32, "stride": 16} | protocol))
    method.load()
    return method


def expected(method: Pooled, given: Sample) -> Tensor:
    """Whole planes, stitched naively."""
    height, width = given.image.shape[1:]
    total, count = torch.zeros(len(VOCABULARY), height, width), torch.zeros(height, width)
    for b in windows.window_grid(height, width, 32, 16):
        window = given.image[None, :, b.top : b.bottom, b.left : b.right].float() / 255 - 0.5
        planes = F.interpolate(method.projection(window), b.size, mode="bilinear", align_corners=False)[0]
        total[:, b.top : b.bottom, b.left : b.right] += planes
        count[b.top : b.bottom, b.left : b.right] += 1
    planes = F.interpolate((total / count)[None], given.size, mode="bilinear", align_corners=False)[0]
    return planes.argmax(0)


@pytest.mark.parametrize("size", [(40, 56), (97, 131), (20, 30)])
def test_the_label_map_is_the_argmax_of_all_planes_at_the_truths_size(size: tuple[int, int]) -> None:
    method, given = made(), sample(size=size)
    labels = method.predict_image(given)
    assert labels.dtype == torch.uint8
    assert labels.shape == size
    assert (labels != expected(method, given)).float().mean() < 1e-3  # ties of rounding


@pytest.mark.parametrize("budget", [1, 56 * 40 * 2, 56 * 40 * 3])
@pytest.mark.parametrize("kind", [Pooled, Named])
def test_chunks_of_classes_do_not_change_the_label_map(
    budget: int, kind: type[Pooled], monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = made(kind).predict_image(sample(size=(50, 60)))
    monkeypatch.setattr(windows, "PLANE_BUDGET", budget)
    assert torch.equal(made(kind).predict_image(sample(size=(50, 60))), whole)
    assert len(whole.unique()) > 3


def test_an_images_result_does_not_depend_on_its_batch() -> None:
    samples = [sample(40 + 3 * number, 64 - number, number=number) for number in range(3)]
    together = made().predict_step(samples, 0)
    for given, predicted in zip(samples, together, strict=True):
        assert predicted.sample is given
        (alone,) = made().predict_step([given], 0)
        assert torch.equal(predicted.labels, alone.labels)


@pytest.mark.parametrize("window_batch", [1, 2, 5, 64])
def test_windows_go_through_the_model_in_batches(window_batch: int) -> None:
    method = made()
    method.window_batch = window_batch
    labels = method.predict_image(sample(64, 80))
    assert [shape[0] for shape in method.seen[:-1]] == [window_batch] * (len(method.seen) - 1)
    assert method.boxes == windows.window_grid(64, 80, 32, 16)
    assert torch.equal(labels, made().predict_image(sample(64, 80)))


def test_small_images_are_seen_whole_or_padded_as_the_protocol_says() -> None:
    whole, padded = made(), made(small_images="pad")
    given = sample(20, 40, size=(25, 50))
    whole.predict_image(given)
    assert {shape[2:] for shape in whole.seen} == {(20, 32)}
    labels = padded.predict_image(given)
    assert {shape[2:] for shape in padded.seen} == {(32, 32)}
    assert labels.shape == (25, 50)


def test_padding_is_cut_off_before_the_label_map_is_stretched() -> None:
    """A row of the padded image maps to the same row of the truth: white stays where it was."""
    image = torch.zeros(3, 16, 32, dtype=torch.uint8)
    image[:, 8:] = 255
    method = made(small_images="pad")
    method.projection.weight.data = torch.stack([torch.full((3, 4, 4), value) for value in (-1.0, 1.0, 0, 0, 0)])
    labels = method.predict_image(Sample(0, "x", image, image, None, (160, 320)))
    assert (labels[:70] == 0).all()
    assert (labels[90:] == 1).all()


def test_a_constant_scores_the_background_where_the_method_does_not() -> None:
    method = made(Named)
    method.background_threshold = 0.25
    planes = F.interpolate(method.projection(sample().image[None, :, :32, :32] / 255 - 0.5), (32, 32), mode="bilinear")
    labels = method.predict_image(sample(32, 32)._replace(image=sample().image[:, :32, :32]))
    best, index = planes[0].max(0)
    assert torch.equal(labels.long(), torch.where(best > 0.25, index + 1, 0))


def test_a_background_that_nobody_scores_is_refused() -> None:
    method = Named()
    with pytest.raises(ConfigurationError, match=r"set method\.background_threshold"):
        method.bind(VOCABULARY, Protocol(name="x"))
    method.bind(Vocabulary(("a", "b")), Protocol(name="x"))


def test_nearest_upsampling_stretches_the_label_map() -> None:
    given = sample(40, 56)
    small = made().predict_image(given)
    assert torch.equal(
        made(upsample="nearest").predict_image(given._replace(size=(80, 112))),
        small.repeat_interleave(2, 0).repeat_interleave(2, 1),
    )


@pytest.mark.parametrize(
    ("refine", "background", "sizes", "planes"),
    [
        ("window", "unrefined", {(32, 32)}, 4),
        ("window", "refined", {(32, 32)}, 5),
        ("image", "unrefined", {(40, 56)}, 4),
        ("image", "refined", {(40, 56)}, 5),
    ],
)
def test_refinement_runs_where_and_on_what_the_protocol_says(
    refine: str, background: str, sizes: set[tuple[int, int]], planes: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    method = made(refine=refine, background=background)
    method.refiner = refiner = Doubled()
    whole = method.predict_image(sample())
    assert {size for size, _ in refiner.calls} == sizes
    assert {count for _, count in refiner.calls} == {planes}
    refiner.calls.clear()
    monkeypatch.setattr(windows, "PLANE_BUDGET", 1)
    assert torch.equal(method.predict_image(sample()), whole)
    times = len(windows.window_grid(40, 56, 32, 16)) if refine == "window" else 1
    assert len(refiner.calls) == planes * times


def test_scores_in_half_precision_are_compared_in_float32() -> None:
    class Half(Pooled):
        def score(self, encoded: Tensor, boxes: Sequence[Box], context: Any) -> list[ScoreMap]:
            return [ScoreMap(encoded.bfloat16())]

        def fuse(self, planes: Tensor, classes: slice, context: Any) -> Tensor:
            assert planes.dtype == torch.float32
            assert not torch.is_autocast_enabled("cpu")
            return planes

    with torch.autocast("cpu", torch.bfloat16):
        made(Half).predict_image(sample())


def test_the_pipeline_is_sealed() -> None:
    for name in ("predict_step", "predict_image"):
        with pytest.raises(TypeError, match=f"Own overrides {name}"):
            type("Own", (Pooled,), {name: lambda self: None})


def test_weights_are_hashed_by_model() -> None:
    first, again, other = made(), made(), made()
    other.projection.weight.data[0, 0, 0, 0] += 1e-3
    assert list(first.weights()) == ["projection"]
    assert first.weights() == again.weights()
    assert first.weights() != other.weights()


def test_a_method_or_benchmark_without_a_name_has_its_class_name() -> None:
    class Unnamed(SegmentationMethod):
        pass

    class Nameless(SegmentationData):
        pass

    assert Unnamed.name == "Unnamed"
    assert Nameless.name == "Nameless"
