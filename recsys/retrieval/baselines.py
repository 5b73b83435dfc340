"""Two recommenders without a model, which any model has to beat: popularity, and a decayed Markov chain.

A history is an array of item indices, oldest first. Scores are float64 [B, N]; who ranks them excludes what was seen.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Indices = NDArray[np.int64]
Histories = Sequence[NDArray[np.integer]]


@dataclass(frozen=True, kw_only=True)
class Popularity:
    """Scores an item by how often it occurs in the histories it was fitted on; the same for every user."""

    counts: Floats  # [N]

    @classmethod
    def fit(cls, histories: Histories, n_items: int) -> Self:
        """Counts the items of the histories."""
        return cls(counts=_count(_joined(histories), n_items))

    def scores(self, histories: Histories) -> Floats:
        """[B, N]: the counts, once per history."""
        return np.tile(self.counts, (len(histories), 1))


@dataclass(frozen=True, kw_only=True)
class Markov:
    """Scores an item by how often it followed the user's latest items, the nearer the more.

    Fitting adds 1 / d to w(i, j) each time j comes d steps after i, d = 1..window. A row is divided by its sum plus
    `shrinkage`, which keeps rare items from being trusted too much. Then
    score(j) = sum over d = 1..window of w(item d from the end, j) / d + 1e-9 * popularity(j): the last term breaks
    ties, and is all there is for an empty history. Only pairs that occur are kept, as sparse rows.
    """

    starts: Indices  # [N + 1], row i is starts[i] .. starts[i + 1]
    followers: Indices  # [pairs], ascending in a row
    weights: Floats  # [pairs]
    counts: Floats  # [N]
    window: int

    @classmethod
    def fit(cls, histories: Histories, n_items: int, *, window: int = 10, shrinkage: float = 20.0) -> Self:
        """Learns the weights from all histories, each in its order."""
        pairs, sums = _sum_pairs(histories, n_items, window)
        rows, followers = np.divmod(pairs, n_items)
        row_sums = np.bincount(rows, weights=sums, minlength=n_items)
        return cls(
            starts=np.searchsorted(rows, np.arange(n_items + 1)),
            followers=followers,
            weights=sums / (row_sums[rows] + shrinkage),
            counts=_count(_joined(histories), n_items),
            window=window,
        )

    def scores(self, histories: Histories) -> Floats:
        """[B, N] scores of what comes next in each history."""
        result = np.tile(1e-9 * self.counts, (len(histories), 1))
        for row, history in zip(result, histories, strict=True):
            for step, item in enumerate(history[-self.window :][::-1], start=1):
                span = slice(self.starts[item], self.starts[item + 1])
                row[self.followers[span]] += self.weights[span] / step
        return result


def _joined(histories: Histories) -> Indices:
    return np.concatenate([np.empty(0, np.int64), *histories]).astype(np.int64)


def _count(items: Indices, n_items: int) -> Floats:
    return np.bincount(items, minlength=n_items).astype(np.float64)


def _sum_pairs(histories: Histories, n_items: int, window: int) -> tuple[Indices, Floats]:
    """All pairs (i, j) that occur within the window, as ascending codes i * N + j, and the sum of 1 / d of each.

    One sort of whole numbers that also carry the distance does it, and makes the sums independent of the users' order.
    """
    items = _joined(histories)
    owner = np.repeat(np.arange(len(histories)), [len(history) for history in histories])
    coded = [np.empty(0, np.int64)]
    for gap in range(1, window + 1):
        same = owner[gap:] == owner[:-gap]
        coded.append(((items[:-gap] * n_items + items[gap:])[same]) * window + gap - 1)
    ordered = np.sort(np.concatenate(coded))
    pairs, first = np.unique(ordered // window, return_index=True)
    decayed = 1.0 / (ordered % window + 1)
    return pairs, np.add.reduceat(decayed, first) if len(first) else decayed
