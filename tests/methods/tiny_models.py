"""GroupViT and CLIPSeg of a few layers with random weights, in folders as transformers saves them."""

from pathlib import Path
from typing import Any

import torch
from transformers import CLIPSegConfig, CLIPSegForImageSegmentation, GroupViTConfig, GroupViTModel

from miniature import tokenizer as clip_words

SMALL = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}


def special(length: int) -> dict[str, Any]:
    """A text configuration's entries about the tokenizer."""
    words = clip_words.load()
    ends = {"bos_token_id": words.bos_token_id, "eos_token_id": words.eos_token_id, "pad_token_id": words.pad_token_id}
    return {"vocab_size": len(words), "max_position_embeddings": length, **ends}


def spread(model: torch.nn.Module) -> torch.nn.Module:
    """Fresh weights are so small that all images look alike; a fixed factor makes them differ."""
    with torch.no_grad():
        for weights in model.parameters():
            if weights.ndim > 1:
                weights.mul_(4)
    return model


def save_group_vit(folder: Path) -> Path:
    """64 pixels, two stages that part an image into four and two groups."""
    torch.manual_seed(0)
    stages = {"depths": [1, 1, 1], "num_group_tokens": [4, 2, 0], "num_output_groups": [4, 2, 2]}
    vision = {**SMALL, "num_hidden_layers": 3, **stages, "image_size": 64, "patch_size": 8}
    config = GroupViTConfig(
        text_config={**SMALL, **special(32)}, vision_config=vision, projection_dim=12, projection_intermediate_dim=20
    )
    spread(GroupViTModel(config)).save_pretrained(folder)
    clip_words.load().save_pretrained(folder)
    return folder


def save_clip_seg(folder: Path) -> Path:
    """32 pixels, a decoder that reads two of three layers."""
    torch.manual_seed(0)
    config = CLIPSegConfig(
        text_config={**SMALL, **special(32)},
        vision_config={**SMALL, "num_hidden_layers": 3, "image_size": 32, "patch_size": 8},
        projection_dim=12,
        extract_layers=[0, 2],
        reduce_dim=8,
        decoder_num_attention_heads=2,
        decoder_intermediate_size=16,
    )
    spread(CLIPSegForImageSegmentation(config)).save_pretrained(folder)
    clip_words.load().save_pretrained(folder)
    return folder
