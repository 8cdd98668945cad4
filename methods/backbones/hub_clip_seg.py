"""CLIPSeg of transformers: a mask of an image for any text."""

from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import CLIPSegForImageSegmentation, PreTrainedModel, PreTrainedTokenizerBase

from harness.system.errors import ConfigurationError
from methods.backbones.hub_image_text import HubImageText
from methods.backbones.pixels import normalise, resize


class HubCLIPSeg(HubImageText):
    """CLIPSeg by Hub id or local folder.

    Args:
        name: Hub id or folder.
        revision: Commit or branch on the Hub.
        size: Side in pixels to which images are squashed; 352 is what CLIPSeg was trained with. Its decoder sees
            squares alone.
        class_batch: Texts of one image that are decoded at once.
        text_batch: Texts encoded at once.

    Raises:
        ConfigurationError: A setting is out of range.
    """

    architecture = CLIPSegForImageSegmentation

    def __init__(
        self,
        name: str = "CIDAS/clipseg-rd64-refined",
        revision: str | None = None,
        size: int = 352,
        class_batch: int = 32,
        text_batch: int = 256,
    ) -> None:
        super().__init__(name, revision, text_batch)
        if size < 1 or class_batch < 1:
            raise ConfigurationError("model: size and class_batch must be at least 1")
        self.size = size
        self.class_batch = class_batch

    def adopt(
        self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, preprocessing: Mapping[str, Any] | None = None
    ) -> None:
        """See ``HubImageText.adopt``.

        Raises:
            ConfigurationError: The size is not a whole number of patches.
        """
        patch = int(model.config.vision_config.patch_size)
        if self.size % patch:
            raise ConfigurationError(f"model.size must be a multiple of '{self.name}''s {patch} pixels a patch")
        super().adopt(model, tokenizer, preprocessing)

    def encode_images(self, images: Tensor) -> Tensor:
        """Images of any size, squashed to ``size``."""
        features = self.model.clip.get_image_features(self._pixels(images)).pooler_output
        return F.normalize(features.float(), dim=-1)

    def text_features(self, tokens: Mapping[str, Tensor]) -> Tensor:
        """See ``HubImageText.text_features``."""
        features: Tensor = self.model.clip.get_text_features(**tokens).pooler_output
        return features

    def activations(self, images: Tensor) -> list[Tensor]:
        """What the decoder reads of images, the same for all texts.

        Args:
            images: [B, 3, h, w] uint8 RGB.

        Returns:
            One [B, 1 + patches, C] per layer that it reads.
        """
        output = self.model.clip.get_image_features(self._pixels(images), output_hidden_states=True)
        return [output.hidden_states[layer + 1] for layer in self.model.extract_layers]

    def masks(self, activations: list[Tensor], conditions: Tensor, stride: int = 1) -> Tensor:
        """Masks of images for texts.

        Args:
            activations: Of B images, as ``activations`` gives them.
            conditions: [C, D], texts as ``embed_text`` gives them.
            stride: Pixels of the squashed image per score; scores are averaged over them.

        Returns:
            [B, C, ⌈size / stride⌉, ⌈size / stride⌉] float32 in [0, 1].
        """
        side = -(-self.size // stride)
        return torch.stack(
            [
                torch.cat(
                    [
                        self._decode([level[row : row + 1] for level in activations], some, side)
                        for some in conditions.split(self.class_batch)
                    ]
                )
                for row in range(len(activations[0]))
            ]
        )

    def _decode(self, levels: list[Tensor], conditions: Tensor, side: int) -> Tensor:
        """One image and some texts: [C, side, side]."""
        repeated = [level.expand(len(conditions), -1, -1) for level in levels]
        logits = self.model.decoder(repeated, conditions.to(self._dtype)).logits
        return F.interpolate(logits.float().sigmoid()[:, None], (side, side), mode="area")[:, 0]

    def _pixels(self, images: Tensor) -> Tensor:
        squashed = resize(images, (self.size, self.size), "bilinear")
        return normalise(squashed, self._mean, self._std).to(self._dtype)
