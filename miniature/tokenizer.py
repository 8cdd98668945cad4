"""A word-level vocabulary in CLIPTokenizer format: a word of the small world is one token, others fall to letters."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterable
from itertools import pairwise
from pathlib import Path

from transformers import CLIPTokenizer

from miniature.captions import NUMBERS, OPENINGS, PLACES, plural
from miniature.palette import COLOURS
from miniature.world import CLASSES, THINGS

CONTEXT_LENGTH = 32
FOLDER = Path(__file__).parent / "weights" / "tokenizer"
END_OF_WORD = "</w>"

# Prompts in common use; {} takes a class name. From CLIP's notebook and papers that follow it.
TEMPLATES: tuple[str, ...] = (
    "a photo of a {}.",
    "a photo of a {}",
    "a photo of the {}.",
    "a photo of one {}.",
    "a photo of my {}.",
    "a photo of {}.",
    "a photo of many {}.",
    "a photo of {}s.",
    "a photo of the large {}.",
    "a photo of the small {}.",
    "a photo of a large {}.",
    "a photo of a small {}.",
    "a photo of a nice {}.",
    "a photo of a clean {}.",
    "a good photo of a {}.",
    "a good photo of the {}.",
    "A good picture of a {}",
    "a bad photo of a {}.",
    "a bad photo of the {}.",
    "a close-up photo of a {}.",
    "a cropped photo of a {}.",
    "a bright photo of a {}.",
    "a dark photo of a {}.",
    "a blurry photo of a {}.",
    "a low resolution photo of a {}.",
    "a black and white photo of a {}.",
    "a picture of a {}.",
    "an image of a {}.",
    "a drawing of a {}.",
    "a painting of a {}.",
    "a rendering of a {}.",
    "a cartoon {}.",
    "a toy {}.",
    "a origami {}.",
    "itap of a {}.",
    "itap of my {}.",
    "a {} in a video game.",
    "art of the {}.",
    "art of a {}.",
    "there is a {} in the scene.",
    "there is the {} in the scene.",
    "this is a {} in the scene.",
    "this is one {} in the scene.",
    "a view of a {}.",
    "{}",
)
_FURTHER = """
text, low quality, blurry, cartoon, meme, low resolution, bad, poor, faded, ugly, deformed, jpeg artifacts
high quality, sharp, detailed, realistic, photorealistic, background, foreground, empty, no, nothing, something, other
object, thing, stuff, person, people, man, woman, dog, bird, horse, sheep, cow, chair, table, bottle, bus, train, plane
airplane, bicycle, bike, motorbike, sofa, television, plant, potted, mountain, wall, floor, building, door, window, roof
wheel, leaf, stem, cap, tail, ear, eye, cloud, clouds, wave, waves, sea, lake, river, ocean, beach, shore, field, meadow
street, path, ground, earth, land, day, night, morning, evening, sunset, light, shadow, bright, dark, big, little, tiny
huge, young, old, new, next, near, left, right, top, bottom, side, behind, above, below, under, over, between, beside
and, or, with, without, of, in, on, at, to, from, by, for, is, are, it, its, that, which, up, down, front, middle
gray, grey, striped, spotted, plain, round, long, short, flying, floating, sailing, swimming, sitting, standing, parked
image, picture, photo, photograph, painting, sketch, illustration, render, view, scene, close, distance, far, i, we, you
"""


def words() -> tuple[str, ...]:
    """Every word and sign that is to be one token, sorted."""
    texts: list[str] = [
        *CLASSES,
        *(plural(name) for name in CLASSES),
        *COLOURS,
        *NUMBERS,
        *OPENINGS,
        *TEMPLATES,
        _FURTHER,
    ]
    texts += [f"{name}s" for name in THINGS]
    texts += [place for places in PLACES.values() for place in places]
    found = {word for text in texts for word in re.findall(r"[a-z]+", text.lower())}
    return tuple(sorted(found | {",", ".", "-", "!", "?", "'s"}))


def _byte_letters() -> list[str]:
    """The 256 characters that stand for bytes in byte-level BPE, as in GPT-2 and CLIP."""
    printable = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    others = [byte for byte in range(256) if byte not in printable]
    return [chr(byte) for byte in printable] + [chr(256 + position) for position in range(len(others))]


def _apply(pieces: list[str], ranks: dict[tuple[str, str], int]) -> list[str]:
    """Merge the pair of the lowest rank until no pair is left, as BPE does."""
    while len(pieces) > 1:
        pairs = list(pairwise(pieces))
        best = min(pairs, key=lambda pair: ranks.get(pair, len(ranks)))
        if best not in ranks:
            break
        merged: list[str] = []
        for piece in pieces:
            # Only a piece that has not been merged yet can open the pair.
            if merged and (merged[-1], piece) == best:
                merged[-1] += piece
            else:
                merged.append(piece)
        pieces = merged
    return pieces


def build(vocabulary: Iterable[str]) -> tuple[dict[str, int], list[tuple[str, str]]]:
    """Token ids and merges in which every given word is one token.

    A new word's merges come after all earlier ones: BPE always applies the earliest merge, so words that were whole
    stay whole. The end of text has the highest id, because CLIP pools at the largest id.
    """
    letters = _byte_letters()
    ranks: dict[tuple[str, str], int] = {}
    for word in vocabulary:
        pieces = _apply([*word[:-1], word[-1] + END_OF_WORD], ranks)
        whole = pieces[0]
        for piece in pieces[1:]:
            ranks[whole, piece] = len(ranks)
            whole += piece
    tokens = [*letters, *(letter + END_OF_WORD for letter in letters)]
    tokens += list(dict.fromkeys(left + right for left, right in ranks))
    tokens += ["<|startoftext|>", "<|endoftext|>"]
    return {token: index for index, token in enumerate(tokens)}, list(ranks)


def save(folder: Path = FOLDER) -> None:
    """Write vocab.json, merges.txt and the two configuration files of a CLIPTokenizer."""
    ids, merges = build(words())
    folder.mkdir(parents=True, exist_ok=True)
    special = {
        "unk_token": "<|endoftext|>",
        "bos_token": "<|startoftext|>",
        "eos_token": "<|endoftext|>",
        "pad_token": "<|endoftext|>",
    }
    files = {
        "vocab.json": json.dumps(ids, ensure_ascii=False, indent=0),
        "merges.txt": "#version: 0.2\n" + "".join(f"{left} {right}\n" for left, right in merges),
        "special_tokens_map.json": json.dumps(special, indent=2),
        "tokenizer_config.json": json.dumps(
            {"tokenizer_class": "CLIPTokenizer", "model_max_length": CONTEXT_LENGTH, "do_lower_case": True, **special},
            indent=2,
        ),
    }
    for name, text in files.items():
        part = folder / f"{name}.part"
        part.write_text(text + ("" if text.endswith("\n") else "\n"), encoding="utf-8")
        os.replace(part, folder / name)


def load(folder: Path = FOLDER) -> CLIPTokenizer:
    """The tokenizer from a folder."""
    return CLIPTokenizer.from_pretrained(folder)
