"""Training-free open-vocabulary segmentation methods, one file per paper, each imported when it is asked for."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from methods.clip_dense import CLIPDense
    from methods.clip_diy import ClipDIY
    from methods.clip_seg import CLIPSeg
    from methods.fossil.method import FOSSIL
    from methods.freeseg_diff.method import FreeSegDiff
    from methods.group_vit import GroupViT
    from methods.maskclip import MaskCLIP
    from methods.ovdiff.method import OVDiff

_HOMES = {
    "CLIPDense": "clip_dense",
    "CLIPSeg": "clip_seg",
    "FOSSIL": "fossil.method",
    "ClipDIY": "clip_diy",
    "FreeSegDiff": "freeseg_diff.method",
    "GroupViT": "group_vit",
    "MaskCLIP": "maskclip",
    "OVDiff": "ovdiff.method",
}

__all__ = ["FOSSIL", "CLIPDense", "CLIPSeg", "ClipDIY", "FreeSegDiff", "GroupViT", "MaskCLIP", "OVDiff"]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
