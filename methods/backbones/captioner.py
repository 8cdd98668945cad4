"""Captioners: one sentence about an image."""

import hashlib
import time
from abc import abstractmethod
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from PIL import Image
from torch import Tensor
from transformers import AutoModelForImageTextToText, AutoProcessor, PreTrainedModel, ProcessorMixin

from harness.artifacts.store import ArtifactStore
from harness.artifacts.work_item import WorkItem
from harness.method.part import Part, Requirement
from harness.system.errors import ConfigurationError, ModelError
from methods.backbones import hub
from methods.backbones.diffusion_pipeline import Precision
from methods.backbones.pixels import FILTERS, PILLOW, Filter, resize


class Captioner(Part):
    """A frozen image captioner."""

    @abstractmethod
    def caption(self, image: Tensor) -> str:
        """One sentence about an image, [3, H, W] uint8 RGB; the same for the same image, whatever came before."""


class HubCaptioner(Captioner):
    """BLIP or BLIP-2 of transformers by Hub id or local folder.

    Images go through the model's own processor, but are resized by Pillow as in LAVIS and in the processors that
    these models were published with; transformers' current ones resize tensors, up to two grey levels apart. They are
    captioned one at a time, so that no caption depends on what shares a batch. The defaults are what FreeSeg-Diff's
    release asks of BLIP through LAVIS (``blip_caption``).

    Args:
        name: Hub id or folder; ``Salesforce/blip-image-captioning-base`` is nearest to the release's ``base_coco``,
            ``Salesforce/blip2-opt-2.7b`` is what the paper cites.
        revision: Commit or branch on the Hub.
        prompt: What the caption continues from; it is not part of the caption. Spaces at its end do not count.
        num_beams: Of the beam search.
        min_length: Least number of tokens, with the prompt's and the first one, as LAVIS counts. A language model with
            an encoder of its own (BLIP-2 with T5) reads the prompt there: it then does not count.
        max_length: Largest number of tokens, counted as in ``min_length``.
        precision: Of weights and activations.

    Raises:
        ConfigurationError: A setting is out of range.
    """

    not_identity = frozenset({"name", "revision"})
    model: PreTrainedModel

    def __init__(
        self,
        name: str = "Salesforce/blip-image-captioning-base",
        revision: str | None = None,
        prompt: str = "a picture of ",
        num_beams: int = 3,
        min_length: int = 10,
        max_length: int = 30,
        precision: Precision = "float32",
    ) -> None:
        super().__init__()
        if num_beams < 1 or not 0 <= min_length <= max_length or max_length < 1:
            raise ConfigurationError(
                "captioner: num_beams must be at least 1, and 0 <= min_length <= max_length, max_length at least 1"
            )
        self.name = name
        self.revision = revision
        self.prompt = prompt
        self.num_beams = num_beams
        self.min_length = min_length
        self.max_length = max_length
        self.precision = precision

    def build(self) -> None:
        """Build model and processor from local files or the Hub's cache.

        Raises:
            ModelError: They are not on this machine.
        """
        with hub.loading(self.name, self.revision, "captioner") as where:
            processor = AutoProcessor.from_pretrained(self.name, **where)
            model = AutoModelForImageTextToText.from_pretrained(
                self.name, dtype=getattr(torch, self.precision), **where
            )
        self.adopt(model, processor)

    def requirements(self, flag: str) -> Iterable[Requirement]:
        """See ``Part.requirements``."""
        yield hub.required_model(self.name, self.revision, f"{flag}.name")

    def source(self) -> Mapping[str, str | None]:
        """See ``Part.source``."""
        return hub.source(self.name, self.revision)

    def configuration(self) -> Any:
        """Hashes of the configurations of model, generation and image processor, and of the tokenizer."""
        return self._configuration

    def resolved(self) -> Mapping[str, Any]:
        """The prompt without the spaces at its end, and the precision that the model is held in."""
        return {"prompt": self.prompt.rstrip(), "precision": self._precision}

    def adopt(self, model: PreTrainedModel, processor: ProcessorMixin) -> None:
        """Use a model that was built elsewhere, such as one with random weights.

        Raises:
            ModelError: It is no BLIP, or its images are resized by another filter than ``pixels.FILTERS`` has.
            ConfigurationError: The prompt leaves no room for a caption.
        """
        if model.config.model_type not in ("blip", "blip-2"):
            raise ModelError(f"'{self.name}' ({type(model).__name__}) is neither BLIP nor BLIP-2")
        self.model = model.eval().requires_grad_(False)
        self._processor: Any = processor
        resampling = Image.Resampling(self._processor.image_processor.resample).name.lower()
        if resampling not in FILTERS:
            raise ModelError(f"'{self.name}' asks for images resized by the filter '{resampling}', which is not here")
        self._filter: Filter = resampling
        decoder = model.text_decoder if self._is_blip else model.language_model
        self._configuration = {
            "model": hub.fingerprint(model.config.to_dict()),
            "generation": hub.fingerprint(decoder.generation_config.to_diff_dict()),
            "pixels": hub.fingerprint(self._processor.image_processor.to_dict()),
            "resize": PILLOW,
            "tokenizer": hub.tokenization(self._processor.tokenizer),
        }
        if self.max_length <= self._prompt_tokens():
            raise ConfigurationError(
                f"captioner: the prompt {self.prompt!r} has {self._prompt_tokens()} tokens, so that max_length "
                f"{self.max_length} leaves none for the caption"
            )
        self._precision = str(model.dtype).removeprefix("torch.")
        self.mark_loaded()

    @torch.no_grad()
    def caption(self, image: Tensor) -> str:
        """See ``Captioner.caption``."""
        inputs = self._inputs(image)
        known = self._prompt_tokens()
        with torch.autocast(image.device.type, enabled=False):
            output = self.model.generate(
                **inputs,
                num_beams=self.num_beams,
                do_sample=False,
                min_new_tokens=max(0, self.min_length - known),
                max_new_tokens=self.max_length - known,
            )
        # BLIP has written its first token into the ids that it was given, and does without the last.
        given = inputs["input_ids"][0, :-1] if self._is_blip else inputs["input_ids"][0]
        said = output[0]
        if len(said) >= len(given) and torch.equal(said[: len(given)], given):
            said = said[len(given) :]
        return " ".join(self._processor.tokenizer.decode(said, skip_special_tokens=True).split())

    def _inputs(self, image: Tensor) -> dict[str, Tensor]:
        """What the model is called with, on the image's device."""
        pixels = self._processor.image_processor
        if pixels.do_resize:
            size = (int(pixels.size["height"]), int(pixels.size["width"]))
            image = resize(image[None], size, self._filter)[0].to(image.dtype)
        inputs = self._processor(
            images=image,
            text=self.prompt.rstrip(),
            return_tensors="pt",
            input_data_format="channels_first",
            do_resize=False,
        )
        placed = {key: value.to(image.device) for key, value in inputs.items()}
        return {**placed, "pixel_values": placed["pixel_values"].to(self.model.dtype)}

    @property
    def _is_blip(self) -> bool:
        return bool(self.model.config.model_type == "blip")

    def _prompt_tokens(self) -> int:
        """How many tokens a decoder is given before the caption, the first one among them."""
        if self._is_blip:
            return len(self._processor.tokenizer(self.prompt.rstrip()).input_ids) - 1
        if self.model.language_model.config.is_encoder_decoder:
            return 0
        return len(self._processor.tokenizer(self.prompt.rstrip()).input_ids)


def stored_caption(captioner: Captioner, image: Tensor, store: ArtifactStore, title: str) -> str:
    """An image's caption, made once for the same pixels and captioner, then read from the store.

    Args:
        captioner: Loaded, on its device.
        image: [3, H, W] uint8 RGB.
        store: Where captions are kept.
        title: What a person calls the image; not part of the key.

    Raises:
        StoreError: The store cannot be written.
    """
    digest = hashlib.sha256(repr(tuple(image.shape)).encode() + image.cpu().numpy().tobytes()).hexdigest()
    spec = {"kind": "caption", "captioner": captioner.identity(), "image": digest}
    item = WorkItem(spec, f"caption of {title}")
    if not store.ensure_valid(item.key, item.title):
        with store.lock(item.key, wait=True):
            # Another process may have been first.
            if not store.ensure_valid_locked(item.key, item.title):
                began = time.perf_counter()
                letters = torch.tensor(list(captioner.caption(image).encode()), dtype=torch.uint8)
                store.put(item, {"utf8": letters}, time.perf_counter() - began)
    return bytes(store.load(item.key)["utf8"].tolist()).decode()
