"""Frozen models behind small interfaces, each imported when it is asked for: diffusers alone takes seconds."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from methods.backbones.captioner import Captioner, HubCaptioner
    from methods.backbones.clip_dense import OpenCLIPDense
    from methods.backbones.dense import Dense, HubViT, ViTFeatures
    from methods.backbones.diffusion import DiffusersTextToImage, GeneratedImages, TextToImage
    from methods.backbones.diffusion_features import DiffusionFeatures
    from methods.backbones.features import DenseFeatures, FeatureExtractor
    from methods.backbones.image_text import ImageText, OpenCLIP

_HOMES = {
    "Captioner": "captioner",
    "Dense": "dense",
    "DenseFeatures": "features",
    "DiffusersTextToImage": "diffusion",
    "DiffusionFeatures": "diffusion_features",
    "FeatureExtractor": "features",
    "GeneratedImages": "diffusion",
    "HubCaptioner": "captioner",
    "HubViT": "dense",
    "ImageText": "image_text",
    "OpenCLIP": "image_text",
    "OpenCLIPDense": "clip_dense",
    "TextToImage": "diffusion",
    "ViTFeatures": "dense",
}

__all__ = [
    "Captioner",
    "Dense",
    "DenseFeatures",
    "DiffusersTextToImage",
    "DiffusionFeatures",
    "FeatureExtractor",
    "GeneratedImages",
    "HubCaptioner",
    "HubViT",
    "ImageText",
    "OpenCLIP",
    "OpenCLIPDense",
    "TextToImage",
    "ViTFeatures",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
