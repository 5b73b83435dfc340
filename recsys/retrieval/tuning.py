"""Catalogue, memory and wanted recall -> an index whose parameters are tuned against exact search, and how it does."""

import time
from bisect import bisect_left
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from recsys.retrieval.engine import FaissRows, Rows
from recsys.retrieval.exact import exact_top
from recsys.retrieval.index import ItemIndex, Shard
from recsys.retrieval.kinds import FLAT, IndexConfig, choose, weight
from recsys.shards import array_hash

_STEP = 1.15  # between two breadths that are tried
_MOST_CANDIDATES = 4096  # efSearch
_PLATEAU = 0.002  # recall won by twice the breadth, below which more is no help
_RESCORED = (1, 2, 4, 8)
_ROUNDS = 3  # fresh samples that may say no


@dataclass(frozen=True, kw_only=True)
class Report:
    """What is known of an index, as it stands beside it."""

    target: float
    """Recall that was asked for."""
    k: int
    recall: float
    """Mean share of the k nearest that are found, on queries that nothing was tuned on."""
    recall_error: float
    """Its standard error."""
    queries: str
    """Where the sample comes from: given, or items."""
    sample: int
    """Queries that it was measured on."""
    queries_per_second: float
    flat_queries_per_second: float
    """Of comparing every query with all items (`exact_top`), at the same time and with as many threads."""
    build_seconds: float
    memory: int
    """Bytes of the index, without the vectors that it scores anew by."""
    vectors: str
    """Hash of the item vectors."""
    fault: str = ""
    """One sentence where the target is not met."""


@dataclass(frozen=True, kw_only=True)
class Tuned:
    """An index and what is known of it."""

    rows: Rows
    report: Report

    @property
    def index(self) -> ItemIndex:
        """Whose row n is item n."""
        return ItemIndex([Shard(rows=self.rows)])

    def save(self, path: Path) -> None:
        """Write the index, and its settings and the report to a .json beside it."""
        self.index.save(path, **asdict(self.report))


@dataclass(frozen=True, kw_only=True)
class Sample:
    """Queries and what exact search finds for them."""

    queries: np.ndarray  # [S, D] float32
    right: np.ndarray  # [S, k] int64

    def __len__(self) -> int:
        return len(self.queries)

    def recalls(self, rows: Rows) -> np.ndarray:
        """[S] share of what is right that an index finds."""
        found = rows.search(self.queries, self.right.shape[1])[1]
        span = 1 + max(int(found.max(initial=0)), int(self.right.max(initial=0)))
        keys = np.arange(len(found))[:, None] * span
        return np.isin(keys + self.right, np.where(found >= 0, keys + found, -1)).mean(1)

    def join(self, other: "Sample") -> "Sample":
        """Both."""
        queries, right = zip((self.queries, self.right), (other.queries, other.right), strict=True)
        return Sample(queries=np.concatenate(queries), right=np.concatenate(right))


def tuned_index(vectors: np.ndarray, config: IndexConfig, queries: np.ndarray | None = None) -> Tuned:
    """Choose, build and tune an index.

    The least breadth whose recall on one sample of queries is a standard error above the target is confirmed on a
    second sample, and recall and speed are told of that one. Where it says no, it joins the first, and a third decides.

    Args:
        vectors: [N, D] float32, perhaps mapped from disk; row n is item n.
        config: what is asked for.
        queries: [R, D] vectors of requests to tune on; None: those of some items.

    Raises:
        InputError: vectors that are not finite, or no kind of index fits into the memory.
    """
    began, settings = time.perf_counter(), choose(len(vectors), vectors.shape[1], config)
    rows = ItemIndex.build(vectors, settings, config.seed).shards[0].rows
    seconds, samples = time.perf_counter() - began, _Samples(vectors, queries, config)
    sample, confirmed = samples.next(), True
    if isinstance(rows, FaissRows) and settings.kind != FLAT:
        rows, sample, confirmed = _tune(rows, vectors, sample, samples, config)
    recalls, speed = sample.recalls(rows), len(sample) / _seconds(lambda: rows.search(sample.queries, samples.k))
    report = Report(
        target=config.recall, k=config.k, recall=float(recalls.mean()), sample=len(sample),
        recall_error=float(recalls.std(ddof=1) / np.sqrt(len(sample))) if len(sample) > 1 else 0.0,
        queries="items" if queries is None else "given", queries_per_second=speed,
        flat_queries_per_second=samples.speed,
        build_seconds=seconds, memory=weight(settings, *vectors.shape), vectors=array_hash(vectors),
        fault=_fault(settings.kind, float(recalls.mean()), config, confirmed=confirmed),
    )  # fmt: skip
    return Tuned(rows=rows, report=report)


class _Samples:
    """Fresh queries, a sample at a time, with what exact search finds for them, and how fast."""

    def __init__(self, vectors: np.ndarray, queries: np.ndarray | None, config: IndexConfig) -> None:
        self.vectors, self.k = vectors, min(config.k, len(vectors))
        self.pool = vectors if queries is None else queries
        self.order = np.random.default_rng(config.seed).permutation(len(self.pool))
        self.size = max(min(config.sample, len(self.pool) // 2), 1)
        self.speed = 0.0  # queries a second

    def next(self) -> Sample:
        """So many that were not asked before; fewer, or none, where there are no more."""
        rows, self.order = np.sort(self.order[: self.size]), self.order[self.size :]
        asked = np.ascontiguousarray(self.pool[rows], dtype=np.float32)
        began = time.perf_counter()
        right = exact_top(self.vectors, asked, self.k)
        self.speed = len(asked) / (time.perf_counter() - began) if len(asked) else self.speed
        return Sample(queries=asked, right=right)


def _tune(
    rows: FaissRows, vectors: np.ndarray, known: Sample, samples: _Samples, config: IndexConfig
) -> tuple[FaissRows, Sample, bool]:
    """The index with its least sufficient breadth, a sample to measure it on, and whether that is a fresh one."""
    least = config.k if rows.settings.kind == "hnsw" else 1
    for left in reversed(range(_ROUNDS)):
        fresh = samples.next()
        best, reached = _least_breadth(rows, vectors, known, config.recall, least)
        if not len(fresh):
            return best, known, False
        if not reached or not left or fresh.recalls(best).mean() >= config.recall:
            break
        known, least = known.join(fresh), best.settings.breadth + 1
    return best, fresh, True


def _least_breadth(
    rows: FaissRows, vectors: np.ndarray, sample: Sample, target: float, least: int
) -> tuple[FaissRows, bool]:
    """With as little rescoring as will do, and whether anything does."""
    most = _MOST_CANDIDATES if rows.settings.kind == "hnsw" else rows.settings.lists
    for rescore in _RESCORED if rows.settings.kind in ("ivf_sq8", "ivf_pq") else (1,):

        def reaches(breadth: int, rescore: int = rescore) -> float:
            recalls = sample.recalls(rows.tuned(breadth, rescore, vectors))
            return float(recalls.mean() - recalls.std() / np.sqrt(len(recalls)))

        breadth, reached = least_enough(reaches, target, min(least, most), most)
        if reached:
            break
    return rows.tuned(breadth, rescore, vectors), reached


def least_enough(reaches: Callable[[int], float], target: float, least: int, most: int) -> tuple[int, bool]:
    """The least of `least`, ... `most`, in steps of 15 %, at which a rising function is at least `target`, and whether
    there is one; if not, the number from which on it hardly rises.
    """
    low, high, found = least, least, reaches(least)
    while found < target:
        if high == most:
            return high, False
        low, high, before = high, min(2 * high, most), found
        found = reaches(high)
        if found < target and found - before < _PLATEAU:
            return low, False
    count = np.ceil(np.log(high / low) / np.log(_STEP))
    steps = sorted({round(low * _STEP**step) for step in range(1, int(count))} - {low, high})
    at = bisect_left(steps, target, key=reaches)
    return ([*steps, high])[at], True


def _seconds(work: Callable[[], object]) -> float:
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def _fault(kind: str, recall: float, config: IndexConfig, *, confirmed: bool) -> str:
    """One sentence about a target that is not met, or not known to be."""
    if not confirmed:
        return "index: no query was left to confirm the recall that was tuned; give more queries than index.sample."
    if recall >= config.recall:
        return ""
    remedy = "raise index.memory, or set index.kind: flat"
    return f"index: {kind} finds {recall:.3f} of the {config.k} nearest, expected {config.recall}; {remedy}."
