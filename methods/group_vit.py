"""GroupViT (Xu et al., GroupViT: Semantic Segmentation Emerges from Text Supervision, CVPR 2022).

Its zero-shot inference follows the release (NVlabs/GroupViT, segmentation/evaluation/group_vit_seg.py).
"""

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from harness.data.prompts import check_templates
from harness.method.method import SegmentationMethod
from harness.method.windows import Box, ScoreMap
from harness.system.errors import ConfigurationError
from methods.backbones.hub_group_vit import Groups, HubGroupViT


class GroupViT(SegmentationMethod):
    """Pixels are parted into groups, and every group takes the probabilities of its own embedding.

    Args:
        model: GroupViT.
        templates: Prompt templates; null takes the protocol's.
        background_threshold: A group whose best class is less probable than this is background, unless no group of the
            window is more probable; 0.95 for VOC and COCO and 0.35 for Context in the release.
        top_classes: How many classes a window may have, those nearest to its mean embedding; 5 in the release.
        score_stride: Pixels per score, in both directions; the release has 1.
        window_batch: Windows that go through the model at once.

    Raises:
        ConfigurationError: A setting is out of range.
    """

    name = "group_vit"
    scores_background = True
    encode_settings = frozenset({"model"})

    def __init__(
        self,
        model: HubGroupViT,
        templates: Sequence[str] | None = None,
        background_threshold: float = 0.95,
        top_classes: int = 5,
        score_stride: int = 4,
        window_batch: int = 8,
    ) -> None:
        super().__init__(window_batch)
        if not 0 <= background_threshold <= 1:
            raise ConfigurationError(f"method.background_threshold must lie in 0 to 1, not be {background_threshold}")
        if top_classes < 1 or score_stride < 1:
            raise ConfigurationError("method: top_classes and score_stride must be at least 1")
        self.model = model
        self.templates = None if templates is None else check_templates(templates, "method.templates")
        self.threshold = background_threshold
        self.top_classes = top_classes
        self.score_stride = score_stride

    def prepare(self) -> None:
        """Encode the classes; the background is no text but what no class explains."""
        self.text = self.model.encode_classes(self.vocabulary.foreground, self.templates or self.protocol.templates)

    def encode(self, windows: Tensor, boxes: Sequence[Box], image: Any) -> Groups:
        """The groups of every window."""
        return self.model.group(windows)

    def score(self, encoded: Groups, boxes: Sequence[Box], context: Any) -> list[ScoreMap]:
        """The probabilities of the group that a pixel belongs to most."""
        scores = self._group_scores(encoded)
        height, width = (side * encoded.patch_size for side in encoded.assignment.shape[2:])
        size = (-(-height // self.score_stride), -(-width // self.score_stride))
        own = F.interpolate(encoded.assignment, size, mode="bilinear", align_corners=False).argmax(dim=1)
        index = own.flatten(1)[:, None].expand(-1, scores.shape[1], -1)
        return [ScoreMap(scores.gather(2, index).unflatten(2, size), (0.0, 0.0, float(height), float(width)))]

    def _group_scores(self, groups: Groups) -> Tensor:
        """[B, C, G]: every group's classes, with the background in front if the vocabulary has one."""
        named = probabilities(groups, self.text.float(), self.model.logit_scale, self.top_classes)
        if not self.vocabulary.background:
            return named.transpose(1, 2)
        best = named.amax(dim=2)
        threshold = best.amax(dim=1, keepdim=True).clamp(max=self.threshold)
        return torch.cat([(best < threshold).float()[:, None], named.transpose(1, 2)], dim=1)


def probabilities(groups: Groups, text: Tensor, scale: float, top: int) -> Tensor:
    """How probable each class is for each group.

    The softmax over all classes times the softmax over those that the whole window is nearest to.

    Args:
        groups: Of B windows.
        text: [C, D], of unit length.
        scale: Of cosines.
        top: How many classes a window may have.

    Returns:
        [B, G, C] float32 in [0, 1].
    """
    logits = groups.embeddings @ text.T * scale
    nearest = (groups.mean @ text.T).topk(min(top, len(text)), dim=1).indices
    kept = torch.zeros(len(logits), len(text), dtype=torch.bool, device=text.device).scatter_(1, nearest, True)
    return logits.masked_fill(~kept[:, None], -torch.inf).softmax(dim=2) * logits.softmax(dim=2)
