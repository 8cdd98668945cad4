"""Dense features: a vector for every patch of an image, from a frozen vision transformer."""

from abc import abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from typing import Any, Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import AutoConfig, AutoModel, PreTrainedModel

from harness.method.part import Part, Requirement
from harness.system.errors import ModelError
from methods.backbones import hub
from methods.backbones.pixels import IMAGENET_MEAN, IMAGENET_STD, normalise, pad_to_multiple

Kind = Literal["key", "query", "value", "token"]


def dino_positions(positions: Tensor, grid: tuple[int, int]) -> Tensor:
    """Position embeddings of patches for another grid, as DINO's own code and OVDiff's release resize them.

    Bicubic, by the factor (side + 0.1) / model's side: a grid that is a tenth of a patch larger, cut off
    (facebookresearch/dino, ``vision_transformer.py``; karazijal/sdov, ``utils/extractor.py``).

    Args:
        positions: [N, D] of the model's own square grid.
        grid: (height, width) in patches.

    Returns:
        [height width, D] float32.
    """
    side = round(positions.shape[0] ** 0.5)
    if grid == (side, side):
        return positions.float()
    patches = positions.float().T.unflatten(1, (side, side))[None]
    factors = tuple((cells + 0.1) / side for cells in grid)
    return F.interpolate(patches, scale_factor=factors, mode="bicubic", align_corners=False)[0].flatten(1).T


class ViTFeatures(NamedTuple):
    """One layer's inside.

    Attributes:
        patches: [B, D, grid height, grid width], the asked-for kind, heads concatenated.
        cls_attention: [B, heads, grid height, grid width], the CLS query's softmax attention to the patches in the
            same layer; None unless asked for.
    """

    patches: Tensor
    cls_attention: Tensor | None


class Dense(Part):
    """A frozen dense backbone."""

    patch_size: int
    dim: int

    @abstractmethod
    def features(
        self, images: Tensor, kind: Kind = "token", layer: int = -1, cls_attention: bool = False
    ) -> ViTFeatures:
        """Features of images, [B, 3, h, w] uint8 RGB, zero-padded at the bottom and right to whole patches.

        Args:
            images: The images.
            kind: ``key``, ``query`` or ``value`` of a layer's attention, or its output ``token`` (after the final
                norm for the last layer).
            layer: Which layer, negative from the end.
            cls_attention: Whether to give the CLS token's attention as well.
        """


class HubViT(Dense):
    """A ViT of transformers by Hub id or local folder: DINO (``facebook/dino-vits8``), DINOv2, MAE.

    Args:
        name: Hub id or folder; ``facebook/dino-vits8`` is the backbone of FOUND.
        revision: Commit or branch on the Hub.
        mean: Normalisation per channel, for values in [0, 1]; null takes that of the model's own preprocessing, or
            ImageNet's if it has none.
        std: Deviation per channel, chosen as ``mean`` is.
        positions: How position embeddings are resized for images of other sizes than the model's own: ``model`` as
            transformers does, ``dino`` by ``dino_positions``.
        random_weights: Build from the configuration alone, for tests and timing without the weights.
    """

    not_identity = frozenset({"name", "revision"})

    def __init__(
        self,
        name: str,
        revision: str | None = None,
        mean: Sequence[float] | None = None,
        std: Sequence[float] | None = None,
        positions: Literal["model", "dino"] = "model",
        random_weights: bool = False,
    ) -> None:
        super().__init__()
        self.name = name
        self.revision = revision
        self.mean = mean
        self.std = std
        self.positions = positions
        self.random_weights = random_weights

    def build(self) -> None:
        """Build the model from local files or the Hub's cache, in float32.

        Raises:
            ModelError: It is not on this machine.
        """
        with hub.loading(self.name, self.revision) as where:
            if self.random_weights:
                model = AutoModel.from_config(AutoConfig.from_pretrained(self.name, **where))
            else:
                model = AutoModel.from_pretrained(self.name, dtype=torch.float32, **where)
        self.adopt(model, hub.preprocessing(self.name, self.revision))

    def requirements(self, flag: str) -> Iterable[Requirement]:
        """See ``Part.requirements``."""
        yield hub.required_model(self.name, self.revision, f"{flag}.name")

    def source(self) -> Mapping[str, str | None]:
        """See ``Part.source``."""
        return hub.source(self.name, self.revision)

    def configuration(self) -> Any:
        """A hash of the model's own configuration."""
        return hub.fingerprint(self.model.config.to_dict())

    def resolved(self) -> Mapping[str, Any]:
        """The normalisation that was found."""
        return {"mean": self._mean, "std": self._std}

    def adopt(self, model: PreTrainedModel, preprocessing: Mapping[str, Any] | None = None) -> None:
        """Use a model that was built elsewhere, such as one with random weights.

        Args:
            model: A vision transformer of transformers.
            preprocessing: Its ``image_mean`` and ``image_std``, if it has some.
        """
        told = preprocessing or {}
        self._mean = tuple(self.mean or told.get("image_mean") or IMAGENET_MEAN)
        self._std = tuple(self.std or told.get("image_std") or IMAGENET_STD)
        config = model.config
        self.patch_size = int(config.patch_size)
        self.dim = int(config.hidden_size)
        self._heads = int(config.num_attention_heads)
        self._fixed_size = config.model_type in ("vit", "vit_mae")
        self._masks = config.model_type == "vit_mae"
        if self._masks:
            config.mask_ratio = 0.0
        self._registers = int(getattr(config, "num_register_tokens", 0) or 0)
        self.model = model.eval().requires_grad_(False)
        if self.positions == "dino":
            embeddings: Any = getattr(model, "embeddings", None)
            if not hasattr(embeddings, "interpolate_pos_encoding"):
                raise ModelError(f"'{self.name}' ({type(model).__name__}) has no position embeddings to resize")
            embeddings.interpolate_pos_encoding = partial(_dino_encoding, embeddings, self.patch_size)
        self._attentions = [
            module for module in model.modules() if hasattr(module, "q_proj") and hasattr(module, "k_proj")
        ]
        if not self._attentions:
            raise ModelError(f"'{self.name}' ({type(model).__name__}) has no attention layers with q_proj and k_proj")
        self.mark_loaded()

    def features(
        self, images: Tensor, kind: Kind = "token", layer: int = -1, cls_attention: bool = False
    ) -> ViTFeatures:
        """See ``Dense.features``; keys, queries and values are taken where they are projected."""
        pixels = pad_to_multiple(normalise(images, self._mean, self._std), self.patch_size)
        grid = (pixels.shape[2] // self.patch_size, pixels.shape[3] // self.patch_size)
        wanted = {"query", "key"} if cls_attention else set()
        wanted |= {kind} - {"token"}
        seen: dict[str, Tensor] = {}
        hooks = []
        for name in wanted:
            projection = getattr(self._attentions[layer], f"{name[0]}_proj")
            hooks.append(projection.register_forward_hook(_keep(seen, name)))
        try:
            output = self._forward(pixels, kind == "token" and layer != -1)
        finally:
            for hook in hooks:
                hook.remove()
        if kind != "token":
            tokens = seen[kind]
        else:
            tokens = output.last_hidden_state if layer == -1 else output.hidden_states[layer]
        skip = 1 + self._registers
        patches = tokens[:, skip:].float().transpose(1, 2).unflatten(2, grid)
        attention = self._cls_attention(seen, skip).unflatten(2, grid) if cls_attention else None
        return ViTFeatures(patches, attention)

    def _forward(self, pixels: Tensor, hidden: bool) -> Any:
        arguments = {"pixel_values": pixels.to(next(self.model.parameters()).dtype), "output_hidden_states": hidden}
        # ViT checks the input's size unless told to interpolate; DINOv2 always interpolates and has no such switch.
        if self._fixed_size:
            arguments["interpolate_pos_encoding"] = True
        if self._masks:
            # MAE drops and shuffles patches by the rank of a noise; ascending noise leaves them all in their order.
            count = (pixels.shape[2] // self.patch_size) * (pixels.shape[3] // self.patch_size)
            arguments["noise"] = torch.arange(count, device=pixels.device).expand(len(pixels), -1)
        return self.model(**arguments)

    def _cls_attention(self, seen: dict[str, Tensor], skip: int) -> Tensor:
        """softmax(q_cls k^T / sqrt(d)) per head, [B, heads, patches]; the attention module itself need not give it."""
        query, key = (seen[name].float().unflatten(2, (self._heads, -1)).transpose(1, 2) for name in ("query", "key"))
        scores = query[:, :, :1] @ key.transpose(2, 3) / key.shape[-1] ** 0.5
        return scores.softmax(dim=-1)[:, :, 0, skip:]


def _dino_encoding(module: Any, patch: int, tokens: Tensor, height: int, width: int) -> Tensor:
    """In the place of a model's ``interpolate_pos_encoding``: [1, 1 + N, D] for an image of height x width pixels."""
    positions = module.position_embeddings
    patches = dino_positions(positions[0, 1:], (height // patch, width // patch)).to(positions.dtype)
    return torch.cat([positions[:, :1], patches[None]], dim=1)


def _keep(seen: dict[str, Tensor], name: str):  # type: ignore[no-untyped-def]
    def hook(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        seen[name] = output

    return hook
