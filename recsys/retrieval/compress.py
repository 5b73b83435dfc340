"""Item vectors as bytes or bits: a fourth and a thirty-second of their size. What they propose is scored anew.

The full vectors may lie on disk: of each request, only those of a longer list of the nearest by the small codes are
read, and put in order by their exact scores.
"""

from dataclasses import dataclass
from typing import Protocol, Self

import numpy as np

_SCORES = 1 << 24
"""Scores that exist at one time."""
_BLOCK = 8192
"""Items whose bytes are widened at one time."""


class Codes(Protocol):
    """Small codes of N items."""

    @property
    def nbytes(self) -> int:
        """What they take."""
        ...

    def scores(self, users: np.ndarray) -> np.ndarray:
        """[B, D] float32 -> [B, N] float32 whose order is near that of the inner products."""
        ...


@dataclass(frozen=True, kw_only=True)
class ByteCodes:
    """A scalar quantiser: v_d = step_d * c_d, where step_d = max |v_d| / 127 over all items; users stay float32."""

    codes: np.ndarray  # [N, D] int8
    step: np.ndarray  # [D] float32

    @classmethod
    def of(cls, vectors: np.ndarray) -> Self:
        """Of [N, D] float32."""
        step = np.maximum(np.abs(vectors).max(axis=0), np.finfo(np.float32).tiny) / 127
        return cls(codes=np.rint(vectors / step).astype(np.int8), step=step.astype(np.float32))

    @property
    def nbytes(self) -> int:
        """Codes and steps."""
        return self.codes.nbytes + self.step.nbytes

    def scores(self, users: np.ndarray) -> np.ndarray:
        """(u * step) . c"""
        scaled, out = users * self.step, np.empty((len(users), len(self.codes)), dtype=np.float32)
        for start in range(0, len(self.codes), _BLOCK):
            block = self.codes[start : start + _BLOCK]
            out[:, start : start + _BLOCK] = scaled @ block.T.astype(np.float32)
        return out


@dataclass(frozen=True, kw_only=True)
class BitCodes:
    """One bit of each entry: whether it is above the mean over all items, and whether a user's is above 0. A score is
    the number of bits that agree.
    """

    bits: np.ndarray  # [N, ceil(D / 64)] uint64
    mean: np.ndarray  # [D] float32

    @classmethod
    def of(cls, vectors: np.ndarray) -> Self:
        """Of [N, D] float32."""
        mean = vectors.mean(axis=0)
        return cls(bits=_packed(vectors > mean), mean=mean)

    @property
    def nbytes(self) -> int:
        """Bits; the mean is not needed to search."""
        return self.bits.nbytes

    def scores(self, users: np.ndarray) -> np.ndarray:
        """D minus the Hamming distance."""
        asked, width = _packed(users > 0), len(self.mean)
        return np.stack([width - np.bitwise_count(self.bits ^ one).sum(axis=1, dtype=np.float32) for one in asked])


def _packed(bits: np.ndarray) -> np.ndarray:
    """[n, D] bool -> [n, ceil(D / 64)] uint64, the rest zero."""
    packed = np.packbits(bits, axis=1)
    return np.ascontiguousarray(np.pad(packed, ((0, 0), (0, -packed.shape[1] % 8)))).view(np.uint64)


def search_codes(
    codes: Codes, vectors: np.ndarray, users: np.ndarray, k: int, *, depth: int, seen: list[np.ndarray]
) -> tuple[np.ndarray, np.ndarray]:
    """The k best of the `depth` unseen items whose codes are nearest to each user.

    Args:
        codes: of all items.
        vectors: [N, D] float32, full; may be mapped from disk.
        users: [B, D] float32.
        k: items wanted.
        depth: items that are scored anew, at least k.
        seen: for each user the items that are left out.

    Returns:
        As `ItemIndex.search` gives them: items [B, k] int64, -1 where fewer are left, and exact scores [B, k] float32,
        there -inf; best first, equal scores to the smaller item.
    """
    items = np.full((len(users), k), -1, dtype=np.int64)
    scores = np.full((len(users), k), -np.inf, dtype=np.float32)
    depth = min(max(depth, k), len(vectors))
    size = max(1, _SCORES // len(vectors))
    for start in range(0, len(users), size):
        rows = range(start, min(start + size, len(users)))
        near = codes.scores(users[start : rows.stop])
        for row, user in enumerate(rows):
            near[row, seen[user]] = -np.inf
            first = np.argpartition(-near[row], depth - 1)[:depth]
            first = np.sort(first[near[row, first] > -np.inf])
            exact = (vectors[first] * users[user]).sum(axis=1)  # equal rows give equal sums, which a product need not
            order = np.argsort(-exact, kind="stable")[:k]
            items[user, : len(order)], scores[user, : len(order)] = first[order], exact[order]
    return items, scores
