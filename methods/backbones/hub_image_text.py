"""Image-text models of transformers that segment by themselves: what loading and their texts have in common."""

from abc import abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import AutoConfig, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase

from harness.method.part import Requirement
from harness.system.errors import ConfigurationError, ModelError
from methods.backbones import hub
from methods.backbones.image_text import ImageText
from methods.backbones.pixels import IMAGENET_MEAN, IMAGENET_STD, PILLOW


class HubImageText(ImageText):
    """An image-text model by Hub id or local folder.

    Args:
        name: Hub id or folder.
        revision: Commit or branch on the Hub.
        text_batch: Texts encoded at once.

    Raises:
        ConfigurationError: A setting is out of range.
    """

    not_identity = frozenset({"name", "revision", "text_batch", "class_batch"})
    architecture: ClassVar[Any]  # the class of transformers
    model: PreTrainedModel

    def __init__(self, name: str, revision: str | None = None, text_batch: int = 256) -> None:
        super().__init__()
        if text_batch < 1:
            raise ConfigurationError("model: text_batch must be at least 1")
        self.name = name
        self.revision = revision
        self.text_batch = text_batch

    def build(self) -> None:
        """Build model and tokenizer from local files or the Hub's cache, in float32.

        Raises:
            ModelError: They are not on this machine, or are those of another kind of model.
        """
        with hub.loading(self.name, self.revision) as where:
            kind = AutoConfig.from_pretrained(self.name, **where).model_type
            if kind != self.architecture.config_class.model_type:
                raise ModelError(f"'{self.name}' is a model of type {kind}, not {self.architecture.__name__}")
            tokenizer = AutoTokenizer.from_pretrained(self.name, **where)
            model = self.architecture.from_pretrained(self.name, dtype=torch.float32, **where)
        self.adopt(model, tokenizer, hub.preprocessing(self.name, self.revision))

    def requirements(self, flag: str) -> Iterable[Requirement]:
        """See ``Part.requirements``."""
        yield hub.required_model(self.name, self.revision, f"{flag}.name")

    def source(self) -> Mapping[str, str | None]:
        """See ``Part.source``."""
        return hub.source(self.name, self.revision)

    def configuration(self) -> Any:
        """Hashes of the model's configuration and of its tokenizer, and the preprocessing."""
        return {
            "model": hub.fingerprint(self.model.config.to_dict()),
            "tokenizer": hub.tokenization(self._tokenizer),
            "mean": list(self._mean),
            "std": list(self._std),
            "resize": PILLOW,
        }

    def adopt(
        self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, preprocessing: Mapping[str, Any] | None = None
    ) -> None:
        """Use a model that was built elsewhere, such as one with random weights.

        Args:
            model: Of the class's architecture.
            tokenizer: Its tokenizer.
            preprocessing: Its ``image_mean`` and ``image_std``; ImageNet's where it says nothing.
        """
        told = preprocessing or {}
        self._mean = tuple(told.get("image_mean") or IMAGENET_MEAN)
        self._std = tuple(told.get("image_std") or IMAGENET_STD)
        self._tokenizer = tokenizer
        self.model = model.eval().requires_grad_(False)
        self.mark_loaded()

    @abstractmethod
    def text_features(self, tokens: Mapping[str, Tensor]) -> Tensor:
        """[T, D], of texts as the tokenizer gives them."""

    def encode_text(self, texts: Sequence[str]) -> Tensor:
        """See ``ImageText.encode_text``; longer texts are cut at the model's context length."""
        return F.normalize(self.embed_text(list(texts)), dim=-1)

    def embed_text(self, texts: list[str]) -> Tensor:
        """T texts -> [T, D] float32, as the model makes them, of any length."""
        length = self.model.config.text_config.max_position_embeddings
        batches = [texts[start : start + self.text_batch] for start in range(0, len(texts), self.text_batch)]
        device = next(self.model.parameters()).device
        embedded = []
        for batch in batches:
            tokens = self._tokenizer(batch, padding=True, truncation=True, max_length=length, return_tensors="pt")
            placed = {key: tokens[key].to(device) for key in ("input_ids", "attention_mask")}
            embedded.append(self.text_features(placed).float())
        return torch.cat(embedded)

    @property
    def _dtype(self) -> torch.dtype:
        return next(self.model.parameters()).dtype
