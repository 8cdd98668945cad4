"""Nouns of a caption and where they stand in it."""

import re
from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any, Literal, NamedTuple

from harness.system.errors import ConfigurationError
from harness.system.sharing import frozen_part

Adjectives = Literal["drop", "head", "phrase"]


class Noun(NamedTuple):
    """One occurrence of a noun.

    Attributes:
        text: The word or phrase as it stands in the caption.
        lemma: Its singular, in lower case.
        start: Where it begins in the caption, in characters.
        end: Where it ends, exclusive.
    """

    text: str
    lemma: str
    start: int
    end: int


@frozen_part
class NounReader(ABC):
    """Finds nouns. The constructor loads nothing; ``load`` does, or else the first caption."""

    def load(self) -> None:  # noqa: B027 - most readers have nothing to load
        """Build what the reader needs.

        Raises:
            ConfigurationError: Something is not installed; the message says what to install.
        """

    @abstractmethod
    def nouns(self, caption: str) -> list[Noun]:
        """All nouns of a caption, in its order; one that stands there twice is given twice."""

    @abstractmethod
    def settings(self) -> dict[str, Any]:
        """Everything that determines the nouns of a caption, as JSON; of a loaded reader."""


class SpacyNouns(NounReader):
    """Nouns by a part-of-speech tagger of spaCy, without stop words.

    Args:
        model: An installed model of spaCy or a model's folder. FreeSeg-Diff's release uses ``en_core_web_sm``; FOSSIL
            names none.
        adjectives: What becomes of adjectives. FOSSIL speaks of nouns alone (``drop``). FreeSeg-Diff's release takes
            the word that an adjective belongs to, once per word (``head``, its closed vocabulary), or the two together
            (``phrase``, its open vocabulary: "red" and "cat" of "a red fat cat" give "red cat").
        proper_nouns: Take names, such as "London", too.
    """

    def __init__(
        self, model: str = "en_core_web_sm", adjectives: Adjectives = "drop", proper_nouns: bool = False
    ) -> None:
        if adjectives not in ("drop", "head", "phrase"):
            raise ConfigurationError(f"nouns: adjectives is drop, head or phrase, not '{adjectives}'")
        self.model = model
        self.adjectives: Adjectives = adjectives
        self.proper_nouns = proper_nouns
        self._language: Any = None

    def load(self) -> None:
        """Import spaCy and load the model, unless that is done.

        Raises:
            ConfigurationError: spaCy or the model is not installed.
        """
        if self._language is not None:
            return
        try:
            spacy = import_module("spacy")
        except ImportError as error:
            raise ConfigurationError(
                "reading nouns needs spaCy: `pip install spacy`, then "
                f"`python -m spacy download {self.model}` (a list of words needs neither: methods.support.RuleNouns)"
            ) from error
        try:
            self._language = spacy.load(self.model, exclude=["ner"])
        except (OSError, ValueError) as error:
            raise ConfigurationError(
                f"spaCy has no usable model '{self.model}' here; where there is a network, "
                f"`python -m spacy download {self.model}` installs it once"
            ) from error

    def nouns(self, caption: str) -> list[Noun]:
        """See ``NounReader.nouns``."""
        self.load()
        return nouns_of_tokens(self._language(caption), self.adjectives, self.proper_nouns)

    def settings(self) -> dict[str, Any]:
        """See ``NounReader.settings``."""
        self.load()
        meta = self._language.meta
        return {
            "class": type(self).__name__,
            "model": f"{meta['lang']}_{meta['name']}",
            "version": meta["version"],
            "adjectives": self.adjectives,
            "proper_nouns": self.proper_nouns,
        }


def nouns_of_tokens(tokens: Iterable[Any], adjectives: Adjectives = "drop", proper_nouns: bool = False) -> list[Noun]:
    """Nouns of a parsed caption.

    Args:
        tokens: spaCy's tokens: ``text``, ``lemma_``, ``pos_``, ``is_stop``, ``idx`` and ``head``.
        adjectives: As in ``SpacyNouns``.
        proper_nouns: As in ``SpacyNouns``.

    Returns:
        In the caption's order. A phrase's ``text`` is the two words, its span reaches from the one to the other.
    """
    wanted = {"NOUN", "PROPN"} if proper_nouns else {"NOUN"}
    found: dict[tuple[int, int], Noun] = {}
    for token in tokens:
        if token.is_stop:
            continue
        noun = None
        if token.pos_ in wanted:
            noun = _noun(token)
        elif token.pos_ == "ADJ" and adjectives == "head":
            noun = _noun(token.head)
        elif token.pos_ == "ADJ" and adjectives == "phrase":
            noun = _phrase(token)
        if noun is not None:
            # The head of an adjective comes by itself, too.
            found.setdefault((noun.start, noun.end), noun)
    return sorted(found.values(), key=lambda noun: (noun.start, noun.end))


def _noun(token: Any) -> Noun:
    return Noun(token.text, token.lemma_.lower(), token.idx, token.idx + len(token.text))


def _phrase(adjective: Any) -> Noun:
    """An adjective and what it belongs to; the root of a sentence belongs to itself and stays alone."""
    head = adjective.head
    if head.idx == adjective.idx:
        return _noun(adjective)
    parts = (adjective, head)
    return Noun(
        " ".join(part.text for part in parts),
        f"{adjective.text.lower()} {head.lemma_.lower()}",
        min(part.idx for part in parts),
        max(part.idx + len(part.text) for part in parts),
    )


class RuleNouns(NounReader):
    """Nouns of a closed list, singular or plural, whatever their case; the longest that fits at a place.

    Args:
        words: The nouns in the singular, or the path of a text file with one a line. Plurals follow the spelling
            rules ("boxes", "berries", "cats"); an irregular one follows its singular after a slash ("mouse/mice").

    Raises:
        ConfigurationError: The list is empty or cannot be read.
    """

    def __init__(self, words: Sequence[str] | str | Path) -> None:
        self._lemmas: dict[str, str] = {}
        for line in _lines(words) if isinstance(words, (str, Path)) else words:
            singular, _, irregular = (" ".join(part.lower().split()) for part in line.partition("/"))
            if singular:
                self._lemmas.setdefault(singular, singular)
                self._lemmas.setdefault(irregular or plural(singular), singular)
        if not self._lemmas:
            raise ConfigurationError("nouns: the list of words is empty")
        # Longest first: "dining table" before "table".
        forms = sorted(self._lemmas, key=lambda form: (-len(form), form))
        joined = "|".join(re.escape(form).replace(r"\ ", r"\s+") for form in forms)
        self._pattern = re.compile(rf"(?<!\w)(?:{joined})(?!\w)", re.IGNORECASE)

    def nouns(self, caption: str) -> list[Noun]:
        """See ``NounReader.nouns``."""
        found = []
        for match in self._pattern.finditer(caption):
            lemma = self._lemmas[" ".join(match.group().lower().split())]
            found.append(Noun(match.group(), lemma, match.start(), match.end()))
        return found

    def settings(self) -> dict[str, Any]:
        """See ``NounReader.settings``."""
        return {"class": type(self).__name__, "forms": dict(sorted(self._lemmas.items()))}


def plural(singular: str) -> str:
    """The plural of a noun or phrase by the rules of English spelling."""
    if re.search(r"([sxz]|[cs]h)$", singular):
        return f"{singular}es"
    if re.search(r"[^aeiou]y$", singular):
        return f"{singular[:-1]}ies"
    return f"{singular}s"


def _lines(path: str | Path) -> list[str]:
    try:
        return Path(path).read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigurationError(f"nouns: the list of words '{path}' cannot be read: {error}") from error
