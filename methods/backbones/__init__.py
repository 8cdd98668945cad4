"""Frozen models behind small interfaces."""

from methods.backbones.dense import Dense, HubViT, ViTFeatures
from methods.backbones.image_text import ImageText, OpenCLIP

__all__ = ["Dense", "HubViT", "ImageText", "OpenCLIP", "ViTFeatures"]
