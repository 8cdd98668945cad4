"""Patch embeddings of Miniature's CLIP against open_clip's own modules."""

import torch
import torch.nn.functional as F

from methods.backbones.pixels import normalise
from tests.methods.baselines import loaded, patches, random_images


@torch.inference_mode()
def test_tokens_are_open_clips_own_projected_like_its_images() -> None:
    clip = loaded(patches())
    images = random_images(2, 32, 32)
    visual = clip.clip.model.visual
    visual.output_tokens = True
    pooled, tokens = visual(normalise(images, *clip.clip.normalisation))
    visual.output_tokens = False
    found = clip.tokens(images)
    expected = F.normalize(tokens @ visual.proj, dim=-1).transpose(1, 2).unflatten(2, (8, 8))
    torch.testing.assert_close(found.embeddings, expected)
    assert found.extent == (0, 0, 32, 32)
    # The projection is the one that images get.
    torch.testing.assert_close(F.normalize(pooled, dim=-1), clip.encode_images(images))


@torch.inference_mode()
def test_padding_lies_outside_of_the_image() -> None:
    clip = loaded(patches())
    found = clip.tokens(random_images(1, 30, 9))
    assert found.embeddings.shape[2:] == (8, 3)
    assert found.extent == (0, 0, 32, 12)
    squashed = loaded(patches(size=32)).tokens(random_images(1, 48, 96))
    assert squashed.embeddings.shape[2:] == (8, 8)
    assert squashed.extent == (0, 0, 48, 96)


@torch.inference_mode()
def test_keys_are_the_last_attentions() -> None:
    clip = loaded(patches())
    images = random_images(1, 32, 40)
    dense = clip._dense[0]
    torch.testing.assert_close(clip.values(images).keys, dense.features(images, "key", -1).patches)
