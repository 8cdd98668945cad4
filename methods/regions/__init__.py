"""Class-agnostic masks and saliency."""

from methods.regions.base import Regions
from methods.regions.cutler import CutLER
from methods.regions.cutler_saliency import CutLERSaliency
from methods.regions.feature_clusters import FeatureClusters
from methods.regions.found import Found, FoundSeed, Saliency
from methods.regions.maskcut import MaskCut, maskcut
from methods.regions.objects import SalientObjects
from methods.regions.opencut import OpenCut

__all__ = [
    "CutLER",
    "CutLERSaliency",
    "FeatureClusters",
    "Found",
    "FoundSeed",
    "MaskCut",
    "OpenCut",
    "Regions",
    "Saliency",
    "SalientObjects",
    "maskcut",
]
