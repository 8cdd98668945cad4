"""Dense features of an image from inside a denoising UNet: one pass at one noise level."""

import zlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Literal

import torch
import torch.nn.functional as F
from diffusers import DiffusionPipeline
from torch import Tensor, nn

from harness.data.prompts import check_templates
from harness.method.part import Requirement
from harness.system.errors import ConfigurationError, did_you_mean
from methods.backbones import diffusion_pipeline as parts
from methods.backbones import hub
from methods.backbones.class_attention import ClassTokens, class_logits, class_texts
from methods.backbones.diffusion_pipeline import Precision
from methods.backbones.features import FeatureExtractor, Interpolation, resized, resizing
from methods.backbones.pixels import fitted_scale

# OVDiff's release for Stable Diffusion 1.5 (karazijal/sdov, gen_proto_sd.py): 7680 channels.
OVDIFF_LAYERS = (
    "down_blocks.0.attentions.0",
    "mid_block.attentions.0",
    "up_blocks.1.attentions.0",
    "up_blocks.1.attentions.1",
    "up_blocks.1.attentions.2",
    "up_blocks.2.attentions.0",
    "up_blocks.2.attentions.1",
    "up_blocks.2.attentions.2",
    "up_blocks.3.attentions.2",
)


class DiffusionFeatures(FeatureExtractor):
    """Activations of chosen UNet blocks, resized (bilinear) to one grid and concatenated as they are.

    Every image meets the same noise, drawn from one seed, or with ``fresh_noise`` one of its own, so its features
    depend neither on its neighbours nor on its place in a batch. A generator of the same model shares its networks.

    Args:
        name: Hub id in the Hub's cache, or folder, of a Stable-Diffusion-like pipeline.
        revision: Commit or branch on the Hub.
        variant: Of the weight files, such as ``fp16``.
        layers: Blocks by their names in the UNet; by default the nine of OVDiff's release.
        kind: ``query``: the cross-attention queries of attention blocks such as ``up_blocks.1.attentions.0`` (OVDiff's
            and FreeSeg-Diff's releases; of the first transformer block, where SDXL has several). ``output``: what any
            block gives, such as ``up_blocks.1.resnets.0``, ``up_blocks.1.attentions.0`` or ``up_blocks.1``.
        attention_layers: Attention blocks whose attention is appended to the features (FreeSeg-Diff's "A + F").
        attention: ``classes``: cross-attention logits, before softmax, to the text of every class, a channel for
            every head and class (FreeSeg-Diff's release, ``attentionHook.py``); these features need ``class_features``.
            ``self``: softmaxed self-attention, mean over the heads, a channel for every place that a place can attend
            to. Its values are around 1 / places and hence next to nothing beside the features' own: clusters by
            Euclidean distance are the same with and without it.
        class_template: The text of a class for ``attention: classes``, the release's by default.
        class_tokens: What of that text is taken, see ``class_attention.class_texts``.
        timestep: t; 200 in OVDiff's release, 0 in FreeSeg-Diff.
        prompt: The text of images that come without one.
        size: Side in pixels at which images are seen (Pillow's bicubic); null takes the model's own.
        fit: ``squash`` makes them ``size`` x ``size``, as both releases do; ``short`` brings the short side to
            ``size``, or the long side to 4 x ``size`` if that is less; ``none`` leaves them as they come. The last two
            round to whole cells of the UNet's coarsest level.
        grid: Longer side of the features; null takes the latents', which is 64 at 512 pixels.
        sample_latents: Sample the autoencoder's posterior as both releases do, instead of taking its mean.
        noise: Add the timestep's noise, as both releases do, also at t = 0; without it the UNet sees the latents as
            they are and is only told the timestep (FreeSeg-Diff's paper, Sec. 4.1).
        seed: Of that sample and of the noise.
        fresh_noise: Draw both anew for every image, from the seed and the image's pixels. OVDiff's release draws anew
            for every crop of a test image, from one generator that is never seeded again: the same distribution, but
            there a crop's features depend on the crops before it.
        interpolation: How images are resized, see ``features.resized``.
        precision: Of weights and activations; features are float32.
    """

    not_identity = frozenset({"name", "revision", "variant"})

    def __init__(
        self,
        name: str = "stable-diffusion-v1-5/stable-diffusion-v1-5",
        revision: str | None = None,
        variant: str | None = None,
        layers: Sequence[str] = OVDIFF_LAYERS,
        kind: Literal["query", "output"] = "query",
        attention_layers: Sequence[str] = (),
        attention: Literal["self", "classes"] = "self",
        class_template: str = "A photo of {}",
        class_tokens: ClassTokens = "released",
        timestep: int = 200,
        prompt: str = "",
        size: int | None = None,
        fit: Literal["squash", "short", "none"] = "squash",
        grid: int | None = None,
        sample_latents: bool = True,
        noise: bool = True,
        seed: int = 43,
        fresh_noise: bool = False,
        interpolation: Interpolation = "bicubic",
        precision: Precision = "float32",
    ) -> None:
        super().__init__()
        if not layers and not attention_layers:
            raise ConfigurationError("diffusion features need at least one layer")
        check_templates((class_template,), "diffusion features: class_template")
        self.name, self.revision, self.variant = name, revision, variant
        self.layers, self.kind, self.attention_layers = tuple(layers), kind, tuple(attention_layers)
        self.attention, self.class_template, self.class_tokens = attention, class_template, class_tokens
        self.timestep, self.prompt = timestep, prompt
        self.size, self.fit, self.grid = size, fit, grid
        self.sample_latents, self.noise, self.seed = sample_latents, noise, seed
        self.fresh_noise = fresh_noise
        self.interpolation: Interpolation = interpolation
        self.precision = precision

    def build(self) -> None:
        """Build the pipeline from local files or the Hub's cache.

        Raises:
            ModelError: Its weights are not on this machine.
            ConfigurationError: It has no such layer.
        """
        self.adopt(parts.load_pipeline(self.name, self.revision, self.variant, self.precision))

    def adopt(self, pipeline: DiffusionPipeline) -> None:
        """Use a pipeline that was built elsewhere, such as a generator's (``DiffusersTextToImage.pipeline``)."""
        parts.check_pipeline(pipeline, self.name)
        known = dict(pipeline.unet.named_modules())
        suffix = "attn2.to_q" if self.kind == "query" else ""
        self._taps: list[tuple[str, ...]] = [(_inside(layer, suffix, known),) for layer in self.layers]
        self._class_taps: list[str] = []
        if self.attention == "classes":
            self._class_taps = [_inside(layer, "attn2.to_q", known) for layer in self.attention_layers]
        else:
            self._taps += [
                (_inside(layer, "attn1.to_q", known), _inside(layer, "attn1.to_k", known))
                for layer in self.attention_layers
            ]
        self._texts: tuple[tuple[str, ...], Tensor] | None = None
        self._heads = {name: module.heads for name, module in known.items() if hasattr(module, "heads")}
        self.pipeline = pipeline
        for part, module in parts.modules(pipeline).items():
            self.add_module(part, module)
        self.mark_loaded()

    def requirements(self, flag: str) -> Iterable[Requirement]:
        """See ``Part.requirements``."""
        yield hub.required_model(self.name, self.revision, f"{flag}.name")

    def source(self) -> Mapping[str, str | None]:
        """See ``Part.source``."""
        return hub.source(self.name, self.revision)

    def configuration(self) -> Any:
        """The pipeline's networks and tokenizers, and the noise schedule that it was trained with."""
        return {"model": parts.configuration(self.pipeline), "schedule": parts.noise_schedule(self.pipeline)[1]}

    def resolved(self) -> Mapping[str, Any]:
        """The model's own size; images that are left as they come have none. And how images are resized."""
        return {"size": None if self.fit == "none" else self._side, **resizing(self.interpolation)}

    def features(self, images: Tensor, prompts: Sequence[str] | None = None) -> Tensor:
        """See ``FeatureExtractor.features``.

        Args:
            images: [B, 3, h, w] uint8 RGB.
            prompts: B texts; null takes the setting.

        Returns:
            [B, D, grid height, grid width] float32; the grid covers the whole image.

        Raises:
            ConfigurationError: Attention to the classes is asked for, whose names only ``class_features`` is told.
        """
        if self._class_taps:
            raise ConfigurationError(
                "diffusion features with attention: classes need the names of the classes, which FreeSeg-Diff's "
                "clusters give and this use does not"
            )
        return self._features(images, prompts, ())

    def class_features(self, images: Tensor, names: Sequence[str]) -> Tensor:
        """See ``FeatureExtractor.class_features``: with ``attention: classes``, what each layer attends to each class.

        Returns:
            [B, D + L * heads * C, grid height, grid width] float32, D as in ``features``, L attention layers.
        """
        return self._features(images, None, names)

    @torch.no_grad()
    def _features(self, images: Tensor, prompts: Sequence[str] | None, names: Sequence[str]) -> Tensor:
        size = self._seen_size(images.shape[2], images.shape[3])
        latents = parts.latent_size(size, self.pipeline)
        seeds = [self._seed(image) for image in images]
        with torch.autocast(images.device.type, enabled=False):
            noisy = parts.noisy_latents(
                self.pipeline,
                resized(images, size, self.interpolation),
                self.timestep,
                seeds,
                sample=self.sample_latents,
                noise=self.noise,
            )
            texts = [self.prompt] * len(images) if prompts is None else prompts
            seen = self._run(noisy, parts.text_arguments(self.pipeline, texts, size))
            attended = self._attended(seen, names) if names else []
        target = parts.longer_side(latents, self.grid)
        planes = [self._plane([seen[name] for name in tap], tap, latents, target) for tap in self._taps]
        planes += [_on_grid(each, latents, target) for each in attended]
        if not planes:
            raise ConfigurationError("diffusion features without layers need class names to attend to")
        return torch.cat(planes, dim=1)

    def _attended(self, seen: dict[str, Tensor], names: Sequence[str]) -> list[Tensor]:
        """Per layer of ``attention: classes`` its logits, [B, heads * C, places]."""
        found = []
        for name in self._class_taps:
            attention = self.pipeline.unet.get_submodule(name.removesuffix(".to_q"))
            key = attention.to_k(self._class_texts(names).to(attention.to_k.weight.dtype))
            found.append(class_logits(seen[name], key, int(attention.heads), float(attention.scale)))
        return found

    def _class_texts(self, names: Sequence[str]) -> Tensor:
        """The classes' texts, [C, D]; those of one list of names are kept until another comes."""
        if self._texts is None or self._texts[0] != tuple(names):
            self._texts = tuple(names), class_texts(self.pipeline, names, self.class_template, self.class_tokens)
        return self._texts[1].to(self.pipeline.unet.device)

    def _run(self, noisy: Tensor, arguments: dict[str, Any]) -> dict[str, Tensor]:
        """One pass of the UNet, ended as soon as all that is wanted was seen."""
        unet, seen = self.pipeline.unet, dict[str, Tensor]()
        wanted = {name for tap in self._taps for name in tap} | set(self._class_taps)
        hooks = [unet.get_submodule(name).register_forward_hook(_keep(seen, name, len(wanted))) for name in wanted]
        try:
            unet(noisy, torch.tensor(self.timestep, device=noisy.device), **arguments)
        except _Seen:
            pass
        finally:
            for hook in hooks:
                hook.remove()
        return seen

    def _plane(
        self, found: list[Tensor], tap: tuple[str, ...], latents: tuple[int, int], target: tuple[int, int]
    ) -> Tensor:
        """What was seen at one tap, as float32 [B, C, height, width] of the target."""
        plane = found[0].float()
        if len(found) == 2:
            plane = self_attention(plane, found[1].float(), self._heads[tap[0].removesuffix(".to_q")])
        return _on_grid(plane.transpose(1, 2) if plane.ndim == 3 else plane, latents, target)

    def _seed(self, image: Tensor) -> int:
        """Of what is drawn for an image, [3, h, w] uint8."""
        return zlib.crc32(image.cpu().numpy().tobytes(), self.seed) if self.fresh_noise else self.seed

    @property
    def _side(self) -> int:
        return self.size or parts.own_size(self.pipeline)[0]

    def _seen_size(self, height: int, width: int) -> tuple[int, int]:
        """The (height, width) in pixels at which an image is encoded."""
        side = self._side
        if self.fit == "squash":
            return parts.check_size((side, side), self.pipeline)
        # Whole cells of the coarsest level: others would be cut unevenly by every halving.
        cell = int(self.pipeline.vae_scale_factor) * 2 ** (len(self.pipeline.unet.config.block_out_channels) - 1)
        scale = 1.0
        if self.fit == "short":
            scale = fitted_scale(height, width, side)
        return max(cell, round(height * scale / cell) * cell), max(cell, round(width * scale / cell) * cell)


def _on_grid(plane: Tensor, latents: tuple[int, int], target: tuple[int, int]) -> Tensor:
    """[B, C, places] or [B, C, height, width], bilinearly as [B, C, height, width] of the target."""
    if plane.ndim == 3:
        plane = plane.unflatten(2, parts.grid_of(plane.shape[2], latents))
    return plane if plane.shape[2:] == target else F.interpolate(plane, target, mode="bilinear")


class _Seen(Exception):
    """Everything that was wanted has been seen."""


def _keep(seen: dict[str, Tensor], name: str, wanted: int) -> Callable[[nn.Module, Any, Any], None]:
    def hook(module: nn.Module, inputs: Any, output: Any) -> None:
        # Blocks of the way down give (output, skips), attention blocks a tuple of one.
        seen[name] = output[0] if isinstance(output, tuple) else output
        if len(seen) == wanted:
            raise _Seen

    return hook


def _inside(layer: str, suffix: str, known: dict[str, nn.Module]) -> str:
    """The full name of a layer's projection, or of the layer itself without a suffix.

    Raises:
        ConfigurationError: There is no such layer, or no attention in it.
    """
    if layer not in known:
        raise ConfigurationError(f"the UNet has no layer '{layer}'{did_you_mean(layer, known)}")
    if not suffix:
        return layer
    for name in (f"{layer}.{suffix}", f"{layer}.transformer_blocks.0.{suffix}"):
        if name in known:
            return name
    attending = ", ".join(name for name, module in known.items() if hasattr(module, "transformer_blocks"))
    raise ConfigurationError(f"the UNet's layer '{layer}' is no attention block; those are {attending}")


def self_attention(query: Tensor, key: Tensor, heads: int) -> Tensor:
    """softmax(q k^T / sqrt(d)), mean over heads: [B, N, C] twice -> [B, N, N]; one head at a time, to hold less."""
    total = torch.zeros(query.shape[0], query.shape[1], key.shape[1], device=query.device)
    for q, k in zip(query.chunk(heads, dim=2), key.chunk(heads, dim=2), strict=True):
        total += (q @ k.transpose(1, 2) / q.shape[2] ** 0.5).softmax(dim=-1)
    return total / heads
