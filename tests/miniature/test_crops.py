"""Training samples: words of what is visible, and nothing more."""

from __future__ import annotations

import numpy as np
import open_clip
import torch
from transformers import Dinov2Model

from miniature.crops import clip_sample, draw_scenes
from miniature.train_clip import match_texts
from miniature.train_dino import init_from_clip, merge_tiles, model_config, presence_loss, split_tiles
from miniature.train_found import thing_share
from miniature.training import WEIGHTS, to_tensor
from miniature.world import CLASSES, THINGS


def test_a_crop_names_only_what_it_shows() -> None:
    rng, scenes = np.random.default_rng(0), draw_scenes(20)
    for _ in range(300):
        sample = clip_sample(rng, scenes, 32)
        assert sample.image.shape == (32, 32, 3)
        assert not (sample.seen * sample.unsure).any()
        # A tiny corner of one stuff may be all that a crop shows; then it is named although its share is uncertain.
        if sample.seen.any() and not sample.particular and "," not in sample.text:
            assert (sample.named <= np.maximum(sample.seen, sample.unsure)).all(), sample.text


def test_a_text_fits_the_images_that_show_all_it_names() -> None:
    rng, scenes = np.random.default_rng(1), draw_scenes(20)
    samples = [clip_sample(rng, scenes, 32) for _ in range(40)]
    texts = sorted({sample.text for sample in samples})
    fits, unknown = match_texts(samples, texts)
    assert not (fits & unknown).any()
    for row, sample in enumerate(samples):
        assert fits[row, texts.index(sample.text)]
        for column in torch.nonzero(fits[row]).flatten().tolist():
            if texts[column] != sample.text:
                named = next(one.named for one in samples if one.text == texts[column])
                assert (named <= sample.seen).all()


def test_losses_are_small_for_right_patches_and_large_for_wrong_ones() -> None:
    logits = torch.full((1, 16, len(CLASSES)), -8.0)
    logits[:, :8, 0] = logits[:, 8:, 13] = 8.0
    seen, none = torch.zeros(1, len(CLASSES)), torch.zeros(1, len(CLASSES))
    seen[:, [0, 13]] = 1
    assert presence_loss(logits, seen, none) < 0.1
    assert presence_loss(logits, 1 - seen, none) > 5


def test_objectness_is_the_share_of_things_that_the_words_allow() -> None:
    logits, none = torch.zeros(1, 2, len(CLASSES)), torch.zeros(1, len(CLASSES))
    stuff, both = none.clone(), none.clone()
    stuff[:, len(THINGS)] = 1
    both[:, [0, len(THINGS)]] = 1
    assert thing_share(logits, stuff, none).tolist() == [[0.0, 0.0]]
    assert thing_share(logits, 1 - stuff, none)[0, 0] > 0.5
    torch.testing.assert_close(thing_share(logits, both, none), torch.full((1, 2), 0.5))


def test_tiles_are_put_back_where_they_were() -> None:
    images = torch.arange(2 * 3 * 8 * 12.0).reshape(2, 3, 8, 12)
    parts = split_tiles(images, 4)
    assert torch.equal(parts[4], images[0, :, 4:8, 4:8])
    patches = parts.flatten(2).transpose(1, 2)  # every pixel is a patch
    assert torch.equal(merge_tiles(patches, 2, 2, 3), images.flatten(2).transpose(1, 2))


def test_backbone_starts_where_clip_is() -> None:
    folder = WEIGHTS / "clip"
    model = Dinov2Model(model_config())
    init_from_clip(model, folder)
    tower, _, _ = open_clip.create_model_and_transforms(f"local-dir:{folder}")
    pixels = to_tensor([one.image[:32, :32] for one in draw_scenes(8)])
    with torch.no_grad():
        expected = tower.encode_image(pixels)
        found = model(pixels).last_hidden_state[:, 0] @ tower.visual.proj
    assert torch.cosine_similarity(found, expected).min() > 0.9
