"""Cascade Mask R-CNN (Cai and Vasconcelos, CVPR 2018; He et al., ICCV 2017) without classes, as detectron2 computes it.

The pieces are torchvision's. Where its assembled detectors differ, detectron2 is followed: anchors are not rounded and
lie at multiples of the true stride, proposals are ranked by logits, RoIAlign is the aligned one.

Compared on the CPU with CutLER's own model on detectron2 (commit 02b5c4e, without its compiled extension, which this
network does not use), randomly initialised so that scores and boxes spread, through a checkpoint that detectron2 saved,
on drawn images of 512x512, 375x500, 333x512 and 200x256: features, proposals, boxes, soft and pasted masks are equal
bit for bit, scores differ by at most 6e-8. The published weights were not at hand.
"""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.models import resnet50
from torchvision.models.detection._utils import BoxCoder
from torchvision.models.detection.backbone_utils import BackboneWithFPN
from torchvision.models.detection.faster_rcnn import TwoMLPHead
from torchvision.models.detection.mask_rcnn import MaskRCNNHeads, MaskRCNNPredictor
from torchvision.models.detection.rpn import RPNHead
from torchvision.ops import FrozenBatchNorm2d, batched_nms, box_area, clip_boxes_to_image, nms, roi_align

# P2 to P6 have these strides and one size of anchor each; regions are pooled from the first four.
STRIDES = (4, 8, 16, 32, 64)
SIZES = (32, 64, 128, 256, 512)
RATIOS = (0.5, 1.0, 2.0)
POOLED_LEVELS = 4
CHANNELS = 256

# A box of 224 pixels is pooled from P4 (Lin et al., Feature Pyramid Networks, Eq. 1).
CANONICAL_SIZE, CANONICAL_LEVEL, FIRST_LEVEL = 224, 4, 2

# Of CutLER's cascade_mask_rcnn_R_50_FPN.yaml; where that says nothing, detectron2's defaults.
PROPOSALS_PER_LEVEL = 1000
PROPOSALS = 1000
PROPOSAL_NMS = 0.65
DETECTION_NMS = 0.5
DETECTIONS = 100
CASCADE_WEIGHTS = ((10.0, 10.0, 5.0, 5.0), (20.0, 20.0, 10.0, 10.0), (30.0, 30.0, 15.0, 15.0))
PIXEL_MEAN = (123.675, 116.280, 103.530)
PIXEL_STD = (58.395, 57.120, 57.375)


class Detections(NamedTuple):
    """What was found in one image, best first.

    Attributes:
        boxes: [M, 4] float32, x0 y0 x1 y1 in pixels of the image that the network saw.
        scores: [M] in [0, 1].
        masks: [M, 28, 28] in [0, 1], each stretched over its box.
    """

    boxes: Tensor
    scores: Tensor
    masks: Tensor


class FixedBatchNorm2d(FrozenBatchNorm2d):
    """Batch normalisation by fixed statistics, in one operation and bit for bit as in detectron2's evaluation mode."""

    def forward(self, x: Tensor) -> Tensor:
        """[N, C, h, w] -> [N, C, h, w]."""
        return F.batch_norm(x, self.running_mean, self.running_var, self.weight, self.bias, eps=self.eps)


class CascadeStage(nn.Module):
    """One of the cascade's box heads: scores boxes and moves them.

    Args:
        weights: By which the four regression outputs are divided.
    """

    def __init__(self, weights: tuple[float, float, float, float]) -> None:
        super().__init__()
        self.head = TwoMLPHead(CHANNELS * 7 * 7, 1024)
        self.cls_score = nn.Linear(1024, 2)
        self.bbox_pred = nn.Linear(1024, 4)
        self.coder = BoxCoder(weights)

    def forward(self, pooled: Tensor, boxes: Tensor) -> tuple[Tensor, Tensor]:
        """[P, 256, 7, 7] features of [P, 4] boxes -> [P] scores, [P, 4] boxes."""
        hidden = self.head(pooled)
        # The background is the last class.
        scores = self.cls_score(hidden).softmax(dim=1)[:, 0]
        return scores, self.coder.decode_single(self.bbox_pred(hidden), boxes)


class CascadeMaskRCNN(nn.Module):
    """ResNet-50-FPN with batch normalisation in both, an RPN, three box heads and a mask head, one foreground class.

    For inference only: the statistics of the normalisation are fixed.
    """

    pixel_mean: Tensor
    pixel_std: Tensor

    def __init__(self) -> None:
        super().__init__()
        # The stride is in the 3x3 convolution of a block, as in CutLER's configuration.
        self.backbone = BackboneWithFPN(
            resnet50(norm_layer=FixedBatchNorm2d),
            {f"layer{stage}": f"p{stage + 1}" for stage in (1, 2, 3, 4)},
            [256, 512, 1024, 2048],
            CHANNELS,
            norm_layer=FixedBatchNorm2d,
        )
        self.rpn = RPNHead(CHANNELS, len(RATIOS))
        self.rpn_coder = BoxCoder((1.0, 1.0, 1.0, 1.0))
        self.stages = nn.ModuleList(CascadeStage(weights) for weights in CASCADE_WEIGHTS)
        self.mask_head = MaskRCNNHeads(CHANNELS, (CHANNELS,) * 4, 1)
        self.mask_predictor = MaskRCNNPredictor(CHANNELS, CHANNELS, 1)
        self.register_buffer("pixel_mean", torch.tensor(PIXEL_MEAN).reshape(3, 1, 1))
        self.register_buffer("pixel_std", torch.tensor(PIXEL_STD).reshape(3, 1, 1))

    def forward(self, image: Tensor, threshold: float) -> Detections:
        """Detect objects.

        Args:
            image: [3, h, w] float32 RGB in [0, 255].
            threshold: Detections score more than this.
        """
        features = self.features(image)
        size = int(image.shape[1]), int(image.shape[2])
        boxes, scores = self.cascade(features, self.proposals(features, size), size)
        boxes, scores = boxes[scores > threshold], scores[scores > threshold]
        kept = nms(boxes, scores, DETECTION_NMS)[:DETECTIONS]
        logits = self.mask_predictor(self.mask_head(pool(features, boxes[kept], 14)))
        return Detections(boxes[kept], scores[kept], logits[:, 0].sigmoid())

    def features(self, image: Tensor) -> list[Tensor]:
        """[3, h, w] -> P2 to P6, each [1, 256, h', w']; the image is padded by its mean to multiples of 32."""
        normal = (image - self.pixel_mean) / self.pixel_std
        return list(self.backbone(F.pad(normal, (0, -image.shape[2] % 32, 0, -image.shape[1] % 32))[None]).values())

    def proposals(self, features: list[Tensor], size: tuple[int, int]) -> Tensor:
        """Boxes [P, 4] in an image of ``size`` (h, w), P at most 1000, the most object-like first."""
        boxes, logits, levels = [], [], []
        for level, (scored, moved) in enumerate(zip(*self.rpn(features), strict=True)):
            grid = int(scored.shape[2]), int(scored.shape[3])
            anchors = grid_anchors(grid, STRIDES[level], SIZES[level]).to(scored)
            deltas = moved[0].unflatten(0, (-1, 4)).permute(2, 3, 0, 1).reshape(-1, 4)
            best, order = scored[0].permute(1, 2, 0).flatten().topk(min(PROPOSALS_PER_LEVEL, len(anchors)))
            boxes.append(self.rpn_coder.decode_single(deltas[order], anchors[order]))
            logits.append(best)
            levels.append(torch.full_like(order, level))
        found, score, level_of = torch.cat(boxes), torch.cat(logits), torch.cat(levels)
        clipped = clip_boxes_to_image(found, size)
        usable = found.isfinite().all(dim=1) & score.isfinite() & (clipped[:, 2:] > clipped[:, :2]).all(dim=1)
        clipped, score, level_of = clipped[usable], score[usable], level_of[usable]
        return clipped[batched_nms(clipped, score, level_of, PROPOSAL_NMS)[:PROPOSALS]]

    def cascade(self, features: list[Tensor], boxes: Tensor, size: tuple[int, int]) -> tuple[Tensor, Tensor]:
        """[P, 4] proposals -> [P, 4] boxes of the last stage, [P] scores averaged over the stages."""
        scores = []
        for stage in self.stages:
            score, boxes = stage(pool(features, boxes, 7), boxes)
            boxes = clip_boxes_to_image(boxes, size)
            scores.append(score)
        return boxes, torch.stack(scores).mean(dim=0)


def grid_anchors(grid: tuple[int, int], stride: int, size: int) -> Tensor:
    """Anchors of one level, [h w 3, 4] float32, centred at multiples of the stride from the corner, rows first.

    Args:
        grid: (h, w) of the level.
        stride: Pixels between neighbours.
        size: Square root of an anchor's area in pixels.
    """
    ratios = torch.tensor(RATIOS, dtype=torch.float64)
    half = torch.stack([size / ratios.sqrt(), size * ratios.sqrt()], dim=1) / 2
    y, x = torch.meshgrid(torch.arange(grid[0]) * stride, torch.arange(grid[1]) * stride, indexing="ij")
    centre = torch.stack([x, y], dim=-1).reshape(-1, 1, 2)
    return torch.cat([centre - half.float(), centre + half.float()], dim=-1).reshape(-1, 4)


def pool(features: list[Tensor], boxes: Tensor, side: int) -> Tensor:
    """RoIAlign of [P, 4] boxes, each from the level of its size, as [P, 256, side, side]."""
    sizes = box_area(boxes).sqrt()
    # The small number keeps a box without area from being minus infinity.
    level_of = (CANONICAL_LEVEL + torch.log2(sizes / CANONICAL_SIZE + 1e-8)).floor() - FIRST_LEVEL
    level_of = level_of.clamp(0, POOLED_LEVELS - 1)
    pooled = boxes.new_zeros(len(boxes), CHANNELS, side, side)
    for level, (feature, stride) in enumerate(zip(features[:POOLED_LEVELS], STRIDES, strict=False)):
        here = (level_of == level).nonzero()[:, 0]
        pooled[here] = roi_align(feature, [boxes[here]], side, 1 / stride, sampling_ratio=0, aligned=True)
    return pooled
