"""reasons.json of a run: a sentence for each sampled recommendation, and the heat of the words that carried it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from recsys.errors import InputError
from recsys.reports.figures import is_finite
from recsys.reports.files import read_json


@dataclass(frozen=True, kw_only=True)
class HeatWord:
    """A word of an item's text."""

    text: str
    heat: float
    """From -1 to 1: what it adds to the score, beside the strongest word of the item."""

    @property
    def percent(self) -> int:
        """Strength of its colour."""
        return round(75 * abs(self.heat))


@dataclass(frozen=True, kw_only=True)
class Told:
    """What is said of one recommendation."""

    reason: str
    words: Sequence[HeatWord]


Reasons = Mapping[tuple[str, str], Told]
"""By user id and item id."""


def read_reasons(path: Path, *, show_ids: bool = False) -> Reasons:
    """What the stage explain has written; nothing where it was not run. Raises InputError for another content.

    A reason that quotes what a user has searched for is left out unless `show_ids`.
    """
    raw = read_json(path)
    if raw is None:
        return {}
    entries = raw.get("users")
    if not isinstance(entries, list) or not all(isinstance(one, dict) for one in entries):
        raise InputError(f"{path}: found 'users' of type {type(entries).__name__}; expected a list of objects.")
    return {(str(one.get("id")), str(one.get("item_id"))): _told(one, path, show_ids) for one in entries}


def _told(entry: Mapping[str, Any], path: Path, show_ids: bool) -> Told:
    words = entry.get("words") or []
    if not all(isinstance(one, list) and len(one) == 2 and is_finite(one[1]) for one in words):
        raise InputError(f"{path}: the words of {entry.get('item_id')!r} are no pairs of a word and a number.")
    most = max((abs(value) for _, value in words), default=0.0) or 1.0
    heat = [HeatWord(text=str(text), heat=round(value / most, 3)) for text, value in words]
    shown = show_ids or not entry.get("quotes_search")
    return Told(reason=str(entry.get("reason") or "") if shown else "", words=heat)
