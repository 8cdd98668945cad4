"""The sealed pipeline: what every method gets for its scores, and what it cannot change."""

from collections.abc import Callable, Sequence
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
from methods.refinement import PAMR, DenseCRF


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


@pytest.mark.parametrize("background", ["refined", "unrefined"])
@pytest.mark.parametrize(("refine", "sizes"), [("window", {(32, 32)}), ("mask", {(8, 8)}), ("image", {(40, 56)})])
def test_refinement_runs_where_the_protocol_says_on_all_planes_that_the_method_scores(
    refine: str, background: str, sizes: set[tuple[int, int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    method = made(refine=refine, background=background)
    method.refiner = refiner = Doubled()
    whole = method.predict_image(sample())
    assert {size for size, _ in refiner.calls} == sizes
    assert {count for _, count in refiner.calls} == {5}
    refiner.calls.clear()
    monkeypatch.setattr(windows, "PLANE_BUDGET", 1)
    assert torch.equal(method.predict_image(sample()), whole)
    times = 1 if refine == "image" else len(windows.window_grid(40, 56, 32, 16))
    # Score maps are small at their own resolution: all classes at once.
    assert len(refiner.calls) == times * (1 if refine == "mask" else 5)


@pytest.mark.parametrize("refine", ["window", "mask", "image"])
def test_a_constant_background_is_refined_only_if_the_protocol_says_so(refine: str) -> None:
    best = made(Named).projection(sample().image[None] / 255 - 0.5)[0].amax()
    threshold = float(best) * 0.75

    def background(how: str) -> torch.Tensor:
        method = made(Named, refine=refine, background=how)
        method.background_threshold = threshold
        method.refiner = Doubled()
        return method.predict_image(sample()) == 0

    plain = made(Named)
    plain.background_threshold = threshold
    unrefined = made(Named)
    unrefined.background_threshold = threshold / 2
    # The refiner doubles what it is given: all planes, or those of the classes alone.
    assert torch.equal(background("refined"), plain.predict_image(sample()) == 0)
    assert torch.equal(background("unrefined"), unrefined.predict_image(sample()) == 0)
    assert 0 < background("unrefined").sum() < background("refined").sum()


def literal_tcl(
    image: torch.Tensor, masks: Callable[[torch.Tensor], torch.Tensor], threshold: float, size: tuple[int, int]
) -> torch.Tensor:
    """TCL's order (kakaobrain/tcl, models/tcl/tcl.py ``generate_masks``, segmentation/evaluation/tcl_seg.py)."""
    height, width = image.shape[1:]
    total, count = torch.zeros(5, height, width), torch.zeros(height, width)
    for top, left in [(top, left) for top in (0, 8) for left in (0, 16, 24)]:
        window = image[:, top : top + 32, left : left + 32].float()
        mask = masks(window)
        shrunk = F.interpolate(window[None], mask.shape[-2:], mode="bilinear", align_corners=True)
        mask = PAMR()(shrunk[0], mask)
        mask = F.interpolate(mask[None], (32, 32), mode="bilinear", align_corners=False)[0]
        logits = torch.cat([torch.full((1, 32, 32), threshold), mask])
        total[:, top : top + 32, left : left + 32] += logits
        count[top : top + 32, left : left + 32] += 1
    return F.interpolate((total / count)[None], size, mode="bilinear", align_corners=False)[0]


def test_refinement_of_masks_is_in_tcls_order() -> None:
    given = sample(size=(60, 84))
    method = made(Named, refine="mask")
    method.background_threshold, method.refiner = 0.02, PAMR()
    scores = literal_tcl(given.image, lambda w: method.projection(w[None] / 255 - 0.5)[0], 0.02, (60, 84))
    best = scores.topk(2, dim=0).values
    clear = best[0] - best[1] > 1e-5
    labels = method.predict_image(given)
    assert clear.float().mean() > 0.99
    assert torch.equal(labels[clear].long(), scores.argmax(dim=0)[clear])
    assert len(labels.unique()) > 2
    # Refined at the pixels of the window, other pixels win.
    later = made(Named, refine="window")
    later.background_threshold, later.refiner = 0.02, PAMR()
    assert (later.predict_image(given) != labels).float().mean() > 0.01


def test_a_map_that_reaches_beyond_its_window_is_refined_on_the_windows_own_cells() -> None:
    window = torch.randint(0, 256, (3, 12, 20), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))
    scores = torch.rand(1, 2, 4, 6, generator=torch.Generator().manual_seed(2))

    class Kept(Refiner):
        """Changes nothing and keeps what it saw."""

        def forward(self, image: Tensor, planes: Tensor) -> Tensor:
            self.image = image
            return planes

    method = made(Named, refine="mask")
    method.refiner = refiner = Kept()
    # 4x6 cells of 4 pixels cover 16x24 of which the window has 12x20: 3x5 cells.
    refined = method._refine_map(window, ScoreMap(scores, (0.0, 0.0, 16.0, 24.0)))
    assert refined.extent is None
    torch.testing.assert_close(refined.scores, scores[:, :, :3, :5])
    expected = F.interpolate(window[None].float(), (3, 5), mode="bilinear", align_corners=True)[0]
    # Whole values for a refiner that wants them, such as the dense CRF.
    assert torch.equal(refiner.image, expected.round().to(torch.uint8))
    refiner.takes_floats = True
    method._refine_map(window, ScoreMap(scores))
    torch.testing.assert_close(
        refiner.image, F.interpolate(window[None].float(), (4, 6), mode="bilinear", align_corners=True)[0]
    )
    assert PAMR.takes_floats
    method.refiner = DenseCRF(iterations=1)
    assert method._refine_map(window, ScoreMap(scores)).scores.shape == scores.shape


def test_scores_below_the_floor_count_as_it_where_classes_are_compared() -> None:
    given = sample(size=(90, 120))
    method = made()
    raw = method.predict_image(given)
    method.score_floor = 0.0
    planes = torch.zeros(5, 40, 56)
    count = torch.zeros(40, 56)
    for top, left in [(top, left) for top in (0, 8) for left in (0, 16, 24)]:
        window = given.image[None, :, top : top + 32, left : left + 32] / 255 - 0.5
        planes[:, top : top + 32, left : left + 32] += F.interpolate(
            method.projection(window), (32, 32), mode="bilinear"
        )[0]
        count[top : top + 32, left : left + 32] += 1
    scores = F.interpolate((planes / count)[None], (90, 120), mode="bilinear")[0]
    nothing = (scores < -1e-5).all(dim=0)
    labels = method.predict_image(given)
    assert nothing.any()
    # The first of equal scores wins.
    assert (labels[nothing] == 0).all()
    assert (raw[nothing] != 0).any()
    some = (scores > 1e-5).any(dim=0)
    assert torch.equal(labels[some], raw[some])
    # A constant below it counts as it, too.
    named = made(Named)
    named.background_threshold, named.score_floor = -9.0, 0.0
    assert (named.predict_image(given) == 0).any()
    named.score_floor = None
    assert not (named.predict_image(given) == 0).any()


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
