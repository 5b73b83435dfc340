"""Which of many (row, item) pairs were seen, and the first unseen ones of each row; all rows at one time."""

from collections.abc import Sequence

import numpy as np

_TABLE = 1 << 22  # flags of a pre-test, by the last bits of a key


class Seen:
    """What each of B rows leaves out, as sorted keys row * span + item.

    A table of flags by the keys' last bits says of most pairs at once that they are not seen; only the others are
    looked up.
    """

    def __init__(self, seen: Sequence[np.ndarray], last: int) -> None:
        """`seen` are B arrays of items; no item that is asked about is larger than `last`."""
        self.count = np.array([len(one) for one in seen], dtype=np.int64)
        items = np.concatenate([np.zeros(0, dtype=np.int64), *seen]).astype(np.int64)
        self.span = 1 + max(last, int(items.max(initial=0)))
        self.keys = np.sort(np.repeat(np.arange(len(seen)), self.count) * self.span + items)
        self.flags = np.zeros(_TABLE, dtype=np.bool_)
        self.flags[self.keys & (_TABLE - 1)] = True

    def holds(self, rows: np.ndarray, items: np.ndarray) -> np.ndarray:
        """[b, W] bool: whether row rows[n] has seen items[n, m]; items [b, W] int64."""
        keys = rows[:, None] * self.span + items
        found = self.flags[keys & (_TABLE - 1)]
        some = np.flatnonzero(found)
        asked = keys.reshape(-1)[some]
        at = np.minimum(np.searchsorted(self.keys, asked), len(self.keys) - 1)
        found.reshape(-1)[some] = self.keys[at] == asked
        return found


def first_kept(items: np.ndarray, scores: np.ndarray, kept: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    """The first k kept ones of each row.

    Args:
        items, scores: [b, W].
        kept: [b, W] bool.
        k: how many.

    Returns:
        items [b, k], -1 where there are fewer, and scores [b, k], there -inf.
    """
    place = kept.cumsum(1, dtype=np.int32)
    kept = kept & (place <= k)
    if len(place) and place[:, -1].min() >= k:
        return items[kept].reshape(-1, k), scores[kept].reshape(-1, k)
    best = np.full((len(items), k), -1, dtype=items.dtype), np.full((len(items), k), -np.inf, dtype=scores.dtype)
    filled = np.arange(k) < np.minimum(place[:, -1:], k)
    best[0][filled], best[1][filled] = items[kept], scores[kept]
    return best
