"""What texts and generated pictures give: attribution, masks, the reference collection, candidate classes."""

from methods.support.attribution import Attribution
from methods.support.candidates import CandidateFilter, DiffusionTextEncoder
from methods.support.captions import Captions
from methods.support.collection import Collection
from methods.support.masks import Masks
from methods.support.nouns import NounReader, RuleNouns, SpacyNouns

__all__ = [
    "Attribution",
    "CandidateFilter",
    "Captions",
    "Collection",
    "DiffusionTextEncoder",
    "Masks",
    "NounReader",
    "RuleNouns",
    "SpacyNouns",
]
