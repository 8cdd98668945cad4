"""Candidate classes: those of the vocabulary that a caption's keywords mean (FreeSeg-Diff, Section 3.1.1)."""

from abc import abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from harness.data.prompts import check_templates
from harness.method.part import Part, Requirement
from methods.backbones import diffusion_pipeline as parts
from methods.backbones import hub
from methods.backbones.diffusion_pipeline import Precision
from methods.backbones.image_text import ImageText

Average = Literal["classes", "keywords"]
Distance = Literal["cosine", "correlation"]


class TextEncoder(Part):
    """One vector for a text."""

    @abstractmethod
    def encode_text(self, texts: Sequence[str]) -> Tensor:
        """T texts -> [T, D] float32."""


class DiffusionTextEncoder(TextEncoder):
    """The text encoder of a diffusion pipeline: its last hidden state, mean over all positions, padding among them.

    So does FreeSeg-Diff's release (``BLIPcaptioner.py``) with the 77 positions of Stable Diffusion's.

    Args:
        name: Hub id in the Hub's cache, or folder, of a Stable-Diffusion-like pipeline; one that is held already, such
            as that of the features, is not loaded again.
        revision: Commit or branch on the Hub.
        variant: Of the weight files, such as ``fp16``.
        precision: Of weights and activations; vectors are float32.
    """

    not_identity = frozenset({"name", "revision", "variant"})

    def __init__(
        self,
        name: str = "stable-diffusion-v1-5/stable-diffusion-v1-5",
        revision: str | None = None,
        variant: str | None = None,
        precision: Precision = "float32",
    ) -> None:
        super().__init__()
        self.name, self.revision, self.variant, self.precision = name, revision, variant, precision

    def build(self) -> None:
        """Take the pipeline's text encoder.

        Raises:
            ModelError: The pipeline is not on this machine.
        """
        # Held whole, so that whoever asks for the same pipeline shares it.
        self._pipeline = parts.load_pipeline(self.name, self.revision, self.variant, self.precision)
        self.text_encoder = self._pipeline.text_encoder

    def requirements(self, flag: str) -> Iterable[Requirement]:
        """See ``Part.requirements``."""
        yield hub.required_model(self.name, self.revision, f"{flag}.name")

    def source(self) -> Mapping[str, str | None]:
        """See ``Part.source``."""
        return hub.source(self.name, self.revision)

    def configuration(self) -> Any:
        """Hashes of the text encoder's configuration and of the tokenizer."""
        found = parts.configuration(self._pipeline)
        return {part: found[part] for part in ("text_encoder", "tokenizer")}

    @torch.no_grad()
    def encode_text(self, texts: Sequence[str]) -> Tensor:
        """See ``TextEncoder.encode_text``."""
        tokenizer = self._pipeline.tokenizer
        tokens = tokenizer(
            list(texts),
            padding="max_length",
            truncation=True,
            max_length=tokenizer.model_max_length,
            return_tensors="pt",
        )
        states = self.text_encoder(tokens.input_ids.to(self.text_encoder.device)).last_hidden_state
        return states.float().mean(dim=1)


class CandidateFilter(Part):
    """From keywords to classes: each keyword's nearest class, unless it is too far from all of them.

    Args:
        encoder: T; null takes the CLIP that names the regions (the paper). The release takes Stable Diffusion's text
            encoder.
        distance: ``cosine`` is one minus the cosine, ``correlation`` one minus Pearson's correlation (the release).
        average: What a nearest class's distance must not exceed, see ``nearest_classes``.
        class_template: The text of a class; the release's is "A photo of {}". The paper gives none.
        keyword_template: The text of a keyword.
        split_words: Encode every word of a class's name on its own and average (the release).

    Raises:
        ConfigurationError: A template has no place for the word.
    """

    def __init__(
        self,
        encoder: TextEncoder | None = None,
        distance: Distance = "cosine",
        average: Average = "classes",
        class_template: str = "{}",
        keyword_template: str = "{}",
        split_words: bool = False,
    ) -> None:
        super().__init__()
        check_templates((class_template, keyword_template), "candidates: class_template, keyword_template")
        self.encoder = encoder
        self.distance: Distance = distance
        self.average: Average = average
        self.class_template = class_template
        self.keyword_template = keyword_template
        self.split_words = split_words

    def prepare(self, names: Sequence[str], clip: ImageText) -> Tensor:
        """Encode the classes, on the device.

        Args:
            names: C class names.
            clip: Loaded; the encoder if there is none of its own.

        Returns:
            [C, D] float32.
        """
        encode = self._encoder(clip).encode_text
        encoded = []
        for name in names:
            words = name.split() if self.split_words else [name.strip()]
            texts = [self.class_template.replace("{}", word) for word in words]
            encoded.append(encode(texts).float().mean(dim=0))
        return torch.stack(encoded)

    def _encoder(self, clip: ImageText) -> TextEncoder | ImageText:
        return clip if self.encoder is None else self.encoder

    @torch.no_grad()
    def forward(self, keywords: Sequence[str], classes: Tensor, clip: ImageText) -> list[int]:
        """The candidate classes of some keywords.

        Args:
            keywords: Words; one that is given twice counts twice in the average.
            classes: What ``prepare`` gave.
            clip: As in ``prepare``.

        Returns:
            Indices of the names, ascending; none without a keyword.
        """
        if not keywords:
            return []
        encode = self._encoder(clip).encode_text
        # Each alone, so that no keyword's vector depends on the others'.
        encoded = {
            word: encode([self.keyword_template.replace("{}", word)]).float() for word in dict.fromkeys(keywords)
        }
        vectors = torch.cat([encoded[word] for word in keywords])
        return nearest_classes(distances(vectors, classes, self.distance), self.average)


def distances(keywords: Tensor, classes: Tensor, kind: Distance = "cosine") -> Tensor:
    """[T, D] and [C, D] -> [T, C] distances in [0, 2]."""
    if kind == "correlation":
        keywords, classes = (each - each.mean(dim=1, keepdim=True) for each in (keywords, classes))
    return 1 - F.normalize(keywords, dim=1) @ F.normalize(classes, dim=1).T


def nearest_classes(distance: Tensor, average: Average) -> list[int]:
    """The nearest class of every keyword that is not "above the average distances".

    "If the distance is above the average distances (to all classes) the keyword is ignored" (Sec. 3.1.1). The average
    of one keyword's own distances would be no bound, since its smallest distance never exceeds it.

    Args:
        distance: [T, C] of T >= 1 keywords to C classes.
        average: ``classes``: of all keywords' distances to all classes, as the paper has it. ``keywords``: of the
            keywords' distances to their nearest classes (the release, ``BLIPcaptioner.py``), which ignores more.

    Returns:
        Class indices, ascending, each once; at least one.
    """
    nearest, classes = distance.min(dim=1)
    bound = distance.mean() if average == "classes" else nearest.mean()
    # Of equal distances none is above their mean, whatever its last digit.
    kept = nearest <= bound + 1e-6
    return sorted(set(classes[kept].tolist()))
