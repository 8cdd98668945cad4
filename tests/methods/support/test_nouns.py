"""Nouns of captions, by rule and by part of speech."""

import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from harness.system.errors import ConfigurationError
from methods.support.nouns import Noun, RuleNouns, SpacyNouns, nouns_of_tokens, plural
from miniature.captions import plural as miniature_plural
from miniature.generation.captioned_images import classes_in_caption
from miniature.world import CLASSES, THINGS, scene

MINIATURE = ["fish/fish" if name == "fish" else name for name in CLASSES]


def tokens(text: str, tags: str, heads: list[int] | None = None) -> list[Any]:
    """Words as spaCy's tokens: ``tags`` is a letter per word, N(oun), A(djective), P(roper noun) or other."""
    names = {"N": "NOUN", "A": "ADJ", "P": "PROPN"}
    found, place = [], 0
    for word, tag in zip(text.split(), tags, strict=True):
        lemma = word.lower().removesuffix("s")
        found.append(
            SimpleNamespace(text=word, lemma_=lemma, pos_=names.get(tag, "X"), is_stop=tag == "-", idx=place, head=None)
        )
        place += len(word) + 1
    for token, head in zip(found, heads or range(len(found)), strict=True):
        token.head = found[head]
    return found


def test_words_of_a_list_are_found_in_singular_and_plural_where_they_stand() -> None:
    reader = RuleNouns(["cat", "box", "cherry", "boy", "mouse/mice"])
    caption = "Two Cats, a cat and boxes of cherries; boys see mice"
    found = reader.nouns(caption)
    assert [noun.lemma for noun in found] == ["cat", "cat", "box", "cherry", "boy", "mouse"]
    assert found[0] == Noun("Cats", "cat", 4, 8)
    assert all(caption[noun.start : noun.end] == noun.text for noun in found)


def test_a_word_is_no_part_of_another_and_the_longest_phrase_wins() -> None:
    reader = RuleNouns(["table", "dining table", "car"])
    assert [noun.lemma for noun in reader.nouns("a dining  table, a car and tables in a carpet")] == [
        "dining table",
        "car",
        "table",
    ]


def test_every_class_that_a_caption_of_miniature_names_is_found() -> None:
    reader = RuleNouns(MINIATURE)
    captions = [scene("train", index).caption for index in range(150)]
    assert all({noun.lemma for noun in reader.nouns(caption)} == classes_in_caption(caption) for caption in captions)
    assert {noun.lemma for caption in captions for noun in reader.nouns(caption)} == set(CLASSES)
    assert all(reader.nouns(f"many {miniature_plural(name)}")[0].lemma == name for name in THINGS)


@pytest.mark.parametrize(
    ("word", "many"), [("cat", "cats"), ("bus", "buses"), ("dish", "dishes"), ("sky", "skies"), ("toy", "toys")]
)
def test_plurals_follow_the_spelling_rules(word: str, many: str) -> None:
    assert plural(word) == many


def test_a_list_of_words_can_be_a_file_and_is_part_of_the_settings(tmp_path: Path) -> None:
    path = tmp_path / "words.txt"
    path.write_text("cat\n\nmouse/mice\n")
    reader = RuleNouns(path)
    assert reader.identity() == RuleNouns(["mouse/mice", "cat"]).identity()
    assert reader.identity() != RuleNouns(["mouse", "cat"]).identity()
    assert [noun.lemma for noun in reader.nouns("mice and cats")] == ["mouse", "cat"]


def test_a_list_that_is_empty_or_missing_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="empty"):
        RuleNouns([])
    with pytest.raises(ConfigurationError, match=r"words\.txt"):
        RuleNouns(tmp_path / "words.txt").load()


def test_nouns_alone_are_taken_without_stop_words_and_names() -> None:
    parsed = tokens("a red boat near many Boats of London", "-AN-ANXP", [2, 2, 2, 2, 5, 3, 5, 6])
    assert nouns_of_tokens(parsed) == [Noun("boat", "boat", 6, 10), Noun("Boats", "boat", 21, 26)]
    assert nouns_of_tokens(parsed, proper_nouns=True)[-1] == Noun("London", "london", 30, 36)


def test_an_adjective_becomes_its_head_once_or_a_phrase() -> None:
    parsed = tokens("a red fat cat sleeps", "-AANX", [3, 3, 3, 4, 4])
    assert nouns_of_tokens(parsed, "head") == [Noun("cat", "cat", 10, 13)]
    phrases = nouns_of_tokens(parsed, "phrase")
    assert phrases == [Noun("red cat", "red cat", 2, 13), Noun("fat cat", "fat cat", 6, 13), Noun("cat", "cat", 10, 13)]


def test_the_release_gives_a_head_once_for_every_adjective_and_for_itself() -> None:
    parsed = tokens("a red fat Cats sleeps", "-AANX", [3, 3, 3, 4, 4])
    assert [noun.text for noun in nouns_of_tokens(parsed, "heads")] == ["Cats", "Cats", "Cats"]
    # "The cat is red": what an adjective belongs to need be no noun, and need be no more than a stop word.
    predicate = tokens("The cat is red", "-N-A", [1, 2, 2, 2])
    assert [noun.text for noun in nouns_of_tokens(predicate, "heads")] == ["cat", "is"]
    twice = tokens("cat and cat", "N-N", [0, 0, 0])
    assert [noun.start for noun in nouns_of_tokens(twice, "heads")] == [0, 8]


def test_an_adjective_without_a_head_of_its_own_stays_alone() -> None:
    assert nouns_of_tokens(tokens("green", "A", [0]), "phrase") == [Noun("green", "green", 0, 5)]


def test_without_spacy_one_sentence_says_how_to_install_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "spacy", None)
    reader = SpacyNouns()
    with pytest.raises(ConfigurationError, match=r"pip install spacy.*python -m spacy download en_core_web_sm"):
        reader.nouns("a cat")
    with pytest.raises(ConfigurationError, match="pip install spacy"):
        reader.identity()


def test_without_the_model_one_sentence_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    def load(name: str, **_: Any) -> None:
        raise OSError(f"[E050] Can't find model '{name}'")

    monkeypatch.setitem(sys.modules, "spacy", SimpleNamespace(load=load))
    with pytest.raises(ConfigurationError, match="python -m spacy download en_core_web_md"):
        SpacyNouns("en_core_web_md").load()


def test_a_wrong_treatment_of_adjectives_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="drop, head, phrase"):
        SpacyNouns(adjectives="keep")  # type: ignore[arg-type]
