"""GroupViT of transformers: the groups that it parts an image into."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import GroupViTModel, PreTrainedModel, PreTrainedTokenizerBase

from methods.backbones.hub_image_text import HubImageText
from methods.backbones.pixels import IMAGENET_MEAN, IMAGENET_STD, normalise, pad_to_multiple, resize


class Groups(NamedTuple):
    """What GroupViT makes of images.

    Attributes:
        embeddings: [B, G, D] float32, one per group, of unit length.
        mean: [B, D] float32, the image's own embedding, of unit length.
        assignment: [B, G, grid height, grid width] float32, the share of a patch that belongs to each group.
        patch_size: Pixels per patch; the grid begins at the image's top left corner.
    """

    embeddings: Tensor
    mean: Tensor
    assignment: Tensor
    patch_size: int


class HubGroupViT(HubImageText):
    """GroupViT by Hub id (``nvidia/groupvit-gcc-yfcc``, ``nvidia/groupvit-gcc-redcaps``) or local folder.

    Args:
        name: Hub id or folder.
        revision: Commit or branch on the Hub.
        text_batch: Texts encoded at once.
        mean: Normalisation per channel, for values in [0, 1]. By default ImageNet's, with which GroupViT was trained
            and evaluated (NVlabs/GroupViT, ``datasets/builder.py``); its folder on the Hub carries CLIP's, which null
            takes.
        std: Deviation per channel, chosen as ``mean`` is.
    """

    architecture = GroupViTModel

    def __init__(
        self,
        name: str = "nvidia/groupvit-gcc-yfcc",
        revision: str | None = None,
        text_batch: int = 256,
        mean: Sequence[float] | None = IMAGENET_MEAN,
        std: Sequence[float] | None = IMAGENET_STD,
    ) -> None:
        super().__init__(name, revision, text_batch)
        self.mean, self.std = mean, std

    def adopt(
        self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, preprocessing: Mapping[str, Any] | None = None
    ) -> None:
        """See ``HubImageText.adopt``; ``mean`` and ``std`` come first."""
        super().adopt(model, tokenizer, preprocessing)
        self._mean, self._std = tuple(self.mean or self._mean), tuple(self.std or self._std)
        self._patch = int(model.config.vision_config.patch_size)
        self._side = int(model.config.vision_config.image_size)

    @property
    def logit_scale(self) -> float:
        """What cosines are multiplied by, at most 100, as in GroupViT's release."""
        return min(float(self.model.logit_scale.exp()), 100.0)

    def encode_images(self, images: Tensor) -> Tensor:
        """Images of any size, squashed to the model's own."""
        return self.group(resize(images, (self._side, self._side)).to(images.dtype)).mean

    def text_features(self, tokens: Mapping[str, Tensor]) -> Tensor:
        """See ``HubImageText.text_features``."""
        features: Tensor = self.model.get_text_features(**tokens).pooler_output
        return features

    def group(self, images: Tensor) -> Groups:
        """Groups of images, zero-padded at the bottom and right to whole patches.

        transformers' forward accepts images of one size alone; its parts take any, with interpolated positions.

        Args:
            images: [B, 3, h, w] uint8 RGB.
        """
        pixels = pad_to_multiple(normalise(images, self._mean, self._std), self._patch)
        grid = (pixels.shape[2] // self._patch, pixels.shape[3] // self._patch)
        vision = self.model.vision_model
        hidden = vision.embeddings(pixels.to(self._dtype), interpolate_pos_encoding=True)
        output = vision.encoder(hidden, output_attentions=True, return_dict=True)
        tokens = vision.layernorm(output.last_hidden_state)
        both = torch.cat([tokens, tokens.mean(dim=1, keepdim=True)], dim=1)
        projected = F.normalize(self.model.visual_projection(both.flatten(0, 1)).float(), dim=-1)
        embedded = projected.unflatten(0, (len(both), -1))
        assignment = joined([each.float() for each in output.attentions]).unflatten(2, grid)
        return Groups(embedded[:, :-1], embedded[:, -1], assignment, self._patch)


def joined(assignments: Sequence[Tensor]) -> Tensor:
    """Patches to the last stage's groups through all stages: [B, G, previous groups] each -> [B, G, patches]."""
    whole = assignments[0]
    for each in assignments[1:]:
        whole = each @ whole
    return whole
