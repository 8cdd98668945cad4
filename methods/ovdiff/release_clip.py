"""How the release of OVDiff shows an image to the CLIP of its category filter."""

from collections.abc import Sequence

from torch import Tensor

from harness.system.errors import ConfigurationError
from methods.backbones.features import resized
from methods.backbones.image_text import ImageText, OpenCLIP
from methods.backbones.pixels import resize


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
        squashed = resize(images, (self.size, self.size), "lanczos")
        return self.clip.encode_images(resized(squashed, self.clip.input_size, "bilinear"))

    def encode_text(self, texts: Sequence[str]) -> Tensor:
        """See ``ImageText.encode_text``."""
        return self.clip.encode_text(texts)
