"""Benchmarks, one file each, and a folder of the user's own pictures."""

from datamodules.folder import Folder
from datamodules.miniature import Miniature

__all__ = ["Folder", "Miniature"]
