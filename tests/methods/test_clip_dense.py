"""CLIP as is, with Miniature's CLIP."""

import torch

from methods import CLIPDense
from tests.methods.baselines import PROTOCOL, WORDS, patches, random_images, ready
from tests.methods.doubles import window_scores


@torch.inference_mode()
def test_scores_are_cosines_with_the_templates_mean() -> None:
    method = ready(CLIPDense(patches(), background_threshold=0.3))
    windows = random_images()
    text = method.clip.clip.encode_classes(WORDS.foreground, PROTOCOL.templates)
    found = window_scores(method, windows)[0]
    expected = (method.clip.tokens(windows).embeddings[:, None] * text[None, :, :, None, None]).sum(dim=2)
    torch.testing.assert_close(found.scores, expected)
    assert found.scores.dtype == torch.float32
    own = ready(CLIPDense(patches(), templates=["{}"], background_threshold=0.3))
    torch.testing.assert_close(own.text, own.clip.encode_classes(WORDS.foreground, ["{}"]))
    assert not torch.allclose(own.text, method.text)
    warm = ready(CLIPDense(patches(), temperature=0.1, background_threshold=0.3))
    torch.testing.assert_close(window_scores(warm, windows)[0].scores, (expected / 0.1).softmax(dim=1))
