"""The order of the data: a pure function of seed, epoch and global row.

The number of processes changes who gets a row, never which rows stand together in a batch.
"""

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True, kw_only=True)
class Windows:
    """Pieces of histories whose targets are learnt together: rows `first:last` of user `user` are predicted."""

    user: np.ndarray  # [W] int64
    first: np.ndarray  # [W] int64
    last: np.ndarray  # [W] int64


def cut_windows(offsets: np.ndarray, ends: np.ndarray, width: int, seed: int, epoch: int) -> Windows:
    """Cut every user's rows offsets[u]:ends[u] into windows of at most `width` rows.

    A user with n rows always gets ceil(n / width) windows, so that the number of windows is the same in every epoch;
    where they are cut depends on (seed, epoch, user), so that every row sees long and short pasts.
    """
    count = ends - offsets[:-1]
    pieces = np.maximum(-(-count // width), 0)
    user = np.repeat(np.arange(len(count)), pieces)
    number = np.arange(len(user)) - np.repeat(np.cumsum(pieces) - pieces, pieces)
    shortest = np.maximum(count - (pieces - 1) * width, 1)
    longest = np.minimum(count, width)
    head = shortest + (uniform(seed, epoch, np.arange(len(count))) * (longest - shortest + 1)).astype(np.int64)
    start, stop = offsets[:-1][user], ends[user]
    first = np.where(number == 0, start, start + head[user] + (number - 1) * width)
    last = np.minimum(start + head[user] + number * width, stop)
    return Windows(user=user, first=first, last=last)


def uniform(seed: int, epoch: int, rows: np.ndarray) -> np.ndarray:
    """[len(rows)] numbers in [0, 1) that depend on (seed, epoch, row) alone (SplitMix64, Steele et al. 2014)."""
    with np.errstate(over="ignore"):
        state = np.uint64(seed % 2**32) * np.uint64(0x9E3779B97F4A7C15) + np.uint64(epoch) * np.uint64(
            0xD1342543DE82EF95
        )
        x = rows.astype(np.uint64) * np.uint64(0xBF58476D1CE4E5B9) + state + np.uint64(0x94D049BB133111EB)
        x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        x = x ^ (x >> np.uint64(31))
    return (x >> np.uint64(11)).astype(np.float64) / 2.0**53


@dataclass(frozen=True, kw_only=True)
class Draw:
    """What one process makes one batch from."""

    epoch: int
    number: int
    """Of the batch in its epoch."""
    rows: np.ndarray
    """[B_local] int64 global rows."""
    part: int = 0
    """Which of the processes this one is."""
    parts: int = 1
    whole: np.ndarray | None = None
    """[B] int64 rows of all processes' parts; None: there is one process."""


@dataclass(frozen=True, kw_only=True)
class Alike:
    """Rows that are about alike things stand together in a batch."""

    leaf: np.ndarray
    """[rows] int64, one number for rows that are alike; -1: nothing is known of a row."""
    run: int
    """Rows of a leaf that a batch has at a time."""

    def shuffle(self, rows: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """The rows in runs of one leaf, which rows meet being another choice each time; what does not fill a run, or
        has no leaf, makes runs as it comes.
        """
        rows = rng.permutation(rows)
        rows = rows[np.argsort(self.leaf[rows], kind="stable")]
        leaf = self.leaf[rows]
        starts = np.flatnonzero(np.diff(leaf, prepend=-2))
        sizes = np.diff(np.append(starts, len(rows)))
        place, size = np.arange(len(rows)) - np.repeat(starts, sizes), np.repeat(sizes, sizes)
        whole = (place < size // self.run * self.run) & (leaf >= 0)
        runs = np.concatenate([rows[whole], rng.permutation(rows[~whole])])
        number = np.arange(len(runs)) // self.run
        return runs[np.argsort(rng.permutation(int(number[-1]) + 1)[number], kind="stable")] if len(runs) else runs


def split_alike(vectors: np.ndarray, largest: int) -> np.ndarray:
    """[n] int64 leaf of each row of `vectors` [n, D]: halved at the median along the direction of greatest variance,
    and again, until a leaf has at most `largest` rows.
    """
    leaf, open_leaves, done = np.zeros(len(vectors), dtype=np.int64), [np.arange(len(vectors))], 0
    while open_leaves:
        rows = open_leaves.pop()
        if len(rows) <= largest:
            leaf[rows], done = done, done + 1
            continue
        centred = vectors[rows].astype(np.float64) - vectors[rows].mean(0, dtype=np.float64)
        direction = np.linalg.eigh(centred.T @ centred)[1][:, -1]
        order = np.argsort(centred @ direction, kind="stable")
        open_leaves += [rows[order[len(rows) // 2 :]], rows[order[: len(rows) // 2]]]
    return leaf


def deal_batches(
    lengths: np.ndarray, groups: np.ndarray, *, batch_size: int, bucket: int, seed: int, epoch: int,
    alike: Alike | None = None,
) -> list[np.ndarray]:  # fmt: skip
    """All global batches of an epoch, in order; each is sorted by length, longest first.

    Rows are shuffled, then sorted by length inside buckets of `bucket` batches so that a batch holds rows of like
    length; with `alike` they stand in runs of rows that are alike instead. Rows of different groups (tasks) never share
    a batch. Which rows do not fill a batch is the shuffle's choice, another one in every epoch; a group that is smaller
    than a batch is one short batch.
    """
    rng, bucket = np.random.default_rng([seed, epoch, 1]), bucket if alike is None else 1
    batches: list[np.ndarray] = []
    for group in np.unique(groups):
        rows = np.flatnonzero(groups == group)
        rows = rng.permutation(rows) if alike is None else alike.shuffle(rows, rng)
        rows = rows[: max(len(rows) // batch_size, 1) * batch_size]
        for start in range(0, len(rows), batch_size * bucket):
            piece = rows[start : start + batch_size * bucket]
            piece = piece[np.argsort(-lengths[piece], kind="stable")]
            batches += [piece[at : at + batch_size] for at in range(0, len(piece), batch_size)]
    return [batches[number] for number in rng.permutation(len(batches))]


def deal_to_rank(batch: np.ndarray, rank: int, world: int) -> np.ndarray:
    """A rank's share of a global batch: every `world`-th row, so that the lengths balance."""
    return batch[rank::world]
