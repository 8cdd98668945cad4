"""Errors that a user can fix: each says in one sentence what is wrong, where, and what to do."""

import difflib
from collections.abc import Iterable


class OvsegError(Exception):
    """Base of all errors that are shown to a user as one sentence, without a traceback (exit code 2)."""


class ConfigurationError(OvsegError):
    """A setting is missing, unknown or contradicts another one."""


class DataError(OvsegError):
    """An image, label map or list of a data set is missing, corrupt or inconsistent."""


class ModelError(OvsegError):
    """A model's weights are not on this machine or do not fit."""


class StoreError(OvsegError):
    """The artifact store cannot be written, or one of its entries is missing or corrupt."""


class RunError(OvsegError):
    """A run directory is locked by another process, belongs to another evaluation, or is corrupt."""


def did_you_mean(word: str, candidates: Iterable[str]) -> str:
    """``" (did you mean 'x'?)"`` for the closest of ``candidates``; an empty string if none is close."""
    close = difflib.get_close_matches(word, list(candidates), n=1)
    return f" (did you mean '{close[0]}'?)" if close else ""
