"""Image-text models: one embedding for an image, one for a text, in one space."""

import logging
from abc import abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import open_clip
import torch
import torch.nn.functional as F
from huggingface_hub import snapshot_download
from open_clip.pretrained import download_pretrained_from_hf
from torch import Tensor

from harness.method.part import Part, Requirement, required_file
from harness.system.errors import ConfigurationError, ModelError, did_you_mean
from methods.backbones import hub
from methods.backbones.pixels import FILTERS, PILLOW, Filter, normalise, resize


class ImageText(Part):
    """A frozen image-text model."""

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
        revision: Commit or branch on the Hub, of weights that lie there; null is the main branch.
        text_batch: Texts encoded at once.
    """

    not_identity = frozenset({"name", "pretrained", "revision", "text_batch"})

    def __init__(
        self,
        name: str = "ViT-B-32",
        pretrained: str | None = None,
        revision: str | None = None,
        text_batch: int = 256,
    ) -> None:
        super().__init__()
        self.name = name
        self.pretrained = pretrained
        self.revision = revision
        self.text_batch = text_batch

    def build(self) -> None:
        """Build the model from local files or the Hub's cache, in float32.

        Raises:
            ConfigurationError: open_clip has no such architecture.
            ModelError: Its weights are not on this machine.
        """
        known = open_clip.list_models()
        if ":" not in self.name and self.name not in known:
            raise ConfigurationError(f"open_clip has no model '{self.name}'{did_you_mean(self.name, known)}")
        folder = self.name.removeprefix("local-dir:")
        if folder != self.name:
            hub.check_folder(folder, "open_clip model", "open_clip_config.json")
        level = logging.getLogger().level
        try:
            # open_clip announces every step on the root logger.
            logging.getLogger().setLevel(logging.CRITICAL)
            name, given = self._files()
            model, _, _ = open_clip.create_model_and_transforms(name, precision="fp32", weights_only=True, **given)
            self._tokenizer = open_clip.get_tokenizer(name)
            self._model_config = open_clip.get_model_config(name)
        except (RuntimeError, OSError, ValueError) as error:
            what = f"open_clip model '{self.name}' / '{self.pretrained}'"
            if repository := self._repository():
                raise hub.not_here(repository, self.revision, what=f"{what} of") from error
            why = " ".join(str(error).split())
            raise ModelError(f"the {what} cannot be built from what is here: {why}") from error
        finally:
            logging.getLogger().setLevel(level)
        visual = model.visual
        size = visual.image_size
        self.input_size = (size, size) if isinstance(size, int) else (int(size[0]), int(size[1]))
        self._mean, self._std = visual.image_mean, visual.image_std
        told = getattr(visual, "preprocess_cfg", None) or {}
        # A configuration may leave the filter open ("random"), for which open_clip takes bicubic outside of training.
        self._filter: Filter = told["interpolation"] if told.get("interpolation") in FILTERS else "bicubic"
        self.model = model.eval().requires_grad_(False)

    def requirements(self, flag: str) -> Iterable[Requirement]:
        """See ``Part.requirements``: a folder, a checkpoint file, or a repository of the Hub."""
        folder = self.name.removeprefix("local-dir:")
        if folder != self.name:
            yield hub.required_folder(folder, f"{flag}.name")
        elif repository := self._repository():
            yield hub.required_model(repository, self.revision, f"{flag}.name")
        elif self.pretrained is not None and self.pretrained.endswith(hub.WEIGHTS):
            yield required_file(self.pretrained, f"{flag}.pretrained")

    def source(self) -> Mapping[str, str | None] | None:
        """See ``Part.source``; None for a checkpoint file and for random weights."""
        folder = self.name.removeprefix("local-dir:")
        if folder != self.name:
            return {"name": folder, "revision": None, "commit": None}
        repository = self._repository()
        return hub.source(repository, self.revision) if repository else None

    def _files(self) -> tuple[str, dict[str, Any]]:
        """What open_clip is to build and from which weights; it knows no revision but the main branch's."""
        repository = self._repository()
        if not repository or self.revision in (None, hub.MAIN):
            return self.name, {"pretrained": self.pretrained}
        if self.name.startswith("hf-hub:"):
            snapshot = snapshot_download(repository, revision=self.revision, local_files_only=True)
            return f"local-dir:{snapshot}", {"pretrained": None}
        told = open_clip.get_pretrained_cfg(self.name, self.pretrained)
        weights = download_pretrained_from_hf(repository, revision=self.revision)
        return self.name, {"pretrained": weights, "image_mean": told.get("mean"), "image_std": told.get("std")}

    def _repository(self) -> str:
        """The Hub's repository that the weights lie in; empty for other sources."""
        if self.name.startswith("hf-hub:"):
            return self.name.removeprefix("hf-hub:")
        if ":" in self.name or self.pretrained is None:
            return ""
        return str(open_clip.get_pretrained_cfg(self.name, self.pretrained).get("hf_hub") or "").strip("/")

    def configuration(self) -> Any:
        """open_clip's configuration with its ``quick_gelu``, a hash of the tokenizer, and the preprocessing."""
        layers = {type(layer).__name__ for layer in self.model.modules()}
        return {
            "model": hub.plain_config(self._model_config),
            # A checkpoint's tag may decide over the configuration.
            "activations": sorted(name for name in layers if "gelu" in name.lower()),
            "tokenizer": hub.tokenization(self._tokenizer),
            "mean": list(self._mean),
            "std": list(self._std),
            "size": list(self.input_size),
            "resize": [PILLOW, self._filter],
        }

    def encode_images(self, images: Tensor) -> Tensor:
        """Images of any size, squashed to the model's input by Pillow, as its own processor does with square ones."""
        pixels = normalise(resize(images, self.input_size, self._filter), self._mean, self._std)
        embedded = self.model.encode_image(pixels.to(self._dtype))
        return F.normalize(embedded.float(), dim=-1)

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
