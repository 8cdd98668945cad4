"""Refinement of score planes and masks by the image's edges."""

from methods.refinement.crf import DenseCRF, refine_proposal
from methods.refinement.pamr import PAMR

__all__ = ["PAMR", "DenseCRF", "refine_proposal"]
