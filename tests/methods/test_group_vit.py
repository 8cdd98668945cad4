"""GroupViT with random weights: its scores follow the release."""

from pathlib import Path

import torch
import torch.nn.functional as F

from methods import GroupViT
from methods.backbones.hub_group_vit import HubGroupViT
from tests.methods.baselines import CLOSED, random_images, ready, sample
from tests.methods.doubles import window_scores


@torch.inference_mode()
def test_group_vit_follows_the_release_window_by_window(group_vit: Path) -> None:
    method = ready(GroupViT(HubGroupViT(str(group_vit)), background_threshold=0.3, top_classes=2, score_stride=1))
    windows = random_images(3)
    found = window_scores(method, windows)[0]
    assert found.scores.shape == (3, 4, 64, 64)
    for number, window in enumerate(windows):
        groups = method.model.group(window[None])
        owner = F.interpolate(groups.assignment, (64, 64), mode="bilinear")[0].argmax(dim=0)
        logits = groups.embeddings[0] @ method.text.T * method.model.logit_scale
        allowed = (groups.mean[0] @ method.text.T).topk(2).indices.tolist()
        table = torch.zeros(2, 3)
        for group in range(2):
            total = sum(float(logits[group, c].exp()) for c in allowed)
            for c in allowed:
                table[group, c] = float(logits[group, c].exp()) / total * float(logits[group].softmax(dim=0)[c])
        torch.testing.assert_close(found.scores[number, 1:], table[owner].permute(2, 0, 1))
        threshold = min(0.3, float(table.max()))
        assert torch.equal(found.scores[number, 0], (table[owner].amax(dim=2) < threshold).float())
    assert len({tuple(each.flatten().tolist()) for each in found.scores}) == 3


@torch.inference_mode()
def test_a_windows_surest_group_is_no_background(group_vit: Path) -> None:
    method = ready(GroupViT(HubGroupViT(str(group_vit)), background_threshold=1.0))
    scores = method._group_scores(method.model.group(random_images(5)))
    surest = scores[:, 1:].amax(dim=1).argmax(dim=1)
    assert torch.equal(scores[:, 0], 1 - F.one_hot(surest, 2).float())
    none = ready(GroupViT(HubGroupViT(str(group_vit)), background_threshold=0.0))
    assert (none.predict_image(sample()) > 0).all()
    closed = ready(GroupViT(HubGroupViT(str(group_vit))), CLOSED)
    assert window_scores(closed, random_images())[0].scores.shape == (2, 3, 16, 16)
