"""MaskCLIP (Zhou et al., Extract Free Dense Labels from CLIP, ECCV 2022), without the training of MaskCLIP+."""

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from harness.method.windows import Box, ScoreMap
from harness.system.errors import ConfigurationError
from methods.backbones.clip_patches import CLIPPatches, Patches, classify
from methods.clip_dense import CLIPDense

# CLIP's own, at the end of its training; MaskCLIP's confidences have it.
TEMPERATURE = 0.01


class MaskCLIP(CLIPDense):
    """CLIP's patches without the last layer's query-key attention: its value and output layers as 1x1 convolutions.

    The paper's two refinements, key smoothing and prompt denoising, are off, as in its plain "MaskCLIP" rows and in
    the release's configurations. TCL (Cha et al., CVPR 2023), whose numbers other papers quote, is not among our
    papers; whether its comparison has them is not known here.

    Args:
        clip: The image-text model; ViT-B/16 of OpenAI in the paper.
        templates: Prompt templates; null takes the protocol's. The release has CLIP's 80 and 5 more.
        residual: Whether the last block's residual connection and MLP stay, as in the release's vision transformer
            (mmseg/models/backbones/vit.py); the paper's text has the two layers alone.
        prompt_denoising: A class whose confidence is below this at all patches of a window is left out there; 0.5 in
            the paper. Where all classes would be, none is: ours.
        key_smoothing: Whether every patch takes the mean of all patches' confidences in its window, weighted by the
            cosines of their keys. The paper sums; the mean keeps windows of different sizes comparable.
        temperature: See ``CLIPDense``; key smoothing takes 0.01 where it is null.
        background_threshold: See ``CLIPDense``.
        window_batch: Windows that go through CLIP at once.

    Raises:
        ConfigurationError: A setting is out of range.
    """

    name = "maskclip"
    encode_settings = frozenset({"clip", "residual"})

    def __init__(
        self,
        clip: CLIPPatches,
        templates: Sequence[str] | None = None,
        residual: bool = False,
        prompt_denoising: float | None = None,
        key_smoothing: bool = False,
        temperature: float | None = None,
        background_threshold: float | None = None,
        window_batch: int = 8,
    ) -> None:
        super().__init__(clip, templates, temperature, background_threshold, window_batch)
        if prompt_denoising is not None and not 0 < prompt_denoising <= 1:
            raise ConfigurationError(f"method.prompt_denoising must lie in (0, 1], not {prompt_denoising}")
        self.residual = residual
        self.prompt_denoising = prompt_denoising
        self.key_smoothing = key_smoothing

    def encode(self, windows: Tensor, boxes: Sequence[Box], image: Any) -> Patches:
        """CLIP's patches, unmixed by the last attention."""
        return self.clip.values(windows, self.residual)

    def score(self, encoded: Patches, boxes: Sequence[Box], context: Any) -> list[ScoreMap]:
        """Cosines of unmixed values and classes, refined if asked for."""
        temperature = self.temperature or (TEMPERATURE if self.key_smoothing else None)
        scores = classify(encoded.embeddings, self.text, temperature)
        if self.prompt_denoising is not None:
            confidences = classify(encoded.embeddings, self.text, TEMPERATURE)
            # The least that a score can be.
            scores = denoise(scores, confidences, self.prompt_denoising, -1.0 if temperature is None else 0.0)
        if self.key_smoothing:
            assert encoded.keys is not None
            scores = smooth(scores, encoded.keys)
        return [ScoreMap(scores, encoded.extent)]


def denoise(scores: Tensor, confidences: Tensor, threshold: float, least: float) -> Tensor:
    """Prompt denoising: classes that are sure of no patch get the least score everywhere.

    Args:
        scores: [B, C, h, w].
        confidences: [B, C, h, w] in [0, 1].
        threshold: Of the largest confidence over the patches.
        least: The score of a class that is left out.

    Returns:
        [B, C, h, w].
    """
    kept = confidences.amax(dim=(2, 3)) >= threshold
    kept |= ~kept.any(dim=1, keepdim=True)
    return scores.masked_fill(~kept[:, :, None, None], least)


def smooth(scores: Tensor, keys: Tensor) -> Tensor:
    """Key smoothing: the mean of all patches' scores, weighted by the cosines of keys.

    Args:
        scores: [B, C, h, w].
        keys: [B, D, h, w].

    Returns:
        [B, C, h, w].
    """
    unit = F.normalize(keys.flatten(2), dim=1)
    weights = unit.transpose(1, 2) @ unit
    mixed = torch.einsum("bcj,bij->bci", scores.flatten(2), weights) / weights.shape[-1]
    return mixed.unflatten(2, scores.shape[2:])
