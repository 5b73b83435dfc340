"""Two lists of candidates -> one: pure functions of arrays.

Letters: B queries, K length of a list, U candidates of a query in both lists together. A list holds rows of the items
table, best first, padded with -1; so does a union, in the order of the items table.
"""

import numpy as np

RRF_K = 60
"""The constant of reciprocal rank fusion, as its authors set it."""


def unite(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """[B, U] int64: the distinct items of two lists [B, K] and [B, K'], ascending, -1 at the end."""
    last = np.iinfo(np.int64).max
    both = np.sort(np.concatenate([one, other], axis=1).astype(np.int64), axis=1)
    repeated = np.zeros(both.shape, dtype=bool)
    repeated[:, 1:] = both[:, 1:] == both[:, :-1]
    united = np.sort(np.where(repeated | (both < 0), last, both), axis=1)
    width = max(int((united < last).sum(1).max(initial=0)), 1)
    return np.where(united == last, -1, united)[:, :width]


def reciprocal_rank(union: np.ndarray, *lists: np.ndarray) -> np.ndarray:
    """[B, U] float64: for each item of a union the sum over the lists that hold it of 1 / (60 + rank), rank from 1.

    Cormack, Clarke and Buettcher 2009. A list that does not hold it adds nothing; -inf at padding.
    """
    scores = sum((1 / (RRF_K + 1 + ranks(union, ranked)) for ranked in lists), np.zeros(union.shape))
    return np.where(union >= 0, scores, -np.inf)


def ranks(union: np.ndarray, ranked: np.ndarray) -> np.ndarray:
    """[B, U] float64 place of each item of a union in one of its lists [B, K], from 0; infinite where it is not."""
    found = np.full(union.shape, np.inf)
    for row, own in enumerate(ranked):
        items, real = own[own >= 0], union[row][union[row] >= 0]
        found[row, np.searchsorted(real, items)] = np.arange(len(items))
    return found


def shared_out(union: np.ndarray, first: np.ndarray, other: np.ndarray, places: int) -> np.ndarray:
    """[B, U] bool: the candidates of lists as long as `first` [B, K] in which `other` [B, K'] fills some places.

    The best of `first` have all places but `places`; the best of `other` that are not among them have those, and where
    it proposes too few, the rest of `first`.
    """
    length = first.shape[1]
    own, others = ranks(union, first), ranks(union, other)
    order = np.where(own < length - places, own, np.where(np.isfinite(others), length + others, 1e9 + own))
    return np.argsort(np.argsort(order, axis=1, kind="stable"), axis=1) < length


def weighted(union: np.ndarray, dense: np.ndarray, lexical: np.ndarray, weight: float) -> np.ndarray:
    """[B, U] float64: z(dense) + weight * z(lexical), each of mean 0 and deviation 1 over a query's real candidates.

    `dense` and `lexical` are [B, U] scores of *every* candidate, not only of those that the source proposed. Equal
    scores are all 0; -inf at padding.
    """
    real = union >= 0
    scores = standardise(dense, real) + weight * standardise(lexical, real)
    return np.where(real, scores, -np.inf)


def standardise(scores: np.ndarray, real: np.ndarray) -> np.ndarray:
    """[B, U] float64 scores of mean 0 and deviation 1 over the real entries of each row; 0 at the others."""
    count = np.maximum(real.sum(1, keepdims=True), 1)
    values = np.where(real, scores, 0).astype(np.float64)
    centred = np.where(real, values - values.sum(1, keepdims=True) / count, 0)
    spread = np.sqrt(np.square(centred).sum(1, keepdims=True) / count)
    return centred / np.maximum(spread, 1e-6)


def best_first(union: np.ndarray, scores: np.ndarray) -> np.ndarray:
    """[B, U] int64: each union's columns by falling score; equal scores to the smaller item, padding last."""
    return np.argsort(np.where(union >= 0, -scores, np.inf), axis=1, kind="stable")


def reciprocal_rank_of_first(order: np.ndarray, grades: np.ndarray) -> np.ndarray:
    """[B] float64: 1 / (1 + place of the first right candidate), 0 where none is; `grades` [B, U] above 0 are right."""
    right = np.take_along_axis(grades, order, 1) > 0
    return np.where(right.any(1), 1 / (1 + right.argmax(1)), 0.0)
