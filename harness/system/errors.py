"""Errors a user can mend: each says what is wrong, where, and what to do, in one sentence."""

import difflib
from collections.abc import Iterable


class OvsegError(Exception):
    """Base of all errors shown to a user as one sentence, without a traceback (exit code 2)."""


class ConfigurationError(OvsegError):
    """A setting is missing, unknown or contradicts another one."""


class DataError(OvsegError):
    """A picture, label map or list of a data set is missing, damaged or inconsistent."""


class ModelError(OvsegError):
    """A model's weights are not on this machine or do not fit."""


class StoreError(OvsegError):
    """The artifact store cannot be written, or an entry of it is missing or damaged."""


class RunError(OvsegError):
    """A run directory is held by another process, belongs to another evaluation, or is damaged."""


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """``" (did you mean 'x'?)"`` for the closest of ``known``, or an empty string."""
    close = difflib.get_close_matches(word, list(known), n=1)
    return f" (did you mean '{close[0]}'?)" if close else ""
