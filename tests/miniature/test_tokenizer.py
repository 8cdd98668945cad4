"""The vocabulary: whole words, and letters for what it does not know."""

from __future__ import annotations

import re
from pathlib import Path

from transformers import AutoTokenizer, CLIPTokenizer

from miniature import tokenizer
from miniature.world import CLASSES, scene


def test_every_word_is_one_token() -> None:
    tokens = tokenizer.load()
    split = {word: tokens.tokenize(word) for word in tokenizer.words()}
    assert {word: pieces for word, pieces in split.items() if len(pieces) != 1} == {}


def test_captions_and_prompts_are_words_alone() -> None:
    tokens = tokenizer.load()
    texts = [scene("train", index).caption for index in range(150)]
    texts += [template.format(name) for template in tokenizer.TEMPLATES for name in CLASSES]
    for text in texts:
        assert len(tokens.tokenize(text)) == len(re.findall(r"[A-Za-z]+|[^\sA-Za-z]+", text)), text


def test_other_words_fall_to_letters_and_nothing_is_unknown() -> None:
    tokens = tokenizer.load()
    for text in ("corgi", "façade", "кошка", "日本", "7"):
        ids = tokens(text).input_ids
        assert tokens.eos_token_id not in ids[1:-1]
        assert tokens.decode(ids, skip_special_tokens=True) == text


def test_files_are_those_that_the_code_builds(tmp_path: Path) -> None:
    tokenizer.save(tmp_path)
    for file in tmp_path.iterdir():
        assert file.read_bytes() == (tokenizer.FOLDER / file.name).read_bytes()


def test_library_classes_load_it() -> None:
    assert isinstance(AutoTokenizer.from_pretrained(tokenizer.FOLDER), CLIPTokenizer)
    tokens = tokenizer.load()
    assert tokens.eos_token_id == len(tokens) - 1  # CLIP pools at the largest id
