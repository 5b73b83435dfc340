"""How diverse a list is in itself, and how near its mix comes to the user's own.

Letters: B lists of L places, padded with -1; N items; G groups or categories; D width. One float64 value a list, NaN
where it has none.
"""

import numpy as np


def intra_list_distance(items: np.ndarray, vectors: np.ndarray) -> np.ndarray:
    """Mean over all pairs i < j of a list of 1 - cos(i, j) (Ziegler et al. 2005, with the cosine).

    By |sum of the vectors|^2 = n + 2 sum of the pairs' cosines. NaN for fewer than two items.

    Args:
        items: [B, L] int64.
        vectors: [N, D] unit vectors.
    """
    listed = items >= 0
    counts = listed.sum(1).astype(np.float64)
    total = np.where(listed[..., None], vectors[items], 0).sum(1, dtype=np.float64)  # [B, D]
    pairs = counts * (counts - 1) / 2
    cosines = ((total**2).sum(1) - counts) / 2
    return np.where(pairs > 0, 1 - cosines / np.maximum(pairs, 1), np.nan)


def group_share(items: np.ndarray, member: np.ndarray) -> np.ndarray:
    """Share of a list's items that belong to a group; NaN for an empty list.

    Args:
        items: [B, L] int64.
        member: [N] bool.
    """
    listed = items >= 0
    counts = listed.sum(1)
    return np.where(counts > 0, (member[items] & listed).sum(1) / np.maximum(counts, 1), np.nan)


def self_information(items: np.ndarray, popularity: np.ndarray) -> np.ndarray:
    """Mean over a list of -log2((popularity + 1) / (sum of popularity + N)): `long_tail.novelty` of each list."""
    bits = np.log2(popularity.sum() + len(popularity)) - np.log2(popularity.astype(np.float64) + 1)
    return _mean_of(items, bits)


def calibration_divergence(
    items: np.ndarray, mixes: np.ndarray, own: np.ndarray, smoothing: float = 0.01
) -> np.ndarray:
    """KL(own || .99 q + .01 own) in nats, q the mean mix of the list's items (Steck 2018, equation 4); NaN for none.

    0: the list has the user's own mix.

    Args:
        items: [B, L] int64.
        mixes: [N, G] each item's mix over the categories; sums to 1.
        own: [B, G] each user's mix; sums to 1.
        smoothing: share of `own` that is put into the list's, so that no logarithm is infinite.
    """
    listed = (items >= 0)[..., None]
    counts = listed.sum(1)
    q = np.where(listed, mixes[items], 0).sum(1, dtype=np.float64) / np.maximum(counts, 1)
    smooth = (1 - smoothing) * q + smoothing * own
    terms = own * np.log(np.where(own > 0, own, 1) / np.where(own > 0, smooth, 1))
    return np.where(counts[:, 0] > 0, terms.sum(1), np.nan)


def _mean_of(items: np.ndarray, values: np.ndarray) -> np.ndarray:
    listed = items >= 0
    counts = listed.sum(1)
    return np.where(counts > 0, np.where(listed, values[items], 0).sum(1) / np.maximum(counts, 1), np.nan)
