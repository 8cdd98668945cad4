"""The vocabulary: a user's class names, in order, each once."""

import pytest

from harness import ConfigurationError, Vocabulary
from harness.data.vocabulary import voc_palette


def test_class_names_of_a_user() -> None:
    vocabulary = Vocabulary.from_class_names(" corgi, park bench ,, sky")
    assert vocabulary.names == ("background", "corgi", "park bench", "sky")
    assert vocabulary.background
    assert vocabulary.foreground == ("corgi", "park bench", "sky")
    assert Vocabulary.from_class_names("background, corgi").names == ("background", "corgi")
    assert Vocabulary.from_class_names(["a, b", "c"], background=False).names == ("a, b", "c")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"names": ()}, "at least one class"),
        ({"names": ("a", " ")}, "no empty class name"),
        ({"names": ("a", "b", "a")}, "'a' more than once"),
        ({"names": tuple(map(str, range(256)))}, "at most 255 classes, not 256"),
        ({"names": ("a",), "stuff": frozenset({"sky"})}, "'sky', which is not in the vocabulary"),
        ({"names": ("a", "b"), "palette": ((0, 0, 0),)}, "1 colours for 2 classes"),
        ({"names": ("a", "b"), "members": (("c",),)}, "members of 1 of its 2 classes"),
        ({"names": ("a", "b"), "members": (("c",), ())}, "have members, unlike 'b'"),
        ({"names": ("a", "b"), "members": (("c",), ("d",)), "background": True}, "have members, unlike 'a'"),
        ({"names": ("a", "b"), "members": (("c", "d"), ("d",))}, "member 'd', which is empty or there twice"),
        ({"names": ("a",), "members": ((" ",),)}, "member ' ', which is empty"),
    ],
)
def test_invalid_vocabularies_are_errors(settings: dict, message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        Vocabulary(**settings)


def test_no_class_names_are_an_error() -> None:
    with pytest.raises(ConfigurationError, match="--classes"):
        Vocabulary.from_class_names(" , ")


def test_the_palette_is_that_of_voc_and_only_a_background_is_black() -> None:
    assert voc_palette(5) == ((0, 0, 0), (128, 0, 0), (0, 128, 0), (128, 128, 0), (0, 0, 128))
    assert len(set(voc_palette(256))) == 256
    assert Vocabulary(("background", "a"), background=True).palette == ((0, 0, 0), (128, 0, 0))
    assert Vocabulary(("a", "b")).palette == ((128, 0, 0), (0, 128, 0))


def test_fine_names_are_the_members_with_their_labels_or_the_classes_themselves() -> None:
    groups = Vocabulary(("animal", "food"), members=(("cat", "dog"), ("apple",)))
    assert groups.fine_names == (("cat", 0), ("dog", 0), ("apple", 1))
    with_background = Vocabulary(("none", "animal", "food"), True, members=((), ("cat", "dog"), ("apple",)))
    assert with_background.fine_names == (("cat", 1), ("dog", 1), ("apple", 2))
    assert Vocabulary(("a", "b")).fine_names == (("a", 0), ("b", 1))
    assert Vocabulary.from_class_names("corgi, sky").fine_names == (("corgi", 1), ("sky", 2))
