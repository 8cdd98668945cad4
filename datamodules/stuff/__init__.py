"""Stuff classes of the benchmarks: an editable text file per vocabulary, one name per line.

These are our own. OVDiff asks ChatGPT; the answers that its release publishes are in ``methods/ovdiff/stuff.py``.
"""

from importlib.resources import files

from harness.system.errors import ConfigurationError, did_you_mean


def available() -> tuple[str, ...]:
    """The names of the vocabularies with a list, sorted."""
    names = [file.name.removesuffix(".txt") for file in files(__name__).iterdir() if file.name.endswith(".txt")]
    return tuple(sorted(names))


def stuff_names(vocabulary: str) -> frozenset[str]:
    """The stuff classes of a vocabulary; lines that begin with ``#`` are comments.

    Args:
        vocabulary: One of ``available()``: voc, context, coco_object, coco_stuff, ade20k, cityscapes.

    Raises:
        ConfigurationError: There is no list for it.
    """
    if vocabulary not in available():
        hint = did_you_mean(vocabulary, available())
        raise ConfigurationError(f"there is no thing/stuff list for '{vocabulary}'{hint}")
    lines = files(__name__).joinpath(f"{vocabulary}.txt").read_text(encoding="utf-8").splitlines()
    return frozenset(line.strip() for line in lines if line.strip() and not line.startswith("#"))
