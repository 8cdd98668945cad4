"""How the release of OVDiff shows an image to the CLIP of its category filter."""

from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from harness.system.errors import ConfigurationError
from methods.backbones.image_text import ImageText, OpenCLIP


class ReleaseCLIP(ImageText):
    """A CLIP whose images are squashed twice (karazijal/sdov, ``mmdata.py`` and ``utils/clip_class.py``).

    First to ``size`` x ``size`` by Pillow's Lanczos filter, in whole values, then to the model's own size bilinearly,
    neither antialiased nor rounded.

    Args:
        clip: The model.
        size: Side in pixels of the first.

    Raises:
        ConfigurationError: The size is not positive.
    """

    def __init__(self, clip: OpenCLIP, size: int = 512) -> None:
        super().__init__()
        if size < 1:
            raise ConfigurationError(f"the size of CLIP's images must be positive, not {size}")
        self.clip = clip
        self.size = size

    def encode_images(self, images: Tensor) -> Tensor:
        """See ``ImageText.encode_images``."""
        squashed = torch.stack([self._squashed(image) for image in images]).float()
        size = self.clip.input_size
        if tuple(squashed.shape[2:]) != size:
            squashed = F.interpolate(squashed, size, mode="bilinear", align_corners=False)
        return self.clip.encode_images(squashed)

    def encode_text(self, texts: Sequence[str]) -> Tensor:
        """See ``ImageText.encode_text``."""
        return self.clip.encode_text(texts)

    def _squashed(self, image: Tensor) -> Tensor:
        """[3, h, w] uint8 -> [3, size, size] uint8."""
        whole = Image.fromarray(image.permute(1, 2, 0).cpu().numpy())
        small = np.array(whole.resize((self.size, self.size), Image.Resampling.LANCZOS))
        return torch.from_numpy(small).permute(2, 0, 1).contiguous().to(image.device)
