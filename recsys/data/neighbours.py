"""What a user's own verdicts on alike items say of a candidate.

What is usual of an item and of a user is taken off first, so that neighbours tell what neither does (item-based
neighbours of residuals: Sarwar et al. 2001; Koren 2008, "Factorization meets the neighborhood").
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, replace

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
_PAIRS = 1 << 20  # of a candidate and an entry, that are compared at one time


def columns(ways: int) -> int:
    """Numbers of each candidate: the user's bent and latest bent, how much he said, and two of each way to be alike."""
    return 3 + 2 * ways


@dataclass(frozen=True, kw_only=True)
class Likeness(ABC):
    """A way in which items are alike."""

    far: float = 1.5
    """Likeness of the neighbours that say nothing, which are counted in."""

    @abstractmethod
    def __call__(self, users: np.ndarray, candidates: np.ndarray, items: np.ndarray) -> np.ndarray:
        """[B, K, H] of candidates [B, K] and the items [B, H] of the histories of users [B], -1 for nobody known."""


@dataclass(frozen=True, kw_only=True)
class ByUsers(Likeness):
    """c / (sqrt(c_ii c_jj) + 30), c the sum over users of products of residuals. What the user himself has said in the
    train rows is taken out of c, so that nobody's verdict is foretold from itself.
    """

    said: np.ndarray  # [E] int64, user * N + item of each residual, rising
    residual: np.ndarray  # [E] float32
    common: np.ndarray  # [N, N] float32 c
    far: float = 0.5

    def __call__(self, users: np.ndarray, candidates: np.ndarray, items: np.ndarray) -> np.ndarray:
        """[B, K, H]."""
        squares, pairs = self.common.diagonal(), (candidates[..., None], items[:, None])
        own = self._own(users, candidates)[..., None] * self._own(users, items)[:, None]
        return (self.common[pairs] - own) / (np.sqrt(squares[pairs[0]] * squares[pairs[1]]) + _ALIKE)

    def _own(self, users: np.ndarray, items: np.ndarray) -> np.ndarray:
        """[B, n] float32 the users' own residuals of some items, 0 for none."""
        keys = np.where(users >= 0, users * len(self.common), -len(self.common))[:, None] + items
        place = np.searchsorted(self.said, keys)
        found = np.append(self.said, -1)[place] == keys
        return np.where(found, np.append(self.residual, 0)[place], 0)


@dataclass(frozen=True, kw_only=True)
class ByCategory(Likeness):
    """Cosine of the sets of values of a category column."""

    codes: np.ndarray  # [N, V] int64, 0 is padding

    def __call__(self, users: np.ndarray, candidates: np.ndarray, items: np.ndarray) -> np.ndarray:
        """[B, K, H]."""
        mine, theirs = self.codes[candidates][:, :, None], self.codes[items][:, None]
        shared = sum(
            (mine == theirs[..., [value]]).any(-1) & (theirs[..., value] > 0) for value in range(theirs.shape[-1])
        )
        sizes = [np.maximum((codes > 0).sum(-1), 1) for codes in (mine, theirs)]
        return shared / np.sqrt(sizes[0] * sizes[1])


@dataclass(frozen=True, kw_only=True)
class ByNumber(Likeness):
    """exp(-|x_i - x_j|) of a scaled number column; 0 where one of them is missing."""

    values: np.ndarray  # [N] float32

    def __call__(self, users: np.ndarray, candidates: np.ndarray, items: np.ndarray) -> np.ndarray:
        """[B, K, H]."""
        return np.nan_to_num(np.exp(-np.abs(self.values[candidates][..., None] - self.values[items][:, None])))


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
        known = {name: way or _by_users(keys, residual, len(histories), items) for name, way in ways.items()}
        return cls(values=values, usual=usual, ways=known)

    def of_a_stranger(self) -> "Neighbours":
        """The same for a layout whose only user is in none of the train rows."""
        nothing = {"said": np.zeros(0, dtype=np.int64), "residual": np.zeros(0, dtype=np.float32)}
        strange = {name: replace(way, **nothing) for name, way in self.ways.items() if isinstance(way, ByUsers)}
        return replace(self, ways={**self.ways, **strange})

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
        length = max(map(len, items), default=0)
        item, event = np.zeros((len(users), length), dtype=np.int64), np.zeros((len(users), length), dtype=np.int64)
        for row, (own, kinds) in enumerate(zip(items, events, strict=True)):
            own, kinds = (part[~np.isnan(self.values[kinds])] for part in (own, kinds))
            item[row, length - len(own) :], event[row, length - len(own) :] = own, kinds
        size = max(_PAIRS // max(candidates.shape[1] * length, 1), 1)
        blocks = [slice(start, start + size) for start in range(0, len(users), size)]
        known = np.maximum(candidates, 0)
        found = [self._told(users[rows], item[rows], event[rows], known[rows]) for rows in blocks]
        empty = np.zeros((0, candidates.shape[1], columns(len(self.ways))))
        return torch.from_numpy(np.concatenate([empty, *found]).astype(np.float32))

    def _told(self, users: np.ndarray, items: np.ndarray, events: np.ndarray, candidates: np.ndarray) -> np.ndarray:
        """[B, K, `columns`] for histories [B, H] that stand at the end of their rows, behind entries of no event."""
        told = events > 0
        count = told.sum(1, keepdims=True)
        beyond = np.where(told, np.nan_to_num(self.values)[events] - self.usual[items], 0)
        bent = beyond.sum(1, keepdims=True) / (count + _USER)
        rest = np.where(told, beyond - bent, 0)
        latest = rest[:, -_LATEST:].sum(1, keepdims=True) / np.clip(count, 1, _LATEST)
        found = [np.broadcast_to(one, candidates.shape) for one in (bent, latest, np.log1p(count))]
        for way in self.ways.values():
            alike = np.where(told[:, None], way(users, candidates, items), 0)
            said = (alike @ rest[..., None])[..., 0]
            found += [said / (np.abs(alike).sum(-1) + way.far), said / np.sqrt(np.maximum(count, 1))]
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


def _by_users(said: np.ndarray, residual: np.ndarray, users: int, items: int) -> ByUsers:
    if items > MOST:
        remedy = f"take {USERS!r} out of data.items.neighbours"
        raise InputError(f"There are {items:,} items, and users make {MOST:,} alike at most; {remedy}.")
    common = np.zeros((items, items), dtype=np.float32)
    for first in range(0, users, _BLOCK):
        rows = slice(*np.searchsorted(said, [first * items, (first + _BLOCK) * items]))
        table = np.zeros((_BLOCK, items), dtype=np.float32)
        table.ravel()[said[rows] - first * items] = residual[rows]
        common += table.T @ table
    return ByUsers(said=said, residual=residual, common=common)
