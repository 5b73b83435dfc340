"""Vectors -> nearest items by inner product: one index, or several shards that are searched as one."""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from recsys.errors import InputError
from recsys.retrieval.engine import FaissRows, Rows, build_rows, faiss_version, read_rows, set_search_threads
from recsys.retrieval.kinds import Settings
from recsys.retrieval.unseen import Seen, first_kept
from recsys.shards import array_hash, file_hash, write_atomic

__all__ = ["ItemIndex", "Shard", "needs_rebuild", "read_record", "set_search_threads"]

_SELECT = 0.25  # share of allowed items below which the index itself leaves the others out
_MOST_CHANGED = 0.1


@dataclass(frozen=True, kw_only=True)
class Shard:
    """Rows of an index and the items that they are."""

    rows: Rows
    items: np.ndarray | None = None  # [rows] int32 item of each row, -1 for a tombstone; None: row n is item n

    def search(
        self, users: np.ndarray, depth: int, allowed: np.ndarray | None, *, thorough: bool
    ) -> tuple[np.ndarray, np.ndarray]:
        """Scores and items [B, depth], best first, -1 where there is none. `allowed` [N] bool of items."""
        chosen = None if allowed is None else allowed if self.items is None else _at(allowed, self.items, False)
        scores, rows = self.rows.search(users, min(depth, len(self.rows)), chosen, thorough=thorough)
        return scores, rows if self.items is None else _at(self.items, rows, -1)

    def living(self) -> int:
        """Items that are no tombstone."""
        return len(self.rows) if self.items is None else int((self.items >= 0).sum())

    def last(self) -> int:
        """The largest item, -1 for none."""
        return len(self.rows) - 1 if self.items is None else int(self.items.max(initial=-1))


class ItemIndex:
    """Inner-product search over item vectors."""

    def __init__(self, shards: Sequence[Shard]) -> None:
        """Each item is a living row of one shard at most."""
        self.shards = list(shards)
        self.rows = sum(len(one.rows) for one in shards)
        self.size = sum(one.living() for one in shards)
        self.last = max((one.last() for one in shards), default=-1)
        self.exact = all(one.rows.exact for one in shards)

    @classmethod
    def build(cls, vectors: np.ndarray, settings: Settings | None = None, seed: int = 0) -> "ItemIndex":
        """Index [N, D] float32 vectors; row n is item n.

        Args:
            vectors: [N, D], perhaps mapped from disk.
            settings: how; None: every query is compared with all items.
            seed: of what centroids are learnt from, and of their start.
        """
        wrong = _first_broken(vectors)
        if wrong is not None:
            raise InputError(f"The vector of item {wrong} holds NaN or infinity; expected finite numbers: embed anew.")
        return cls([Shard(rows=build_rows(vectors, settings or Settings(), seed))])

    @classmethod
    def load(cls, path: Path, vectors: np.ndarray | None = None) -> "ItemIndex":
        """Map what `save` wrote from disk. Raises InputError if it is not there or damaged.

        Args:
            path: of the index.
            vectors: [N, D] of the items, for an index that scores its candidates anew. Others than it was built of are
                refused.
        """
        fault = f"{path} is no readable FAISS index; remove it and build it again."
        said = read_record(path)
        if said is None or not path.is_file() or said.get("file") != _file(path):
            raise InputError(fault)
        if vectors is not None and said.get("vectors", "") not in ("", array_hash(vectors)):
            raise InputError(f"{path} was built of other item vectors than those beside it; build it again.")
        try:
            return cls([Shard(rows=read_rows(path, Settings(**said["settings"]), vectors))])
        except (RuntimeError, KeyError, TypeError) as error:
            raise InputError(fault) from error

    def patched(self, places: np.ndarray, delta: np.ndarray, items: np.ndarray) -> "ItemIndex":
        """This index of one shard after changes, without building it afresh; see `needs_rebuild`.

        Args:
            places: [rows] int32, the item that each row is now; -1 for one that was removed or changed.
            delta: [M, D] float32 vectors of what was added or changed; these are all compared.
            items: [M] int32, their items.
        """
        base, more = Shard(rows=self.shards[0].rows, items=places), ItemIndex.build(delta).shards[0]
        return ItemIndex([base, Shard(rows=more.rows, items=items)] if len(delta) else [base])

    def save(self, path: Path, **facts: Any) -> None:
        """Write an index of one shard to one file, and what it is, with `facts`, to a .json beside it."""
        rows = self.shards[0].rows
        if len(self.shards) > 1 or self.shards[0].items is not None or not isinstance(rows, FaissRows):
            raise InputError(
                "An index of several shards, or of torch, is not written; write the vectors it is made of."
            )
        rows.save(path)
        said = {"settings": asdict(rows.settings), "items": len(self), "width": rows.index.d, "faiss": faiss_version()}
        write_atomic(_beside(path), json.dumps({**said, "file": _file(path), **facts}, indent=1))

    def __len__(self) -> int:
        return self.size

    def search(
        self, users: np.ndarray, k: int, seen: Sequence[np.ndarray], allowed: np.ndarray | None = None
    ) -> tuple[np.ndarray, np.ndarray]:
        """The k best items that each user has not seen.

        Args:
            users: [B, D] float32.
            k: items wanted.
            seen: for each user the distinct items that are left out.
            allowed: [N] bool, the items that may be listed for these users; None: all.

        Returns:
            items [B, k] int64, -1 where fewer are left, and scores [B, k] float32, there -inf; best first, equal scores
            to the smaller item. A user who has seen much is searched more deeply, so that no list is short; where an
            index that guesses finds too few, all items are compared.
        """
        search = _Search(self, np.ascontiguousarray(users, dtype=np.float32), k, seen, allowed)
        short = search.fill(np.arange(len(users)), thorough=self.exact)
        if not self.exact:
            search.fill(short, thorough=True)
        return search.items, search.scores

    def nearest(
        self, users: np.ndarray, depth: int, allowed: np.ndarray | None, *, thorough: bool
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """The nearest of all shards, with tombstones among them as -1.

        Returns:
            scores [B, W] float32 and items [B, W] int64, best first, equal scores to the smaller item, and [B] float32:
            what was not returned scores this at most.
        """
        found = [one.search(users, depth, allowed, thorough=thorough) for one in self.shards]
        ends = [
            np.where(len(one.rows) <= depth, -np.inf, scores[:, -1])
            for one, (scores, _) in zip(self.shards, found, strict=True)
        ]
        scores, items = (np.concatenate(part, axis=1) for part in zip(*found, strict=True))
        if len(found) > 1:
            order = np.argsort(-scores, axis=1)
            scores, items = (np.take_along_axis(part, order, 1) for part in (scores, items))
        rows = np.flatnonzero((scores[:, 1:] == scores[:, :-1]).any(1))  # equal ones stand there by chance
        if len(rows):
            order = np.lexsort((items[rows], -scores[rows]))
            scores[rows], items[rows] = (np.take_along_axis(part[rows], order, 1) for part in (scores, items))
        return scores, items, np.max(ends, axis=0)


class _Search:
    """One call of `ItemIndex.search`, and what is found so far."""

    def __init__(
        self, index: ItemIndex, users: np.ndarray, k: int, seen: Sequence[np.ndarray], allowed: np.ndarray | None
    ) -> None:
        self.index, self.users, self.k, self.allowed = index, users, k, allowed
        self.items = np.full((len(users), k), -1, dtype=np.int64)
        self.scores = np.full((len(users), k), -np.inf, dtype=np.float32)
        self.seen = Seen(seen, index.last)
        share = 1.0 if allowed is None else float(allowed.mean())
        self.selects = share < _SELECT
        self.kept = index.size / max(index.rows, 1) * (1.0 if self.selects else share)  # of what a search returns
        self.total = min(int(allowed.sum()), index.rows) if self.selects and allowed is not None else index.rows

    def fill(self, rows: np.ndarray, *, thorough: bool) -> np.ndarray:
        """Lists of some rows, searched deeper until they are full; returns the rows whose lists are not."""
        depth = np.zeros(len(self.users), dtype=np.int64)
        depth[rows] = self._first_depth(rows)
        while len(left := np.flatnonzero(depth)):
            size = int(depth[left].min())
            group = np.flatnonzero(depth == size)
            ended = self._try(group, size, thorough)
            depth[group] = np.where(ended, 0, min(2 * size, self.total))
        return rows[self.items[rows, -1] < 0]

    def _first_depth(self, rows: np.ndarray) -> np.ndarray:
        """So many that all that was seen may be among them, in a few sizes: a quarter of the power of two below."""
        wanted = (self.k + 1 + self.seen.count[rows]) / max(self.kept, _SELECT)
        step = np.maximum(2.0 ** (np.floor(np.log2(wanted)) - 2), 1)
        return np.minimum(np.ceil(wanted / step) * step, self.total).astype(np.int64)

    def _try(self, group: np.ndarray, size: int, thorough: bool) -> np.ndarray:
        """Search `group` for `size` items each; [group] bool: which rows are done."""
        allowed = self.allowed if self.selects else None
        scores, items, end = self.index.nearest(self.users[group], size, allowed, thorough=thorough)
        kept = (items >= 0) & ~self.seen.holds(group, items)
        if self.allowed is not None:
            kept &= self.allowed[items]
        self.items[group], self.scores[group] = best, values = first_kept(items, scores, kept, self.k)
        full, all_compared = best[:, -1] >= 0, np.full(len(group), size >= self.total)
        if thorough:  # equal scores may go on beyond what was searched
            return all_compared | (full & (values[:, -1] > end))
        return all_compared | full | np.isneginf(scores[:, -1])  # of the lists or the graph, nothing is left


def read_record(path: Path) -> dict[str, Any] | None:
    """What stands beside an index: its settings, items and width, the hash of its bytes and, if it was tuned, the hash
    of the vectors and the report. None if nothing does.
    """
    try:
        found = json.loads(_beside(path).read_text())
    except (OSError, ValueError):
        return None
    return found if isinstance(found, dict) else None


def needs_rebuild(changed: int, total: int) -> bool:
    """Whether so many items of the base index were added, changed or removed that it is better built afresh."""
    return changed > _MOST_CHANGED * total


def _at(values: np.ndarray, places: np.ndarray, missing: Any) -> np.ndarray:
    """values[places], and `missing` where a place is negative."""
    return np.where(places >= 0, values[places], missing)


def _first_broken(vectors: np.ndarray, block: int = 1 << 16) -> int | None:
    """The first row with a number that is not finite."""
    for start in range(0, len(vectors), block):
        wrong = ~np.isfinite(vectors[start : start + block]).all(1)
        if wrong.any():
            return start + int(wrong.argmax())
    return None


def _file(path: Path) -> dict[str, Any]:
    return {"bytes": path.stat().st_size, "hash": file_hash(path)}


def _beside(path: Path) -> Path:
    return path.with_suffix(".json")
