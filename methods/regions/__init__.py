"""Class-agnostic masks and saliency."""

from methods.regions.found import Found, FoundSeed, Saliency

__all__ = ["Found", "FoundSeed", "Saliency"]
