"""Miniature as a benchmark: 200 scenes, two vocabularies, drawn the same for every reader."""

import numpy as np

from miniature.datamodule import Miniature
from miniature.stuff import STUFF
from miniature.things import THINGS


def test_things_merge_all_stuff_into_the_background() -> None:
    things, everything = Miniature(limit=5), Miniature(classes="all", limit=5)
    assert things.vocabulary.names == ("background", *THINGS)
    assert things.vocabulary.background
    assert everything.vocabulary.names == THINGS + STUFF
    assert everything.vocabulary.stuff == frozenset(STUFF)
    for index in range(5):
        merged, full = things.read(index), everything.read(index)
        assert np.array_equal(merged.image, full.image)
        expected = np.where(full.labels < len(THINGS), full.labels + 1, 0)
        assert np.array_equal(merged.labels, expected)


def test_context_has_some_stuff_and_a_background() -> None:
    context, everything = Miniature(classes="context", limit=20), Miniature(classes="all", limit=20)
    names = context.vocabulary.names
    assert names == ("background", *THINGS, "grass", "water", "road")
    assert context.vocabulary.stuff == {"grass", "water", "road"}
    seen = set()
    for index in range(20):
        full = everything.read(index).labels
        expected = [[names.index(c) if c in names else 0 for c in row] for row in np.array(THINGS + STUFF)[full]]
        assert np.array_equal(context.read(index).labels, expected)
        seen |= {names[value] for value in np.unique(expected)}
    assert {"grass", "water", "road", "background"} <= seen


def test_the_validation_split_has_200_scenes_and_is_apart_from_training() -> None:
    assert len(Miniature().ids) == 200
    assert len(Miniature(split="train", limit=7).ids) == 7
    assert not np.array_equal(Miniature().read(0).image, Miniature(split="train").read(0).image)


def test_fingerprint_tells_splits_vocabularies_and_limits_apart() -> None:
    prints = [
        Miniature().fingerprint,
        Miniature(classes="all").fingerprint,
        Miniature(classes="context").fingerprint,
        Miniature(split="train", limit=200).fingerprint,
        Miniature(limit=10).fingerprint,
    ]
    assert len(set(prints)) == len(prints)
    assert Miniature(batch_size=4, num_workers=2).fingerprint == prints[0]
