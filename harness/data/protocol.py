"""The evaluation protocol: every choice between images and scores. Its fingerprint is stored with every result."""

import dataclasses
import hashlib
import json
from dataclasses import dataclass
from typing import Literal

import cv2
import numpy as np
from PIL import Image

from harness.data.prompts import check_templates
from harness.system.errors import ConfigurationError

FINGERPRINT_LENGTH = 16


def fingerprint(value: object) -> str:
    """The first 16 hex digits of the SHA-256 of ``value`` as canonical JSON (sorted keys, no spaces)."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    # File names that are not UTF-8 have surrogates.
    return hashlib.sha256(text.encode(errors="surrogatepass")).hexdigest()[:FINGERPRINT_LENGTH]


@dataclass(frozen=True)
class Protocol:
    """Every choice between an image file and its score that is not the method's.

    Attributes:
        name: The protocol's name; the only field that is not in the fingerprint.
        version: Incremented when the meaning of a field changes.
        resize: ``keep_ratio`` is mmsegmentation's rule with ``size = (long, short)``: scale = min(long / long side,
            short / short side), new side = int(side * scale + 0.5), but at least 1 pixel, where mmsegmentation fails.
            ``squash`` resizes to ``size = (height, width)`` without keeping the aspect ratio. ``none`` does not resize.
        size: Two sides in pixels, see ``resize``.
        interpolation: ``bilinear`` is OpenCV's without antialiasing, on uint8, as in mmsegmentation and TCL;
            ``lanczos`` is Pillow's, antialiased, as in OVDiff's release.
        window: Side of the square window in pixels; null uses the whole image as one window.
        stride: Step between windows in pixels; the last window of a row or column is shifted back inside.
        small_images: For an image with a side smaller than the window: ``whole`` uses a smaller, unpadded window, as
            mmsegmentation does; ``pad`` pads the image with zeros, bottom and right, to the window.
        templates: Prompt templates, each with one ``{}`` for the class name; their text embeddings are averaged.
        class_names: The list of class names to use; ``mmseg`` is mmsegmentation's.
        background: Of a background whose score is a constant. ``unrefined``: it is concatenated to the refined classes,
            as TCL does; ``refined``: its plane is refined as well. A background that the method scores is refined like
            the classes in both cases.
        ignore_label: Label value that is not scored.
        absent_classes: A class neither labelled nor predicted: ``drop`` leaves it out of the mean (mmsegmentation),
            ``zero`` counts it as 0.
        refine: Where mask refinement (if the method has one) runs: in each ``window`` at the pixels' resolution, on the
            upsampled scores before they are stitched; in each window at the resolution of the score maps (``mask``),
            on the window shrunk to it (bilinear, align_corners true) and before the scores are upsampled, as TCL does;
            or once on the stitched ``image``.
        labels: ``original`` scores at the label map's own size; ``resized`` first resizes the label map so that its
            short side is ``label_size``, as torchvision does with Pillow's images: nearest to the pixels' centres, the
            long side cut to whole pixels, not rounded.
        label_size: Short side in pixels for ``labels: resized``.
        upsample: How scores reach the label map's size: ``bilinear`` (align_corners false) scores then argmax, or
            ``nearest`` on the argmax, as OpenCV's: the pixel at the corner, not at the centre.
        reduction: ``dataset``: areas are summed over all images before dividing.

    Raises:
        ConfigurationError: Fields contradict each other.
    """

    name: str
    version: int = 1
    resize: Literal["keep_ratio", "squash", "none"] = "keep_ratio"
    size: tuple[int, int] = (2048, 448)
    interpolation: Literal["bilinear", "lanczos"] = "bilinear"
    window: int | None = 448
    stride: int = 224
    small_images: Literal["whole", "pad"] = "whole"
    templates: tuple[str, ...] = ("a photo of a {}.",)
    class_names: str = "mmseg"
    background: Literal["refined", "unrefined"] = "unrefined"
    ignore_label: int = 255
    absent_classes: Literal["drop", "zero"] = "drop"
    refine: Literal["window", "mask", "image"] = "window"
    labels: Literal["original", "resized"] = "original"
    label_size: int | None = None
    upsample: Literal["bilinear", "nearest"] = "bilinear"
    reduction: Literal["dataset"] = "dataset"

    def __post_init__(self) -> None:
        if min(self.size) < 1 or (self.window is not None and self.window < 1) or self.stride < 1:
            raise ConfigurationError(f"protocol '{self.name}': size, window and stride must be positive")
        if self.window is not None and self.stride > self.window:
            raise ConfigurationError(
                f"protocol '{self.name}': stride {self.stride} leaves gaps in window {self.window}"
            )
        check_templates(self.templates, f"protocol '{self.name}': templates")
        if self.labels == "resized" and (self.label_size or 0) < 1:
            raise ConfigurationError(f"protocol '{self.name}': labels: resized needs a positive label_size")

    @property
    def fingerprint(self) -> str:
        """16 hex digits over every field but the name."""
        fields = dataclasses.asdict(self)
        del fields["name"]
        return fingerprint(fields)

    def resized_size(self, height: int, width: int) -> tuple[int, int]:
        """(height, width) in pixels of an image after the protocol's resize, both at least 1."""
        if self.resize == "none":
            return height, width
        if self.resize == "squash":
            return self.size
        long, short = max(self.size), min(self.size)
        scale = min(long / max(height, width), short / min(height, width))
        return max(1, int(height * scale + 0.5)), max(1, int(width * scale + 0.5))

    def resize_image(self, image: np.ndarray) -> np.ndarray:
        """Resize an image, HWC uint8 in [0, 255], to ``resized_size``."""
        height, width = self.resized_size(*image.shape[:2])
        if (height, width) == image.shape[:2]:
            return image
        if self.interpolation == "lanczos":
            return np.asarray(Image.fromarray(image).resize((width, height), Image.Resampling.LANCZOS))
        return cv2.resize(image, (width, height), interpolation=cv2.INTER_LINEAR)

    def resize_labels(self, labels: np.ndarray) -> np.ndarray:
        """Resize a label map, HW uint8, to the size at which it is scored."""
        if self.labels == "original" or self.label_size is None:
            return labels
        height, width = labels.shape
        short = min(height, width)
        size = (int(self.label_size * width / short), int(self.label_size * height / short))
        return np.asarray(Image.fromarray(labels).resize(size, Image.Resampling.NEAREST))
