"""CLIP's patches in the space of its texts: as CLIP computes them, or as MaskCLIP does without the last attention."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from harness.system.errors import ConfigurationError, ModelError
from methods.backbones.clip_dense import OpenCLIPDense
from methods.backbones.image_text import ImageText, OpenCLIP
from methods.backbones.pixels import resize

Extent = tuple[float, float, float, float]


class Patches(NamedTuple):
    """What an image's patches are.

    Attributes:
        embeddings: [B, D, grid height, grid width] float32, of unit length, in the space of the texts.
        keys: [B, C, grid height, grid width] float32, of the last layer's attention, heads concatenated; None where
            they were not computed.
        extent: What the grid covers, (top, left, bottom, right) in pixels of the image.
    """

    embeddings: Tensor
    keys: Tensor | None
    extent: Extent


class CLIPPatches(ImageText):
    """A CLIP of open_clip that embeds patches of images as well.

    Position embeddings are interpolated bilinearly for images of other sizes than the model's own.

    Args:
        clip: The model, with a vision transformer.
        size: Side in pixels to which images are squashed first; null shows them as they are, zero-padded at the
            bottom and right to whole patches.

    Raises:
        ConfigurationError: The size is not positive.
    """

    def __init__(self, clip: OpenCLIP, size: int | None = None) -> None:
        super().__init__()
        if size is not None and size < 1:
            raise ConfigurationError(f"the size of CLIP's images must be positive, not {size}")
        self.clip = clip
        self.size = size

    def build(self) -> None:
        """Check that CLIP's patches can be projected.

        Raises:
            ModelError: The weights are not here, or the image encoder is no plain vision transformer.
        """
        dense = OpenCLIPDense(self.clip)
        dense.load()
        blocks = dense.visual.transformer.resblocks
        plain = dense.visual.proj is not None and dense.visual.attn_pool is None
        if not plain or len(blocks) < 2 or not isinstance(getattr(blocks[-1], "attn", None), nn.MultiheadAttention):
            raise ModelError(f"the patches of open_clip '{self.clip.name}' cannot be projected as its images are")
        self._dense = [dense]  # in a list, so that the image encoder is not a submodule twice

    def encode_images(self, images: Tensor) -> Tensor:
        """See ``ImageText.encode_images``."""
        return self.clip.encode_images(images)

    def encode_text(self, texts: Sequence[str]) -> Tensor:
        """See ``ImageText.encode_text``."""
        return self.clip.encode_text(texts)

    def tokens(self, images: Tensor) -> Patches:
        """The final patch tokens through the last norm and the projection, as CLIP does with its first token.

        Args:
            images: [B, 3, h, w] uint8 RGB.
        """
        tokens = self._dense[0].features(self._seen(images), "token", -1).patches
        return Patches(self._project(tokens.flatten(2).transpose(1, 2), tokens), None, self._extent(images, tokens))

    def values(self, images: Tensor, residual: bool = False) -> Patches:
        """The last attention's values through its output, the last norm and the projection, unmixed by attention.

        Args:
            images: [B, 3, h, w] uint8 RGB.
            residual: Whether the rest of the last block stays: what is added to its input, and its MLP.
        """
        visual = self._visual
        block = visual.transformer.resblocks[-1]
        entering = self._dense[0].features(self._seen(images), "token", -2).patches
        x = entering.flatten(2).transpose(1, 2).to(visual.proj.dtype)
        attention = block.attn
        projected = F.linear(block.ln_1(x), attention.in_proj_weight, attention.in_proj_bias)
        _, keys, values = projected.chunk(3, dim=-1)
        out = attention.out_proj(values)
        if residual:
            out = x + block.ls_1(out)
            out = out + block.ls_2(block.mlp(block.ln_2(out)))
        embeddings = self._project(visual.ln_post(out), entering)
        grid = (entering.shape[2], entering.shape[3])
        return Patches(embeddings, keys.float().transpose(1, 2).unflatten(2, grid), self._extent(images, entering))

    @property
    def _visual(self) -> Any:
        return self._dense[0].visual

    def _seen(self, images: Tensor) -> Tensor:
        return images if self.size is None else resize(images, (self.size, self.size)).to(images.dtype)

    def _project(self, tokens: Tensor, like: Tensor) -> Tensor:
        """[B, N, C] into the space of the texts, on the grid of ``like``."""
        projection = self._visual.proj
        embedded = F.normalize((tokens.to(projection.dtype) @ projection).float(), dim=-1)
        return embedded.transpose(1, 2).unflatten(2, (like.shape[2], like.shape[3]))

    def _extent(self, images: Tensor, grid: Tensor) -> Extent:
        """The padding lies outside of the image."""
        height, width = images.shape[2:]
        if self.size is not None:
            seen_y = seen_x = self.size
        else:
            seen_y, seen_x = height, width
        patch = self._dense[0].patch_size
        return 0.0, 0.0, grid.shape[2] * patch * height / seen_y, grid.shape[3] * patch * width / seen_x


def classify(embeddings: Tensor, text: Tensor, temperature: float | None = None) -> Tensor:
    """Texts as the weights of a 1x1 convolution.

    Args:
        embeddings: [B, D, h, w] of unit length.
        text: [C, D] of unit length.
        temperature: What cosines are divided by before a softmax over the classes; null leaves cosines.

    Returns:
        [B, C, h, w] float32, in [-1, 1], or in [0, 1] with a temperature.
    """
    cosines = torch.einsum("bdhw,cd->bchw", embeddings.float(), text.float())
    return cosines if temperature is None else (cosines / temperature).softmax(dim=1)
