"""Training-free open-vocabulary segmentation methods, one file per paper, each imported when it is asked for."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from methods.clip_diy import ClipDIY
    from methods.ovdiff import OVDiff

_HOMES = {"ClipDIY": "clip_diy", "OVDiff": "ovdiff"}

__all__ = ["ClipDIY", "OVDiff"]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
