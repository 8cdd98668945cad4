"""The captions that the repository ships for a reference collection."""

from pathlib import Path

from methods.fossil.captions import Captions
from methods.support.nouns import RuleNouns
from miniature.collection_captions import COUNT, FILE, captions, main
from miniature.world import CLASSES


def test_the_file_is_what_its_command_writes(tmp_path: Path) -> None:
    main([str(tmp_path / "some.txt"), "--count", "25"])
    shipped = FILE.read_text(encoding="utf-8").splitlines()
    assert (tmp_path / "some.txt").read_text(encoding="utf-8").splitlines() == shipped[:25] == captions(25)
    assert len(shipped) == COUNT


def test_every_class_is_named_often_and_half_of_the_captions_are_of_their_own() -> None:
    reader = RuleNouns(["fish/fish" if name == "fish" else name for name in CLASSES])
    texts = [caption.text for caption in Captions(FILE)]
    named = [{noun.lemma for noun in reader.nouns(text)} for text in texts]
    assert min(sum(name in found for found in named) for name in CLASSES) > 150
    assert len(set(texts)) > COUNT / 2
