"""What a user's own verdicts on alike items say of a candidate: items are alike where the same people took them alike.

Item-based neighbours of residuals (Sarwar et al. 2001; Koren 2008, "Factorization meets the neighborhood"): what is
usual of an item and of a user is taken off first, so that neighbours tell what neither does.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch

from recsys.data.histories import Histories
from recsys.data.split import TRAIN
from recsys.errors import InputError

COLUMNS = 5
"""Numbers of each candidate: the user's bent, his latest bent, the neighbours' mean and sum, and how much was said."""
MOST = 1 << 14
"""Items at most: a number is kept for each pair of them."""

_ITEM, _USER = 5.0, 3.0  # rows of the mean that an item and a user are taken to have had
_ALIKE = 30.0  # squares that each pair is taken to differ by: neighbours that few have met count for little
_FAR = 0.5  # likeness of neighbours that say nothing
_LATEST = 10  # entries of the latest bent
_USERS = 1024  # whose rows are added at one time


@dataclass(frozen=True, kw_only=True)
class Neighbours:
    """Residuals of the train rows, and what any two items have in common."""

    values: np.ndarray  # [kinds + 1] float64 what an event is worth, by code; NaN where that is not known
    usual: np.ndarray  # [N] float64 what an item's events are worth on average
    offsets: np.ndarray  # [U + 1] int64 into the two below
    item: np.ndarray  # [E] int64, rising within a user
    residual: np.ndarray  # [E] float32
    common: np.ndarray  # [N, N] float32 sums of products of two items' residuals

    @classmethod
    def of(cls, histories: Histories, values: np.ndarray, items: int) -> "Neighbours":
        """Learn from the train rows.

        Args:
            histories: rows of every user.
            values: [kinds + 1] what each event code is worth, NaN where that is not known.
            items: size of the catalogue. Raises InputError where there are too many.
        """
        if items > MOST:
            remedy = "leave data.items.neighbours out"
            raise InputError(f"There are {items:,} items, and neighbours are for {MOST:,} at most; {remedy}.")
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
        return cls(
            values=values, usual=usual, offsets=offsets, item=item, residual=residual,
            common=_common(offsets, item, residual, items),
        )  # fmt: skip

    def of_a_stranger(self) -> "Neighbours":
        """The same for a layout whose only user is in none of the train rows."""
        return replace(self, offsets=np.zeros(2, dtype=np.int64))

    def batch(
        self, items: Sequence[np.ndarray], events: Sequence[np.ndarray], users: np.ndarray, candidates: np.ndarray
    ) -> torch.Tensor:
        """[B, K, 5] float32 of candidates [B, K] (-1 is padding), from the items and events of B histories [H], oldest
        first; zero without a history, and entries of an unknown event say nothing.

        With r_j what an entry j of the history is worth beyond what is usual of its item and its user, over n entries,
        and s_j how alike its item and the candidate are: sum r / (n + 3) before the user's part is taken off r, the
        mean of the latest ten r, sum s r / (sum |s| + 0.5), sum s r / sqrt(n), log(1 + n). Alike is
        c / (sqrt(c_ii c_jj) + 30), c the sum over users of products of residuals. `users` [B], -1 for nobody known:
        what the user has said in the train rows is taken out of c, so that nobody's verdict is foretold from itself.
        """
        found = np.zeros((*candidates.shape, COLUMNS), dtype=np.float32)
        for row, (item, event, user) in enumerate(zip(items, events, users, strict=True)):
            worth = self.values[event]
            told = ~np.isnan(worth)
            if told.any():
                beyond = worth[told] - self.usual[item[told]]
                found[row] = self._told(int(user), item[told], beyond, candidates[row])
        return torch.from_numpy(found)

    def _told(self, user: int, item: np.ndarray, beyond: np.ndarray, candidates: np.ndarray) -> np.ndarray:
        """[K, 5] of one request; `beyond` [H] is what its entries are worth beyond what is usual of their items."""
        count, known = len(item), np.maximum(candidates, 0)
        bent = beyond.sum() / (count + _USER)
        rest = beyond - bent
        own, squares = np.zeros(len(self.usual), dtype=np.float32), self.common.diagonal()
        if user >= 0:
            mine = slice(self.offsets[user], self.offsets[user + 1])
            own[self.item[mine]] = self.residual[mine]
        shared = self.common[known[:, None], item] - own[known, None] * own[item]
        alike = shared / (np.sqrt(squares[known, None] * squares[item]) + _ALIKE)
        said = alike @ rest
        found = np.empty((len(known), COLUMNS))
        found[:, 0], found[:, 1] = bent, rest[-_LATEST:].mean()
        found[:, 2] = said / (np.abs(alike).sum(1) + _FAR)
        found[:, 3], found[:, 4] = said / np.sqrt(count), np.log1p(count)
        return found


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


def _common(offsets: np.ndarray, item: np.ndarray, residual: np.ndarray, items: int) -> np.ndarray:
    common = np.zeros((items, items), dtype=np.float32)
    for first in range(0, len(offsets) - 1, _USERS):
        last = min(first + _USERS, len(offsets) - 1)
        rows = slice(offsets[first], offsets[last])
        table = np.zeros((last - first, items), dtype=np.float32)
        table[np.repeat(np.arange(last - first), np.diff(offsets[first : last + 1])), item[rows]] = residual[rows]
        common += table.T @ table
    return common
