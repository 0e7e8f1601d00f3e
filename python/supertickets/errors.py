"""Errors that a user can act on; the command line prints them without a traceback."""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches


class SuperticketsError(Exception):
    """Base of every error raised on purpose by this package."""


class InputError(SuperticketsError, ValueError):
    """Something that was passed in is wrong: an argument, a value, a file's content."""


class ConfigError(InputError):
    """A recipe or an option is invalid."""


class DataError(InputError):
    """A data set is missing, empty or damaged."""


class TicketError(InputError):
    """A ticket folder is missing, damaged or of another version."""


class RunError(SuperticketsError, RuntimeError):
    """A run cannot start or go on, although its inputs are valid."""


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """Suggest the nearest known word.

    Args:
        word: What was given.
        known: What would have been accepted.

    Returns:
        ``"; did you mean 'x'?"``, or the list of known words if none is near.
    """
    options = sorted(known)
    near = get_close_matches(word, options, n=1)
    return f"; did you mean {near[0]!r}?" if near else f"; known: {', '.join(options)}"
