"""CLIPSeg with random weights: conditions over templates."""

from pathlib import Path

import torch

from methods import CLIPSeg
from methods.backbones.hub_clip_seg import HubCLIPSeg
from tests.methods.baselines import ready


@torch.inference_mode()
def test_a_classs_condition_is_the_mean_over_templates(clip_seg: Path) -> None:
    method = ready(CLIPSeg(HubCLIPSeg(str(clip_seg), size=32), templates=None, background_threshold=0.5))
    texts = ["a photo of a tree.", "tree"]
    torch.testing.assert_close(method.conditions[1], method.model.embed_text(texts).mean(dim=0))
    assert ready(CLIPSeg(HubCLIPSeg(str(clip_seg), size=32), background_threshold=0.5)).conditions.shape == (3, 12)
