"""Data modules: each image once, at the protocol's size, and errors that name the image."""

import pickle
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from harness import ConfigurationError, DataError, LabeledImage, Protocol, SegmentationData, Vocabulary
from harness.data.datamodule import shard


class Arrays(SegmentationData):
    """A data set of arrays; None is a corrupt image."""

    def __init__(self, images: Sequence[Any], background: bool = False, **settings: Any) -> None:
        super().__init__(**settings)
        self.images = images
        self.vocabulary_ = Vocabulary(("background", "b", "c"), background=background)

    @property
    def vocabulary(self) -> Vocabulary:
        return self.vocabulary_

    def all_ids(self) -> list[str]:
        return [f"{index}.png" for index in range(len(self.images))]

    def read(self, index: int) -> LabeledImage:
        if self.images[index] is None:
            raise DataError(f"{index}.png is damaged")
        return self.images[index]

    def content_signature(self, index: int) -> str:
        return "" if self.images[index] is None else str(self.images[index].image.shape)


def labeled_image(height: int, width: int, label: int | None = 1) -> LabeledImage:
    random = np.random.default_rng(height * width)
    labels = None if label is None else np.full((height, width), label, dtype=np.uint8)
    return LabeledImage(random.integers(0, 256, (height, width, 3), dtype=np.uint8), labels)


def samples(data: SegmentationData, **protocol: Any) -> list[Any]:
    data.plan(Protocol(name="x", **{"size": (400, 32), **protocol}), range(len(data.ids)))
    return [sample for batch in data.predict_dataloader() for sample in batch]


@given(st.integers(0, 50), st.integers(1, 9))
def test_shards_hold_every_image_once_and_differ_by_at_most_one(count: int, world_size: int) -> None:
    shards = [shard(range(count), rank, world_size) for rank in range(world_size)]
    assert sorted(index for part in shards for index in part) == list(range(count))
    assert max(map(len, shards)) - min(map(len, shards)) <= 1


def test_a_sample_has_the_original_and_the_resized_image() -> None:
    original = labeled_image(64, 100)
    (sample,) = samples(Arrays([original]))
    assert torch.equal(sample.original.permute(1, 2, 0), torch.from_numpy(original.image))
    assert sample.image.shape == (3, 32, 50)
    assert sample.image.dtype == torch.uint8
    assert (sample.number, sample.id, sample.size, sample.error) == (0, "0.png", (64, 100), None)
    (sample,) = samples(Arrays([original]), labels="resized", label_size=16)
    assert sample.labels.shape == sample.size == (16, 25)
    (sample,) = samples(Arrays([labeled_image(64, 100, None)]))
    assert sample.labels is None
    assert sample.size == (64, 100)


def test_batches_hold_images_of_different_sizes() -> None:
    data = Arrays([labeled_image(20 + i, 30) for i in range(5)], batch_size=2)
    data.plan(Protocol(name="x"), [0, 2, 3])
    batches = list(data.predict_dataloader())
    assert [[sample.number for sample in batch] for batch in batches] == [[0, 2], [3]]
    assert [sample.size for batch in batches for sample in batch] == [(20, 30), (22, 30), (23, 30)]


def test_a_rank_without_images_gets_one_empty_batch() -> None:
    data = Arrays([labeled_image(20, 20)])
    data.plan(Protocol(name="x"), [])
    assert list(data.predict_dataloader()) == [[]]


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (None, "0.png is damaged"),
        (LabeledImage(np.zeros((4, 5), np.uint8), None), "'0.png': not an 8-bit RGB image"),
        (LabeledImage(np.zeros((4, 5, 4), np.uint8), None), "'0.png': not an 8-bit RGB image"),
        (LabeledImage(np.zeros((4, 5, 3), np.float32), None), "'0.png': not an 8-bit RGB image"),
        (LabeledImage(np.zeros((0, 5, 3), np.uint8), None), "'0.png': not an 8-bit RGB image"),
        (
            LabeledImage(np.zeros((4, 5, 3), np.uint8), np.zeros((5, 4), np.uint8)),
            "'0.png': the label map is 4x5 pixels, its image 5x4",
        ),
        (labeled_image(4, 5, 3), "'0.png': the label map holds label 3, but the vocabulary has 3 classes"),
        (labeled_image(4, 5, 254), "'0.png': the label map holds label 254, but the vocabulary has 3 classes"),
    ],
)
def test_errors_of_an_image_are_stored_in_its_sample(wrong: Any, message: str) -> None:
    first, second = samples(Arrays([wrong, labeled_image(20, 20)]))
    assert message in first.error
    assert "\n" not in first.error
    assert (first.labels, first.size) == (None, (0, 0))
    assert second.error is None


def test_the_ignored_label_is_valid() -> None:
    assert samples(Arrays([labeled_image(9, 9, 255)]))[0].error is None
    assert samples(Arrays([labeled_image(9, 9, 254)]), ignore_label=254)[0].error is None
    assert samples(Arrays([labeled_image(9, 9, 255)]), ignore_label=254)[0].error is not None


def test_the_fingerprint_changes_with_what_can_change_a_score() -> None:
    base = [labeled_image(9, 9), labeled_image(9, 10)]
    prints = [
        Arrays(base).fingerprint,
        Arrays(base[:1]).fingerprint,
        Arrays(base[::-1]).fingerprint,
        Arrays([labeled_image(9, 11), base[1]]).fingerprint,
        Arrays(base, background=True).fingerprint,
    ]
    assert len(set(prints)) == len(prints)
    assert Arrays(base, batch_size=3, num_workers=2, on_error="skip").fingerprint == prints[0]
    assert Arrays([*base, labeled_image(8, 8)], limit=2).fingerprint == prints[0]


@pytest.mark.parametrize("settings", [{"batch_size": 0}, {"num_workers": -1}, {"limit": 0}])
def test_settings_out_of_range_are_refused(settings: dict[str, int]) -> None:
    with pytest.raises(ConfigurationError, match=next(iter(settings))):
        Arrays([], **settings)


def test_workers_get_the_data_without_the_trainer() -> None:
    data = Arrays([labeled_image(9, 9)])
    data.trainer = (item for item in ())  # cannot be pickled, as a Trainer cannot
    assert pickle.loads(pickle.dumps(data)).ids == data.ids  # noqa: S301
    assert data.trainer is not None


def test_a_plan_comes_first() -> None:
    with pytest.raises(RuntimeError, match=r"plan\(\) comes before"):
        Arrays([]).predict_dataloader()
