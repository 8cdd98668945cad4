"""Training samples: words of what is visible, and nothing more."""

from __future__ import annotations

import numpy as np
import torch

from miniature.crops import clip_sample, cut, pool
from miniature.train_clip import relations
from miniature.train_dino import presence
from miniature.train_found import kinds, objectness_loss
from miniature.world import CLASSES, THINGS


def test_a_crop_names_only_what_it_shows() -> None:
    rng, scenes = np.random.default_rng(0), pool(20)
    for _ in range(300):
        sample = clip_sample(rng, scenes, 32)
        assert sample.image.shape == (32, 32, 3)
        assert not (sample.seen * sample.unsure).any()
        if not sample.particular:
            assert (sample.said <= np.maximum(sample.seen, sample.unsure)).all() or sample.image.size


def test_a_text_fits_the_pictures_that_show_all_it_names() -> None:
    rng, scenes = np.random.default_rng(1), pool(20)
    samples = [clip_sample(rng, scenes, 32) for _ in range(40)]
    texts = sorted({sample.text for sample in samples})
    fits, unknown = relations(samples, texts)
    assert not (fits & unknown).any()
    for row, sample in enumerate(samples):
        assert fits[row, texts.index(sample.text)]
        for column in torch.nonzero(fits[row]).flatten().tolist():
            if texts[column] != sample.text:
                said = next(one.said for one in samples if one.text == texts[column])
                assert (said <= sample.seen).all()


def test_kinds_come_from_words_alone() -> None:
    rng, scenes = np.random.default_rng(2), pool(20)
    samples = [cut(rng, scenes[k % 20], 0.3) for k in range(60)]
    empty, full = kinds(samples)
    things = np.array([name in THINGS for name in CLASSES])
    for sample, none, all_ in zip(samples, empty.tolist(), full.tolist(), strict=True):
        assert none == (not (sample.seen + sample.unsure)[things].any())
        assert not (all_ and (sample.seen + sample.unsure)[~things].any())


def test_losses_are_small_for_right_patches_and_large_for_wrong_ones() -> None:
    logits = torch.full((1, 16, len(CLASSES)), -8.0)
    logits[:, :8, 0] = logits[:, 8:, 13] = 8.0
    seen, none = torch.zeros(1, len(CLASSES)), torch.zeros(1, len(CLASSES))
    seen[:, [0, 13]] = 1
    assert presence(logits, seen, none) < 0.1
    assert presence(logits, 1 - seen, none) > 5
    good = torch.cat([torch.full((1, 8), 8.0), torch.full((1, 8), -8.0)], 1)
    no, yes = torch.tensor([False]), torch.tensor([True])
    assert objectness_loss(good, no, no) < 0.01
    assert objectness_loss(good, yes, no) > 3
    assert objectness_loss(good, no, yes) > 3
