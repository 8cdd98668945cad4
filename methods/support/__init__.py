"""Generated support sets: where words are in generated pictures, and what is foreground and background there."""

from methods.support.attribution import Attribution
from methods.support.masks import Masks

__all__ = ["Attribution", "Masks"]
