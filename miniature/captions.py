"""Captions from templates, in the style of photo captions."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from miniature.palette import chance, pick

PLURALS: dict[str, str] = {"fish": "fish"}
NUMBERS: tuple[str, ...] = ("no", "one", "two", "three", "four", "five", "six", "seven", "eight")
OPENINGS: tuple[str, ...] = (
    "{}",
    "{}",
    "{}",
    "a photo of {}",
    "a photo of {}",
    "a picture of {}",
    "a good photo of {}",
    "a drawing of {}",
    "an image of {}",
    "a view of {}",
    "art of {}",
)
PLACES: dict[str, tuple[str, ...]] = {
    "sky": ("in the {} sky", "in a {} sky", "under the {} sky", "in front of the {} sky"),
    "grass": ("on the {} grass", "on {} grass", "in the {} grass"),
    "water": ("on the {} water", "in the {} water", "on {} water"),
    "sand": ("on the {} sand", "on {} sand", "in the {} sand"),
    "road": ("on the {} road", "on a {} road"),
}


def plural(name: str) -> str:
    """The word for several things of a kind."""
    return PLURALS.get(name, name + "s")


def _article(phrase: str) -> str:
    return f"{'an' if phrase[0] in 'aeio' else 'a'} {phrase}"


def thing_phrase(rng: np.random.Generator, name: str, colours: Sequence[str]) -> str:
    """Things of one kind, one colour word each: "a red boat", "two cats", "many flowers"."""
    if len(colours) == 1:
        return _article(f"{colours[0]} {name}" if chance(rng, 0.6) else name)
    count = "many" if len(colours) > 2 and chance(rng, 0.3) else NUMBERS[len(colours)]
    shared = f"{colours[0]} " if len(set(colours)) == 1 and chance(rng, 0.6) else ""
    return f"{count} {shared}{plural(name)}"


def stuff_phrase(rng: np.random.Generator, name: str, colour: str) -> str:
    """Stuff as the subject: "green grass", "an empty road", "the sky"."""
    word = f"{colour} {name}" if chance(rng, 0.5) else name
    if name == "road":
        return _article(pick(rng, (word, word, f"empty {word}")))
    return pick(rng, (word, word, f"the {word}"))


def backdrop_caption(rng: np.random.Generator, stuff: dict[str, str]) -> str:
    """A caption of an image of stuff only; a third of them use the word background."""
    phrases = [stuff_phrase(rng, name, colour) for name, colour in stuff.items()]
    if chance(rng, 0.35):
        joined = " and ".join(phrase.removeprefix("the ") for phrase in phrases)
        form = pick(
            rng,
            (
                "a background of {}",
                "a photo of a background of {}",
                "a background",
                "a photo of a background",
                "an empty background",
                "{} background",
                "a photo of the background, {}",
            ),
        )
        return form.format(joined.removeprefix("a ").removeprefix("an ") if form.startswith("{}") else joined)
    joined = phrases[0]
    for phrase in phrases[1:]:
        joined += pick(rng, (" and {}", " above {}", ", {}", " over {}")).format(phrase)
    return pick(rng, OPENINGS).format(joined)


def caption(
    rng: np.random.Generator, things: dict[str, list[str]], homes: dict[str, str], stuff: dict[str, str]
) -> str:
    """A caption that names every kind of thing and usually some of the stuff.

    Args:
        rng: the scene's source of randomness.
        things: for every visible kind, the colour word of each of its instances.
        homes: for every visible kind, the stuff that it is on or in.
        stuff: for every visible stuff, its colour word.

    Returns:
        One sentence in lower case, without a full stop.
    """
    if not things:
        return backdrop_caption(rng, stuff)
    names = list(things)
    phrases = [thing_phrase(rng, name, things[name]) for name in names]
    for position, name in enumerate(names):
        is_last = all(homes[later] != homes[name] for later in names[position + 1 :])
        if homes[name] in stuff and is_last and chance(rng, 0.75):
            place = pick(rng, PLACES[homes[name]]).format(stuff[homes[name]] if chance(rng, 0.35) else "")
            phrases[position] += " " + " ".join(place.split())
    text = phrases[0] if len(phrases) == 1 else ", ".join(phrases[:-1]) + " and " + phrases[-1]
    left = [name for name in stuff if name not in text]
    if left and chance(rng, 0.3):
        where = pick(rng, left)
        text += " with " + pick(
            rng, (f"{where} in the background", f"a background of {where}", stuff_phrase(rng, where, stuff[where]))
        )
    return pick(rng, OPENINGS).format(text)
