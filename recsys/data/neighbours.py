"""What a user's own verdicts on alike items say of a candidate.

What is usual of an item and of a user is taken off first, so that neighbours tell what neither does (item-based
neighbours of residuals: Sarwar et al. 2001; Koren 2008, "Factorization meets the neighborhood").
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np
import torch

from recsys.data.histories import Histories
from recsys.data.split import TRAIN
from recsys.errors import InputError

USERS = "users"
"""In the place of a column: items are alike where the same users took them alike."""
MOST = 1 << 14
"""Items at most where users make them alike: a number is kept for each pair."""

_ITEM, _USER = 5.0, 3.0  # rows of the mean that an item and a user are taken to have had
_ALIKE = 30.0  # squares that each pair is taken to differ by: neighbours that few have met count for little
_LATEST = 10  # entries of the latest bent
_BLOCK = 1024  # users whose rows are added at one time


def columns(ways: int) -> int:
    """Numbers of each candidate: the user's bent and latest bent, how much he said, and two of each way to be alike."""
    return 3 + 2 * ways


class Likeness(Protocol):
    """A way in which items are alike."""

    far: float
    """Likeness of the neighbours that say nothing, which are counted in."""

    def __call__(self, user: int, candidates: np.ndarray, items: np.ndarray) -> np.ndarray:
        """[K, H] of candidates and the items of the history of `user` (-1: nobody known)."""
        ...


@dataclass(frozen=True, kw_only=True)
class ByUsers:
    """c / (sqrt(c_ii c_jj) + 30), c the sum over users of products of residuals. What the user himself has said in the
    train rows is taken out of c, so that nobody's verdict is foretold from itself.
    """

    offsets: np.ndarray  # [U + 1] int64 into the two below
    item: np.ndarray  # [E] int64
    residual: np.ndarray  # [E] float32
    common: np.ndarray  # [N, N] float32 c
    far: float = 0.5

    def __call__(self, user: int, candidates: np.ndarray, items: np.ndarray) -> np.ndarray:
        """[K, H]."""
        own, squares = np.zeros(len(self.common), dtype=np.float32), self.common.diagonal()
        if user >= 0:
            mine = slice(self.offsets[user], self.offsets[user + 1])
            own[self.item[mine]] = self.residual[mine]
        shared = self.common[candidates[:, None], items] - own[candidates, None] * own[items]
        return shared / (np.sqrt(squares[candidates, None] * squares[items]) + _ALIKE)


@dataclass(frozen=True, kw_only=True)
class ByCategory:
    """Cosine of the sets of values of a category column."""

    codes: np.ndarray  # [N, V] int64, 0 is padding
    far: float = 1.5

    def __call__(self, user: int, candidates: np.ndarray, items: np.ndarray) -> np.ndarray:
        """[K, H]."""
        mine, theirs = self.codes[candidates], self.codes[items]
        shared = ((mine[:, None, :, None] == theirs[:, None, :]) & (theirs > 0)[:, None, :]).sum((-1, -2))
        sizes = [np.maximum((codes > 0).sum(-1), 1) for codes in (mine, theirs)]
        return shared / np.sqrt(sizes[0][:, None] * sizes[1])


@dataclass(frozen=True, kw_only=True)
class ByNumber:
    """exp(-|x_i - x_j|) of a scaled number column; 0 where one of them is missing."""

    values: np.ndarray  # [N] float32
    far: float = 1.5

    def __call__(self, user: int, candidates: np.ndarray, items: np.ndarray) -> np.ndarray:
        """[K, H]."""
        return np.nan_to_num(np.exp(-np.abs(self.values[candidates, None] - self.values[items])))


@dataclass(frozen=True, kw_only=True)
class Neighbours:
    """What events are worth, what is usual of an item, and how items are alike."""

    values: np.ndarray  # [kinds + 1] float64 by code of an event; NaN where that is not known
    usual: np.ndarray  # [N] float64
    ways: dict[str, Likeness]

    @classmethod
    def of(cls, histories: Histories, values: np.ndarray, items: int, ways: dict[str, Likeness | None]) -> "Neighbours":
        """Learn from the train rows of every user.

        Args:
            histories: rows of every user.
            values: [kinds + 1] what each event code is worth, NaN where that is not known.
            items: size of the catalogue.
            ways: how items are alike, by name; None: by users. Raises InputError where items are too many for that.
        """
        users = np.repeat(np.arange(len(histories)), np.diff(histories.offsets))
        rows = np.flatnonzero((histories.stage == TRAIN) & ~np.isnan(values[histories.event]))
        keys, place = np.unique(users[rows] * items + histories.item[rows], return_inverse=True)
        worth = np.bincount(place, values[histories.event[rows]]) / np.bincount(place)  # of one who took it repeatedly
        user, item = np.divmod(keys, items)
        mean = worth.mean() if len(worth) else 0.0
        usual = mean + _smoothed(item, worth - mean, items, _ITEM)
        left = worth - usual[item]
        residual = (left - _smoothed(user, left, len(histories), _USER)[user]).astype(np.float32)
        offsets = np.searchsorted(user, np.arange(len(histories) + 1))
        known = {name: way or _by_users(offsets, item, residual, items) for name, way in ways.items()}
        return cls(values=values, usual=usual, ways=known)

    def of_a_stranger(self) -> "Neighbours":
        """The same for a layout whose only user is in none of the train rows."""
        none = np.zeros(2, dtype=np.int64)
        ways = {
            name: replace(way, offsets=none) if isinstance(way, ByUsers) else way for name, way in self.ways.items()
        }
        return replace(self, ways=ways)

    def batch(
        self, items: Sequence[np.ndarray], events: Sequence[np.ndarray], users: np.ndarray, candidates: np.ndarray
    ) -> torch.Tensor:
        """[B, K, `columns`] float32 of candidates [B, K] (-1 is padding), from the items and events of B histories [H],
        oldest first; zero without a history, and entries of an unknown event say nothing. `users` [B] are rows of the
        layout, -1 for nobody known.

        With r_j what an entry j of the history is worth beyond what is usual of its item, over n entries: the bent
        sum r / (n + 3), which is taken off r; the mean of the latest ten r; log(1 + n). Of each way, with s_j how alike
        its item and the candidate are: sum s r / (sum |s| + far) and sum s r / sqrt(n).
        """
        found = np.zeros((*candidates.shape, columns(len(self.ways))), dtype=np.float32)
        for row, (item, event, user) in enumerate(zip(items, events, users, strict=True)):
            worth = self.values[event]
            told = ~np.isnan(worth)
            if told.any():
                beyond = worth[told] - self.usual[item[told]]
                found[row] = self._told(int(user), item[told], beyond, np.maximum(candidates[row], 0))
        return torch.from_numpy(found)

    def _told(self, user: int, items: np.ndarray, beyond: np.ndarray, candidates: np.ndarray) -> np.ndarray:
        """[K, `columns`] of one request; `beyond` [H] is what its entries are worth beyond the usual of their items."""
        count = len(items)
        bent = beyond.sum() / (count + _USER)
        rest = beyond - bent
        found = [np.full(len(candidates), one) for one in (bent, rest[-_LATEST:].mean(), np.log1p(count))]
        for way in self.ways.values():
            alike = way(user, candidates, items)
            said = alike @ rest
            found += [said / (np.abs(alike).sum(1) + way.far), said / np.sqrt(count)]
        return np.stack(found, axis=-1)


def event_values(events: Sequence[str], targets: Sequence[str] | None) -> np.ndarray:
    """[kinds + 1] float64 what each event code is worth: its own number where every kind is one (ratings), else 1 for a
    target and 0 for another; NaN for code 0, an unknown kind.
    """
    try:
        worth = [float(event) for event in events]
    except ValueError:
        worth = [float(targets is None or event in targets) for event in events]
    return np.array([np.nan, *worth])


def _smoothed(place: np.ndarray, values: np.ndarray, size: int, prior: float) -> np.ndarray:
    """[size] means of the values at each place, with `prior` zeros counted in."""
    return np.bincount(place, values, minlength=size) / (np.bincount(place, minlength=size) + prior)


def _by_users(offsets: np.ndarray, item: np.ndarray, residual: np.ndarray, items: int) -> ByUsers:
    if items > MOST:
        remedy = f"take {USERS!r} out of data.items.neighbours"
        raise InputError(f"There are {items:,} items, and users make {MOST:,} alike at most; {remedy}.")
    common = np.zeros((items, items), dtype=np.float32)
    for first in range(0, len(offsets) - 1, _BLOCK):
        last = min(first + _BLOCK, len(offsets) - 1)
        rows = slice(offsets[first], offsets[last])
        table = np.zeros((last - first, items), dtype=np.float32)
        table[np.repeat(np.arange(last - first), np.diff(offsets[first : last + 1])), item[rows]] = residual[rows]
        common += table.T @ table
    return ByUsers(offsets=offsets, item=item, residual=residual, common=common)
