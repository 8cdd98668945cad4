"""Where an entry of the reference collection comes from: its caption, its noun, its image's seed."""

import json
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from methods.fossil.captions import Caption
from methods.support.nouns import Noun


class Reference(NamedTuple):
    """The provenance of one entry.

    Attributes:
        caption: The caption that was generated.
        seed: Of the image.
        noun: The noun that stands for the region.
    """

    caption: Caption
    seed: int
    noun: Noun


def pack(references: Sequence[Reference]) -> Tensor:
    """[bytes] uint8: UTF-8 JSON, each caption once."""
    places: dict[tuple[Caption, int], int] = {}
    rows = [[places.setdefault((r.caption, r.seed), len(places)), *r.noun] for r in references]
    captions = [[caption.id, caption.text, seed] for caption, seed in places]
    content = json.dumps({"captions": captions, "nouns": rows}, ensure_ascii=False, separators=(",", ":"))
    return torch.frombuffer(bytearray(content.encode("utf-8", "surrogatepass")), dtype=torch.uint8)


def unpack(content: Tensor) -> list[Reference]:
    """What ``pack`` was given."""
    told = json.loads(content.numpy().tobytes().decode("utf-8", "surrogatepass"))
    captions = [(Caption(name, text), seed) for name, text, seed in told["captions"]]
    nouns = [(captions[place], Noun(*noun)) for place, *noun in told["nouns"]]
    return [Reference(caption, seed, noun) for (caption, seed), noun in nouns]
