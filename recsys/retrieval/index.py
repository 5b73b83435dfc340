"""Vectors -> nearest items by inner product, with FAISS; the one file that imports it."""

from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np

from recsys.errors import InputError
from recsys.shards import write_atomic


def _import_faiss() -> Any:
    """faiss, from the extra `cpu` or `gpu`. Both together overwrite each other's files, so that is refused."""
    if _is_installed("faiss-cpu") and _is_installed("faiss-gpu"):
        raise InputError(
            "faiss-cpu and faiss-gpu are both installed and overwrite each other's files. "
            "Remedy: pip uninstall faiss-cpu faiss-gpu, then pip install 'recsys[cpu]' or 'recsys[gpu]'."
        )
    try:
        import faiss
    except ImportError as error:
        remedy = "pip install 'recsys[cpu]', or 'recsys[gpu]' on a machine with CUDA"
        raise InputError(f"faiss is not installed. Remedy: {remedy}.") from error
    return faiss


def _is_installed(name: str) -> bool:
    try:
        version(name)
    except PackageNotFoundError:
        return False
    return True


faiss = _import_faiss()


def set_search_threads(count: int) -> None:
    """CPU threads of every search of this process."""
    faiss.omp_set_num_threads(count)


class ItemIndex:
    """Exact inner-product search over item vectors; row n is item n."""

    def __init__(self, index: Any) -> None:
        self.index = index

    @classmethod
    def build(cls, vectors: np.ndarray) -> "ItemIndex":
        """Index [N, D] float32 vectors."""
        index = faiss.IndexFlatIP(vectors.shape[1])
        index.add(np.ascontiguousarray(vectors, dtype=np.float32))
        return cls(index)

    @classmethod
    def load(cls, path: Path) -> "ItemIndex":
        """Read what `save` wrote. Raises InputError if it is not there or damaged."""
        try:
            return cls(faiss.read_index(str(path)))
        except RuntimeError as error:
            raise InputError(f"{path} is no readable FAISS index; remove it and build it again.") from error

    def save(self, path: Path) -> None:
        """Write to one file."""
        write_atomic(path, faiss.serialize_index(self.index).tobytes())

    def __len__(self) -> int:
        return self.index.ntotal

    def search(self, users: np.ndarray, k: int, seen: list[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
        """The k best items that each user has not seen.

        Args:
            users: [B, D] float32.
            k: items wanted.
            seen: for each user the distinct items that are left out.

        Returns:
            items [B, k] int64, -1 where fewer are left, and scores [B, k] float32, there -inf; best first, equal scores
            to the smaller item. A user who has seen much is searched more deeply, so that no list is short.
        """
        items = np.full((len(users), k), -1, dtype=np.int64)
        scores = np.full((len(users), k), -np.inf, dtype=np.float32)
        wanted = k + 1 + np.array([len(one) for one in seen], dtype=np.int64)
        depth = np.minimum(2 ** np.ceil(np.log2(wanted)).astype(np.int64), len(self))
        while len(open_rows := np.flatnonzero(depth)):
            size = int(depth[open_rows].min())
            rows = np.flatnonzero(depth == size)
            values, found = self.index.search(np.ascontiguousarray(users[rows], dtype=np.float32), size)
            for row, value, item in zip(rows, values, found, strict=True):
                kept, best = _best(value, item, seen[row], k)
                items[row, : len(kept)], scores[row, : len(kept)] = kept, best
                ended = size == len(self) or (len(best) == k and best[-1] > value[-1])
                depth[row] = 0 if ended else min(2 * size, len(self))  # equal scores may go on beyond what was searched
        return items, scores


def _best(scores: np.ndarray, items: np.ndarray, seen: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    """The first k unseen items and their scores."""
    left = (items >= 0) & ~np.isin(items, seen)
    order = np.lexsort((items[left], -scores[left]))[:k]
    return items[left][order], scores[left][order]
