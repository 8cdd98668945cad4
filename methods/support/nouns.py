"""Nouns of a caption and where they stand in it."""

import hashlib
import re
from abc import abstractmethod
from collections.abc import Iterable, Sequence
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal, NamedTuple

from harness.method.part import Part, Requirement, required_file
from harness.system.errors import ConfigurationError

Adjectives = Literal["drop", "head", "phrase", "heads"]


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


class NounReader(Part):
    """Finds nouns; the first caption loads the reader, if it is not loaded yet."""

    @abstractmethod
    def nouns(self, caption: str) -> list[Noun]:
        """All nouns of a caption, in its order; one that stands there twice is given at least twice."""


class SpacyNouns(NounReader):
    """Nouns by a part-of-speech tagger of spaCy, without stop words.

    Args:
        model: An installed model of spaCy or a model's folder. FreeSeg-Diff's release uses ``en_core_web_sm``; FOSSIL
            names none.
        adjectives: How adjectives are treated. FOSSIL uses nouns alone (``drop``). FreeSeg-Diff's release gives the
            word that an adjective belongs to, once for every adjective and, if it is a noun, once for itself
            (``heads``, its closed vocabulary: "a red fat cat" gives "cat" three times), or the two words together
            (``phrase``, its open vocabulary: "red cat", "fat cat" and "cat"). ``head`` gives that word only once.
        proper_nouns: Take names, such as "London", too.
    """

    not_identity = frozenset({"model"})

    def __init__(
        self, model: str = "en_core_web_sm", adjectives: Adjectives = "drop", proper_nouns: bool = False
    ) -> None:
        super().__init__()
        self.model = model
        self.adjectives: Adjectives = adjectives
        self.proper_nouns = proper_nouns

    def requirements(self, flag: str) -> Iterable[Requirement]:
        """See ``Part.requirements``: the model's package; a folder is found when it is loaded."""
        if re.fullmatch(r"[a-z]{2}_\w+", self.model):
            here = find_spec(self.model) is not None
            how = f"'python -m spacy download {self.model}' installs it"
            yield Requirement("package", self.model, None if here else how)

    def build(self) -> None:
        """Import spaCy and load the model.

        Raises:
            ConfigurationError: spaCy or the model is not installed.
        """
        try:
            spacy = import_module("spacy")
        except ImportError as error:
            raise ConfigurationError(
                "reading nouns needs spaCy: `pip install spacy`, then "
                f"`python -m spacy download {self.model}` (a list of words needs neither: methods.support.RuleNouns)"
            ) from error
        try:
            self._language: Any = spacy.load(self.model, exclude=["ner"])
            self._spacy = getattr(spacy, "__version__", None)
        except (OSError, ValueError) as error:
            raise ConfigurationError(
                f"spaCy has no usable model '{self.model}' here; where there is a network, "
                f"`python -m spacy download {self.model}` installs it once"
            ) from error

    def nouns(self, caption: str) -> list[Noun]:
        """See ``NounReader.nouns``."""
        self.load()
        return nouns_of_tokens(self._language(caption), self.adjectives, self.proper_nouns)

    def configuration(self) -> Any:
        """The model's own name and version, a hash of its files, and the version of spaCy, whose rules it uses."""
        self.load()
        meta, path = self._language.meta, getattr(self._language, "path", None)
        return {
            "model": f"{meta['lang']}_{meta['name']}",
            "version": meta["version"],
            "files": None if path is None else _hash_files(Path(path)),
            "spacy": self._spacy,
        }


def _hash_files(folder: Path) -> str:
    """16 hex digits of the SHA-256 over names and contents of a folder's files."""
    digest = hashlib.sha256()
    for file in sorted(path for path in folder.rglob("*") if path.is_file() and path.parent.name != "__pycache__"):
        content = hashlib.sha256(file.read_bytes()).hexdigest()
        digest.update(f"{file.relative_to(folder).as_posix()} {content}\n".encode())
    return digest.hexdigest()[:16]


def nouns_of_tokens(tokens: Iterable[Any], adjectives: Adjectives = "drop", proper_nouns: bool = False) -> list[Noun]:
    """Nouns of a parsed caption.

    Args:
        tokens: spaCy's tokens: ``text``, ``lemma_``, ``pos_``, ``is_stop``, ``idx`` and ``head``.
        adjectives: As in ``SpacyNouns``.
        proper_nouns: As in ``SpacyNouns``.

    Returns:
        In the caption's order; with ``heads`` a noun is given once more for each of its adjectives. A phrase's
        ``text`` is the two words, its span reaches from the one to the other.
    """
    wanted = {"NOUN", "PROPN"} if proper_nouns else {"NOUN"}
    found: list[Noun] = []
    for token in tokens:
        if token.is_stop:
            continue
        if token.pos_ in wanted:
            found.append(_noun(token))
        elif token.pos_ == "ADJ" and adjectives in ("head", "heads"):
            found.append(_noun(token.head))
        elif token.pos_ == "ADJ" and adjectives == "phrase":
            found.append(_phrase(token))
    if adjectives != "heads":
        # The head of an adjective comes by itself, too.
        found = list({(noun.start, noun.end): noun for noun in found}.values())
    return sorted(found, key=lambda noun: (noun.start, noun.end))


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
        ConfigurationError: The list is empty.
    """

    not_identity = frozenset({"words"})

    def __init__(self, words: Sequence[str] | str | Path) -> None:
        super().__init__()
        self.words = words
        if not isinstance(words, (str, Path)):
            # Nothing has to be read first.
            self.load()

    def requirements(self, flag: str) -> Iterable[Requirement]:
        """See ``Part.requirements``: the file of the list."""
        if isinstance(self.words, (str, Path)):
            yield required_file(self.words, f"{flag}.words")

    def build(self) -> None:
        """Read the list.

        Raises:
            ConfigurationError: It is empty or cannot be read.
        """
        self._lemmas: dict[str, str] = {}
        for line in _lines(self.words) if isinstance(self.words, (str, Path)) else self.words:
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
        self.load()
        found = []
        for match in self._pattern.finditer(caption):
            lemma = self._lemmas[" ".join(match.group().lower().split())]
            found.append(Noun(match.group(), lemma, match.start(), match.end()))
        return found

    def configuration(self) -> Any:
        """All forms and the nouns that they are of."""
        self.load()
        return {"forms": dict(sorted(self._lemmas.items()))}


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
