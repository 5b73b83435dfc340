"""The one error type for whatever a user can mend: bad tables, bad configs, wrong folders.

Every command prints the message alone, without a traceback, and exits with code 2.
"""

from collections.abc import Iterable
from difflib import get_close_matches


class InputError(Exception):
    """Something the user gave is wrong. The message says what was found, what was expected and the remedy."""


def nearest(word: str, known: Iterable[str]) -> str:
    """A hint such as " Did you mean 'title'?", or an empty string when nothing known is near."""
    close = get_close_matches(word, list(known), n=1, cutoff=0.5)
    return f" Did you mean {close[0]!r}?" if close else ""
