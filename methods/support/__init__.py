"""What several papers use: attribution maps, nouns of captions, provenance of prototypes."""

from methods.support.attribution import Attribution
from methods.support.nouns import NounReader, RuleNouns, SpacyNouns

__all__ = ["Attribution", "NounReader", "RuleNouns", "SpacyNouns"]
