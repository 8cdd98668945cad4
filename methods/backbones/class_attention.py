"""Cross-attention of a UNet's blocks to the texts of classes, before softmax (FreeSeg-Diff's "A")."""

from collections.abc import Sequence
from typing import Literal

import torch
from diffusers import DiffusionPipeline
from torch import Tensor

from methods.backbones import diffusion_pipeline as parts

ClassTokens = Literal["released", "name"]


@torch.no_grad()
def class_texts(pipeline: DiffusionPipeline, names: Sequence[str], template: str, tokens: ClassTokens) -> Tensor:
    """One vector for the text of each class: a mean over positions of the text encoders' last hidden states.

    Args:
        pipeline: Its text encoders are those that the UNet listens to.
        names: C class names.
        template: With one ``{}`` for the name.
        tokens: ``name`` takes the positions of the name in its prompt. ``released`` does as FreeSeg-Diff's release
            (``runner.py``): every word of a name has a prompt of its own, their states are averaged position by
            position, and positions 1 to n + 1 are taken, n being the tokens of the bare name. With "A photo of {}" the
            first three of these are the template's, which the encoder, being causal, reads before the name: classes
            of one or two tokens get equal texts. With the template "{}" they are the name's tokens and the end.

    Returns:
        [C, D] float32, D as the UNet's cross-attention takes it.
    """
    return torch.stack([_class_text(pipeline, name, template, tokens) for name in names])


def _class_text(pipeline: DiffusionPipeline, name: str, template: str, tokens: ClassTokens) -> Tensor:
    words = name.split() if tokens == "released" else [name.strip()]
    # Each alone, so that no class's text depends on the others'.
    prompts = [[template.replace("{}", word)] for word in words]
    size = parts.own_size(pipeline)  # SDXL is told one, which the states do not depend on
    states = torch.cat([parts.text_arguments(pipeline, prompt, size)["encoder_hidden_states"] for prompt in prompts])
    first = 1 + (0 if tokens == "released" else _num_tokens(pipeline, template.partition("{}")[0]))
    count = _num_tokens(pipeline, name) + (tokens == "released")
    return states.float().mean(dim=0)[first : first + count].mean(dim=0)


def _num_tokens(pipeline: DiffusionPipeline, text: str) -> int:
    """Tokens of a text without the special ones around it."""
    return len(pipeline.tokenizer(text).input_ids) - 2


def class_logits(query: Tensor, key: Tensor, heads: int, scale: float) -> Tensor:
    """Attention of every place to every class, before softmax: q k^T, scaled, per head.

    Args:
        query: [B, N, C], heads concatenated.
        key: [T, C] of T classes.
        heads: Their number.
        scale: 1 / sqrt(C / heads), in Stable Diffusion.

    Returns:
        [B, heads * T, N] float32, the classes of the first head first.
    """
    queries = query.float().unflatten(2, (heads, -1))
    keys = key.float().unflatten(1, (heads, -1))
    return (torch.einsum("bnhd,thd->bhtn", queries, keys) * scale).flatten(1, 2)
