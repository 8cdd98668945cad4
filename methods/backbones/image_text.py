"""Image-text models: one embedding for a picture, one for a text, in one space."""

import logging
from abc import abstractmethod
from collections.abc import Sequence
from pathlib import Path

import open_clip
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from harness.system.errors import ConfigurationError, ModelError, did_you_mean
from harness.system.sharing import frozen_part, once
from methods.backbones.pixels import normalise, resize


@frozen_part
class ImageText(nn.Module):
    """A frozen image-text model. The constructor loads nothing; ``load`` does."""

    @abstractmethod
    def load(self) -> None:
        """Build the model.

        Raises:
            ModelError: Its weights are not on this machine.
        """

    @abstractmethod
    def encode_images(self, images: Tensor) -> Tensor:
        """[B, 3, h, w] uint8 RGB -> [B, D] float32, L2-normalised."""

    @abstractmethod
    def encode_text(self, texts: Sequence[str]) -> Tensor:
        """T texts -> [T, D] float32, L2-normalised."""

    def encode_classes(self, names: Sequence[str], templates: Sequence[str]) -> Tensor:
        """Class embeddings: the mean over templates of the text embeddings, L2-normalised again.

        Args:
            names: C class names.
            templates: Texts with one ``{}`` for the name.

        Returns:
            [C, D] float32.
        """
        texts = [template.replace("{}", name) for name in names for template in templates]
        embedded = self.encode_text(texts).reshape(len(names), len(templates), -1)
        return F.normalize(embedded.mean(dim=1), dim=-1)


class OpenCLIP(ImageText):
    """Any CLIP of open_clip.

    Args:
        name: An architecture of open_clip (``ViT-B-32``), or ``local-dir:FOLDER`` / ``hf-hub:ORG/REPO`` with an
            ``open_clip_config.json``.
        pretrained: A tag of open_clip (``laion2b_s34b_b79k``) or a local checkpoint file; null with a plain
            architecture gives random weights.
        text_batch: Texts encoded at once.
    """

    def __init__(self, name: str = "ViT-B-32", pretrained: str | None = None, text_batch: int = 256) -> None:
        super().__init__()
        self.name = name
        self.pretrained = pretrained
        self.text_batch = text_batch

    def load(self) -> None:
        """Build the model from local files or the Hub's cache, in float32."""
        known = open_clip.list_models()
        if ":" not in self.name and self.name not in known:
            raise ConfigurationError(f"open_clip has no model '{self.name}'{did_you_mean(self.name, known)}")
        folder = self.name.removeprefix("local-dir:")
        if folder != self.name and not (Path(folder) / "open_clip_config.json").is_file():
            raise ModelError(f"there is no open_clip model in '{folder}': open_clip_config.json is missing")
        level = logging.getLogger().level
        try:
            # open_clip announces every step on the root logger.
            logging.getLogger().setLevel(logging.CRITICAL)
            model, _, _ = open_clip.create_model_and_transforms(
                self.name, pretrained=self.pretrained, precision="fp32", weights_only=True
            )
            self._tokenizer = open_clip.get_tokenizer(self.name)
        except (RuntimeError, OSError, ValueError) as error:
            raise ModelError(
                f"the weights of open_clip '{self.name}' / '{self.pretrained}' are neither here nor in the Hub's "
                "cache; where there is a network, the same command with HF_HUB_OFFLINE=0 in front fetches them once"
            ) from error
        finally:
            logging.getLogger().setLevel(level)
        visual = model.visual
        size = visual.image_size
        self.input_size = (size, size) if isinstance(size, int) else (int(size[0]), int(size[1]))
        self._mean, self._std = visual.image_mean, visual.image_std
        self.model = model.eval().requires_grad_(False)

    @once
    def encode_images(self, images: Tensor) -> Tensor:
        """Pictures of any size, squashed to the model's input (bicubic, as its own processor does)."""
        pixels = normalise(resize(images, self.input_size), self._mean, self._std)
        embedded = self.model.encode_image(pixels.to(self._dtype))
        return F.normalize(embedded.float(), dim=-1)

    @once
    def encode_text(self, texts: Sequence[str]) -> Tensor:
        """Texts in batches; longer ones are cut at the model's context length."""
        device = next(self.model.parameters()).device
        tokens = self._tokenizer(list(texts)).to(device)
        embedded = [self.model.encode_text(part).float() for part in tokens.split(self.text_batch)]
        return F.normalize(torch.cat(embedded), dim=-1)

    @property
    def normalisation(self) -> tuple[Sequence[float], Sequence[float]]:
        """Mean and deviation per channel, for values in [0, 1]."""
        return self._mean, self._std

    @property
    def _dtype(self) -> torch.dtype:
        return next(self.model.parameters()).dtype
