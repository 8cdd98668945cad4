"""FOUND (Siméoni et al., Unsupervised Object Localization: Observing the Background to Discover Objects, CVPR 2023).

The saliency that CLIP-DIY calls Θ. Reference implementation: valeoai/FOUND, ``model.py`` and ``bkg_seg.py``.
"""

from abc import abstractmethod
from collections.abc import Iterable
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from harness.method.part import Part, Requirement, required_file
from harness.system.errors import ModelError
from methods.backbones import hub
from methods.backbones.dense import Dense

EPSILON = 1e-10


class Saliency(Part):
    """Objectness of every pixel."""

    @abstractmethod
    def forward(self, image: Tensor) -> Tensor:
        """[3, H, W] uint8 RGB -> [H, W] float32 in [0, 1], 1 where an object surely is."""


class Found(Saliency):
    """FOUND with its trained head: a 1x1 convolution on the keys of the last layer, upsampled, through a sigmoid.

    Args:
        backbone: DINO ViT-S/8 for the published head.
        head: The head's file: the published ``decoder_weights.pt`` (``{"decoder": {"weight", "bias"}}``) or a
            safetensors file with ``decoder.weight`` [1, D, 1, 1] and ``decoder.bias`` [1].
        binary: Threshold the sigmoid at 0.5, instead of the soft map.
    """

    not_identity = frozenset({"head"})

    def __init__(self, backbone: Dense, head: str, binary: bool = False) -> None:
        super().__init__()
        self.backbone = backbone
        self.head = head
        self.binary = binary

    def requirements(self, flag: str) -> Iterable[Requirement]:
        """See ``Part.requirements``."""
        yield required_file(self.head, f"{flag}.head")

    def build(self) -> None:
        """Load the head.

        Raises:
            ModelError: It is missing, no such head, or another backbone's.
        """
        weight, bias = read_head(Path(self.head))
        if weight.shape[1] != self.backbone.dim:
            raise ModelError(f"the FOUND head {self.head} is for {weight.shape[1]} channels, not {self.backbone.dim}")
        self.decoder = nn.Conv2d(self.backbone.dim, 1, kernel_size=1)
        self.decoder.load_state_dict({"weight": weight, "bias": bias})

    def forward(self, image: Tensor) -> Tensor:
        """Keys -> head -> bilinear to pixels (align_corners false) -> crop of the padding -> sigmoid."""
        keys = self.backbone.features(image[None], "key").patches
        logits = self.decoder(keys.to(self.decoder.weight.dtype)).float()
        logits = F.interpolate(logits, scale_factor=float(self.backbone.patch_size), mode="bilinear")
        saliency = logits[0, 0, : image.shape[1], : image.shape[2]].sigmoid()
        return (saliency > 0.5).float() if self.binary else saliency


class FoundSeed(Saliency):
    """FOUND's first stage without any training ("FOUND-bkg" in CLIP-DIY's Table 4): what does not look like background.

    The background seed is the patch that the CLS token attends to least; every patch similar to it is background.

    Args:
        backbone: DINO ViT-S/8 in the paper.
        tau: Cosine similarity above which a patch is background.
    """

    def __init__(self, backbone: Dense, tau: float = 0.3) -> None:
        super().__init__()
        self.backbone = backbone
        self.tau = tau

    def forward(self, image: Tensor) -> Tensor:
        """1 where a pixel's patch is unlike the seed, else 0 (nearest to pixels)."""
        found = self.backbone.features(image[None], "key", cls_attention=True)
        if found.cls_attention is None:
            raise ModelError(f"{type(self.backbone).__name__} gives no attention, which FOUND's seed needs")
        attention = found.cls_attention[0]
        heads = attention.shape[0]
        # Heads whose attention is sparse say more: beta_h = log(sum_h Q_h / Q_h), Q_h the share above the mean.
        above = (attention > attention.mean()).flatten(1).float().mean(dim=1)
        beta = torch.log((above + EPSILON).sum() / (above + EPSILON))
        keys = found.patches[0].unflatten(0, (heads, -1)) * beta[:, None, None, None]
        descriptors = F.normalize(keys.flatten(0, 1).flatten(1), dim=0)
        seed = (attention * beta[:, None, None]).sum(dim=0).flatten().argmin()
        background = descriptors[:, seed] @ descriptors > self.tau
        objects = (~background).float().reshape(1, 1, *attention.shape[1:])
        pixels = F.interpolate(objects, scale_factor=float(self.backbone.patch_size), mode="nearest")
        return pixels[0, 0, : image.shape[1], : image.shape[2]]


def read_head(path: Path) -> tuple[Tensor, Tensor]:
    """A FOUND head's weight [1, D, 1, 1] and bias [1], float32, from safetensors or the published ``.pt``.

    Raises:
        ModelError: The file is missing or holds no such head.
    """
    try:
        state = hub.read_checkpoint(path, "FOUND head", "data/weights/decoder_weights.pt in valeoai/FOUND")
        state = state["decoder"] if "decoder" in state else {key.removeprefix("decoder."): state[key] for key in state}
        return state["weight"].float(), state["bias"].float()
    except ModelError:
        raise
    except Exception as error:
        raise hub.not_a_checkpoint(path, "FOUND head", error) from error
