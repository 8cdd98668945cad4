"""Dense features of an open_clip vision transformer: keys, queries, values or tokens of a layer."""

from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from harness.system.errors import ModelError
from methods.backbones.dense import Dense, Kind, ViTFeatures, dino_positions
from methods.backbones.image_text import OpenCLIP
from methods.backbones.pixels import IMAGENET_MEAN, IMAGENET_STD, normalise, pad_to_multiple


class OpenCLIPDense(Dense):
    """The patches of a CLIP image encoder (OVDiff takes the keys of the last layer but one).

    Images of other sizes than the model's own are seen with interpolated position embeddings.

    Args:
        clip: The model; only its image encoder goes to the device.
        imagenet_normalisation: Normalise with ImageNet's mean and deviation, as OVDiff's release does, not CLIP's.
        positions: How position embeddings are interpolated: ``bilinear``, or by ``dino_positions`` (``dino``), as
            OVDiff's release does.
    """

    visual: Any

    def __init__(
        self,
        clip: OpenCLIP,
        imagenet_normalisation: bool = False,
        positions: Literal["bilinear", "dino"] = "bilinear",
    ) -> None:
        super().__init__()
        self.imagenet_normalisation = imagenet_normalisation
        self.positions = positions

    def build(self) -> None:
        """Take CLIP's image encoder.

        Raises:
            ModelError: The image encoder is no plain vision transformer.
        """
        # Not a submodule, so that its text encoder stays where it is.
        clip: OpenCLIP = self.arguments["clip"]
        visual = clip.model.visual
        if not hasattr(visual, "transformer") or not hasattr(visual, "conv1"):
            raise ModelError(f"open_clip '{clip.name}' has no vision transformer whose patches could be taken")
        self.visual = visual
        self.patch_size = int(visual.conv1.kernel_size[0])
        self.dim = int(visual.conv1.out_channels)
        mean, std = (IMAGENET_MEAN, IMAGENET_STD) if self.imagenet_normalisation else clip.normalisation
        self._mean, self._std = tuple(mean), tuple(std)
        self._positions = visual.positional_embedding

    def features(
        self, images: Tensor, kind: Kind = "token", layer: int = -1, cls_attention: bool = False
    ) -> ViTFeatures:
        """See ``Dense.features``; the projections are computed from what enters the layer's attention."""
        visual = self.visual
        pixels = pad_to_multiple(normalise(images, self._mean, self._std), self.patch_size)
        x = visual.conv1(pixels.to(visual.conv1.weight.dtype))
        grid = (x.shape[2], x.shape[3])
        x = x.flatten(2).transpose(1, 2)
        first = visual.class_embedding.to(x.dtype).expand(x.shape[0], 1, -1)
        x = visual.ln_pre(torch.cat([first, x], dim=1) + self._position_embedding(grid).to(x.dtype))
        blocks = visual.transformer.resblocks
        wanted = layer % len(blocks)
        for block in blocks[:wanted]:
            x = block(x)
        block = blocks[wanted]
        query, key, value = self._project(block, x)
        kinds = {"query": query, "key": key, "value": value}
        if kind == "token":
            tokens = block(x)
            tokens = visual.ln_post(tokens) if wanted == len(blocks) - 1 else tokens
        else:
            tokens = kinds[kind]
        attention = self._cls_attention(block, query, key, grid) if cls_attention else None
        return ViTFeatures(tokens[:, 1:].float().transpose(1, 2).unflatten(2, grid), attention)

    def _position_embedding(self, grid: tuple[int, int]) -> Tensor:
        positions = self._positions
        side = round((positions.shape[0] - 1) ** 0.5)
        if grid == (side, side):
            return positions
        if self.positions == "dino":
            return torch.cat([positions[:1].float(), dino_positions(positions[1:], grid)])
        patches = positions[1:].T.unflatten(1, (side, side))[None].float()
        resized = F.interpolate(patches, grid, mode="bilinear", align_corners=False)[0].flatten(1).T
        return torch.cat([positions[:1].float(), resized])

    @staticmethod
    def _project(block: Any, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        attention = block.attn
        projected = F.linear(block.ln_1(x), attention.in_proj_weight, attention.in_proj_bias)
        query, key, value = projected.chunk(3, dim=-1)
        return query, key, value

    @staticmethod
    def _cls_attention(block: Any, query: Tensor, key: Tensor, grid: tuple[int, int]) -> Tensor:
        heads = block.attn.num_heads
        query, key = (part.float().unflatten(2, (heads, -1)).transpose(1, 2) for part in (query, key))
        weights = (query[:, :, :1] @ key.transpose(2, 3) / key.shape[-1] ** 0.5).softmax(dim=-1)
        return weights[:, :, 0, 1:].unflatten(2, grid)
