"""Exact inner-product search with torch: the reference for any index, and what is used where FAISS is not installed."""

from dataclasses import dataclass

import numpy as np
import torch

_BLOCK = 1 << 16  # items scored at one time
_QUERIES = 256  # that are scored at one time: a block of scores is then 64 MiB


@dataclass(frozen=True, kw_only=True)
class ExactRows:
    """Item vectors that every query is compared with."""

    vectors: np.ndarray  # [N, D] float32, perhaps mapped from disk
    exact: bool = True

    def __len__(self) -> int:
        return len(self.vectors)

    def search(
        self, users: np.ndarray, depth: int, allowed: np.ndarray | None = None, *, thorough: bool = True
    ) -> tuple[np.ndarray, np.ndarray]:
        """The best rows of each user; a search by full comparison is always thorough.

        Args:
            users: [B, D] float32.
            depth: rows wanted, at most N.
            allowed: [N] bool, the rows that may be found; None: all.
            thorough: of no meaning here.

        Returns:
            scores [B, depth] float32, best first, and rows [B, depth] int64; -inf and -1 where fewer are allowed.
        """
        found = [
            _search(self.vectors, part, depth, allowed)
            for part in np.split(users, range(_QUERIES, len(users), _QUERIES))
        ]
        return np.concatenate([scores for scores, _ in found]), np.concatenate([rows for _, rows in found])


def _search(
    vectors: np.ndarray, users: np.ndarray, depth: int, allowed: np.ndarray | None
) -> tuple[np.ndarray, np.ndarray]:
    asked = torch.from_numpy(np.ascontiguousarray(users, dtype=np.float32))
    scores = torch.full((len(users), depth), -torch.inf)
    rows = torch.full((len(users), depth), -1)
    for start in range(0, len(vectors), _BLOCK):
        block = torch.from_numpy(np.array(vectors[start : start + _BLOCK], dtype=np.float32))
        own = asked @ block.T
        if allowed is not None:
            own.masked_fill_(torch.from_numpy(~allowed[start : start + _BLOCK]), -torch.inf)
        best, at = own.topk(min(depth, own.shape[1]), dim=1)
        scores, order = torch.cat([scores, best], 1).topk(depth, dim=1)
        rows = torch.cat([rows, at + start], 1).gather(1, order)
    return scores.numpy(), rows.masked_fill(scores == -torch.inf, -1).numpy()


def exact_top(vectors: np.ndarray, users: np.ndarray, k: int) -> np.ndarray:
    """[B, k] int64: the items with the largest products, what recall is measured against."""
    return ExactRows(vectors=vectors).search(users, min(k, len(vectors)))[1]
