"""Training-free open-vocabulary segmentation methods, one file per paper."""

from methods.clip_diy import ClipDIY

__all__ = ["ClipDIY"]
