"""Global rows -> batches for the retriever: next-item windows and query-to-item pairs."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch

from recsys.batch import Batch, ItemBatch, RetrieverBatch, TextBatch, UserBatch
from recsys.data.prepare import Prepared, Queries, seen_order
from recsys.data.sampling import Draw, cut_windows, uniform
from recsys.data.split import TRAIN
from recsys.errors import InputError

ReadTexts = Callable[[np.ndarray], TextBatch]


class Rows(Protocol):
    """What a data module deals: global rows with a length and a group, and how a draw of them becomes a batch."""

    def lengths(self, epoch: int) -> np.ndarray:
        """[rows] work of each global row, in tokens or entries."""
        ...

    def groups(self) -> np.ndarray:
        """[rows] task of each row; a batch holds one task."""
        ...

    def assemble(self, draw: Draw) -> Batch:
        """Make the batch."""
        ...


@dataclass(frozen=True, kw_only=True)
class Texts:
    """How the texts of items or queries reach a batch: tokens for a trained encoder, or vectors of a frozen one."""

    tokens: ReadTexts | None = None
    vectors: np.ndarray | None = None  # [N, W]

    def read(self, rows: np.ndarray) -> tuple[TextBatch | None, torch.Tensor | None]:
        """Tokens and vectors of some rows; at most one of them is there."""
        if self.vectors is not None:
            return None, torch.from_numpy(np.asarray(self.vectors[rows], dtype=np.float32))
        return (self.tokens(rows) if self.tokens else None), None


class Features:
    """Reads items and users of a prepared data set as parts of a batch."""

    def __init__(self, data: Prepared, items: Texts, queries: Texts, *, max_items: int, searches: bool = False) -> None:
        self.data, self.item_texts, self.query_texts, self.max_items = data, items, queries, max_items
        self.searches = _Searches(data.queries) if searches and data.queries is not None else None

    def items(self, rows: np.ndarray) -> ItemBatch:
        """The content of items, one row each."""
        catalogue = self.data.catalogue
        tokens, vectors = self.item_texts.read(rows)
        return ItemBatch(
            index=torch.from_numpy(catalogue.index[rows]),
            text=tokens,
            text_vector=vectors,
            category=torch.from_numpy(catalogue.category[rows]) if catalogue.category.shape[1] else None,
            number=torch.from_numpy(catalogue.number[rows]) if catalogue.number.shape[1] else None,
        )

    def catalogue(self) -> ItemBatch:
        """Every item."""
        return self.items(np.arange(len(self.data.catalogue)))

    def users(self, pasts: list["Past"], users: np.ndarray, queries: np.ndarray, local: "Local") -> UserBatch:
        """The users' side of a batch.

        Args:
            pasts: B histories.
            users: [B] rows of the users table, -1 for nobody known.
            queries: [B] rows of the queries table, -1 for none.
            local: where items stand in the batch.
        """
        length = max((len(past.item) for past in pasts), default=0)
        length = -(-length // 8) * 8
        history = np.zeros((len(pasts), length), dtype=np.int64)
        mask = np.zeros((len(pasts), length), dtype=bool)
        position = np.zeros((len(pasts), length), dtype=np.int64)
        event = np.zeros((len(pasts), length), dtype=np.int64)
        wanted = np.concatenate([queries[queries >= 0], *[past.query[past.query >= 0] for past in pasts]])
        texts = np.unique(wanted)
        search = len(self.data.codes.event) + 1
        for number, past in enumerate(pasts):
            size = len(past.item)
            is_item = past.item >= 0
            history[number, :size] = np.where(is_item, local.find(past.item), local.size + np.searchsorted(texts, past.query))
            mask[number, :size] = True
            position[number, :size] = past.position
            position[number, size:] = past.position[-1] + 1 if size else 0
            event[number, :size] = np.where(is_item, past.event, search)
        tokens, vectors = self.query_texts.read(texts) if len(texts) else (None, None)
        return UserBatch(
            history=torch.from_numpy(history),
            history_mask=torch.from_numpy(mask),
            position=torch.from_numpy(position),
            event=torch.from_numpy(event) if self.data.codes.event else None,
            profile=torch.from_numpy(_rows_or_zero(self.data.profile, users)) if self.data.profile.shape[1] else None,
            profile_number=torch.from_numpy(_rows_or_nan(self.data.profile_number, users))
            if self.data.profile_number.shape[1]
            else None,
            context=self._context(pasts, length),
            query=torch.from_numpy(np.where(queries >= 0, np.searchsorted(texts, queries), -1)) if len(texts) else None,
            query_text=tokens,
            query_vector=vectors,
        )

    def _context(self, pasts: list["Past"], length: int) -> torch.Tensor | None:
        columns = len(self.data.codes.context)
        if not columns:
            return None
        out = np.zeros((len(pasts), length + 1, columns), dtype=np.int64)
        for number, past in enumerate(pasts):
            out[number, : len(past.next_context)] = past.next_context
        return torch.from_numpy(out)

    def past(self, user: int, first: int, last: int, end: float, keep: np.ndarray | None = None) -> "Past":
        """Rows first:last of the layout and the user's searches between them and the order value `end`, oldest first."""
        histories = self.data.histories
        assert histories is not None
        rows = np.arange(first, last) if keep is None else np.arange(first, last)[keep]
        past = Past(
            item=histories.item[rows].astype(np.int64),
            query=np.full(len(rows), -1, dtype=np.int64),
            event=histories.event[rows].astype(np.int64),
            position=histories.position[rows].astype(np.int64),
            order=histories.order[rows],
            next_context=np.zeros((len(rows) + 1, len(self.data.codes.context)), dtype=np.int64),
        )
        if self.searches is None:
            return past
        since = histories.order[first] if first > histories.offsets[user] and last > first else -np.inf
        return past.merge(*self.searches.between(user, since, end))

    def latest(self, user: int, end: int, before: float) -> "Past":
        """The latest `max_items` entries of a user before row `end` of the layout (and before that order value)."""
        histories = self.data.histories
        if histories is None or user < 0:
            return Past.empty(len(self.data.codes.context))
        first = max(int(histories.offsets[user]), end - self.max_items)
        return self.past(user, first, end, before).last(self.max_items)


@dataclass(frozen=True, kw_only=True)
class Past:
    """Entries of one history, oldest first. Exactly one of item and query is >= 0."""

    item: np.ndarray  # [H] int64
    query: np.ndarray  # [H] int64
    event: np.ndarray  # [H] int64
    position: np.ndarray  # [H] int64
    order: np.ndarray  # [H] float64
    next_context: np.ndarray  # [H + 1, X] int64, the moment of the event after each entry

    @classmethod
    def empty(cls, contexts: int) -> "Past":
        """Nobody's history."""
        none = np.zeros(0, dtype=np.int64)
        moment = np.zeros((1, contexts), dtype=np.int64)
        return cls(item=none, query=none, event=none, position=none, order=none.astype(np.float64), next_context=moment)

    def merge(self, queries: np.ndarray, order: np.ndarray) -> "Past":
        """The same with searches at their place (before an event of the same order value)."""
        if not len(queries):
            return self
        rank = np.argsort(np.concatenate([order, self.order]), kind="stable")
        none = np.full(len(queries), -1, dtype=np.int64)
        return Past(
            item=np.concatenate([none, self.item])[rank],
            query=np.concatenate([queries, self.query])[rank],
            event=np.concatenate([none * 0, self.event])[rank],
            position=np.arange(len(rank)),
            order=np.concatenate([order, self.order])[rank],
            next_context=np.zeros((len(rank) + 1, self.next_context.shape[1]), dtype=np.int64),
        )

    def last(self, count: int) -> "Past":
        """The latest `count` entries."""
        if len(self.item) <= count:
            return self
        cut = {name: getattr(self, name)[-count:] for name in ("item", "query", "event", "position", "order")}
        return Past(**cut, next_context=self.next_context[-count - 1 :])

    def at(self, context: np.ndarray) -> "Past":
        """The same, asked at a moment with these context codes [X]."""
        moments = self.next_context.copy()
        moments[len(self.item)] = context
        return Past(**{**self.__dict__, "next_context": moments})


class Local:
    """Where items stand in a batch: all items in table order, or a sorted set of distinct ones."""

    def __init__(self, items: np.ndarray | None, total: int) -> None:
        self.items = items
        self.size = total if items is None else len(items)

    def find(self, rows: np.ndarray) -> np.ndarray:
        """Local rows of items that are there (others give a meaningless row)."""
        return rows if self.items is None else np.minimum(np.searchsorted(self.items, rows), self.size - 1)

    def holds(self, rows: np.ndarray) -> np.ndarray:
        """Which of the items are there."""
        return rows >= 0 if self.items is None else self.items[self.find(rows)] == rows


class _Searches:
    """Each user's train searches in time order."""

    def __init__(self, queries: Queries) -> None:
        known = np.flatnonzero((queries.user >= 0) & ~np.isnan(queries.order))
        rank = np.lexsort((queries.order[known], queries.user[known]))
        self.query = known[rank]
        self.user, self.order = queries.user[self.query], queries.order[self.query]

    def between(self, user: int, since: float, end: float) -> tuple[np.ndarray, np.ndarray]:
        """Queries of `user` with since <= order < end, and their order values."""
        first, last = np.searchsorted(self.user, [user, user + 1])
        span = slice(first + np.searchsorted(self.order[first:last], since), first + np.searchsorted(self.order[first:last], end))
        return self.query[span], self.order[span]


@dataclass(frozen=True, kw_only=True)
class NegativesConfig:
    """Which items stand against the positive."""

    kind: str = "all"
    """all: every item of the catalogue. batch: the items of the batch and `random` more."""
    random: int = 1024
    """Items drawn uniformly from the catalogue for every batch (kind batch)."""
    log_q: bool = True
    """Correct for popular items standing in the batch more often (kind batch)."""

    def __post_init__(self) -> None:
        if self.kind not in ("all", "batch"):
            raise InputError(f"negatives.kind is {self.kind!r}; expected 'all' or 'batch'.")


class RetrieverRows:
    """Training rows of the retriever: windows of histories first, then (query, relevant items) pairs."""

    def __init__(
        self, features: Features, *, tasks: list[str], negatives: NegativesConfig, history_dropout: float, batch_size: int, seed: int
    ) -> None:
        self.features, self.negatives, self.seed = features, negatives, seed
        self.history_dropout, self.batch_size = history_dropout, batch_size
        data = features.data
        self.total = len(data.catalogue)
        self.popularity = data.popularity() / max(int(data.popularity().sum()), 1)
        self.ends = _train_ends(data) if "next_item" in tasks else None
        self.queries = _train_queries(data) if "query_to_item" in tasks else np.zeros(0, dtype=np.int64)
        self.window_count = 0 if self.ends is None else len(self._windows(0).user)
        if not self.window_count + len(self.queries):
            raise InputError(f"Nothing to train on for tasks {tasks}: no train interaction and no train query with a relevant item.")

    def _windows(self, epoch: int):  # noqa: ANN202
        histories = self.features.data.histories
        assert histories is not None and self.ends is not None
        return cut_windows(histories.offsets, self.ends, self.features.max_items, self.seed, epoch)

    def lengths(self, epoch: int) -> np.ndarray:
        """Entries of a window; characters of a query."""
        queries = self.features.data.queries
        texts = np.array([len(queries.texts[query]) for query in self.queries] if queries else [], dtype=np.int64)
        if not self.window_count:
            return texts
        windows = self._windows(epoch)
        return np.concatenate([windows.last - windows.first, texts])

    def groups(self) -> np.ndarray:
        """0: next item, 1: query to item."""
        return np.repeat([0, 1], [self.window_count, len(self.queries)])

    def assemble(self, draw: Draw) -> RetrieverBatch:
        """Make one batch."""
        if draw.rows[0] < self.window_count:
            return self._next_item(draw)
        return self._query_to_item(draw, self.queries[draw.rows - self.window_count])

    def _next_item(self, draw: Draw) -> RetrieverBatch:
        histories = self.features.data.histories
        windows = self._windows_of(draw.epoch)
        users, firsts, lasts = (array[draw.rows] for array in (windows.user, windows.first, windows.last))
        samples = [
            _window_sample(self.features, user, first, last, self._kept(draw.epoch, row, last - first))
            for user, first, last, row in zip(users, firsts, lasts, draw.rows, strict=True)
        ]
        targets = [histories.item[sample.targets].astype(np.int64) for sample in samples]
        entries = [sample.past.item[sample.past.item >= 0] for sample in samples]
        local = self._local(draw, [*targets, *entries])
        seen = [_seen(number, sample, histories, local) for number, sample in enumerate(samples)]
        row = np.repeat(np.arange(len(samples)), [len(sample.targets) for sample in samples])
        return self._batch(
            local, self.features.users([sample.past for sample in samples], users, np.full(len(users), -1), local), row,
            np.concatenate([sample.steps for sample in samples]), local.find(np.concatenate(targets)), seen,
            positives=len(row), tokens=sum(len(sample.past.item) for sample in samples),
        )  # fmt: skip

    def _windows_of(self, epoch: int):  # noqa: ANN202
        cached = getattr(self, "_cached", None)
        if cached is None or cached[0] != epoch:
            self._cached = cached = (epoch, self._windows(epoch))
        return cached[1]

    def _kept(self, epoch: int, row: int, size: int) -> np.ndarray | None:
        """Which rows of a window stay: each window drops a share drawn between 0 and `history_dropout`."""
        if not self.history_dropout:
            return None
        rng = np.random.default_rng([self.seed, epoch, 2, int(row)])
        return rng.random(size + 1) >= self.history_dropout * rng.random()

    def _query_to_item(self, draw: Draw, rows: np.ndarray) -> RetrieverBatch:
        data = self.features.data
        queries, histories = data.queries, data.histories
        assert queries is not None
        found = [queries.relevant(query) for query in rows]
        positives = [item[grade > 0] for item, grade in found]
        pick = uniform(self.seed, draw.epoch, rows)
        target = np.array([items[int(share * len(items))] for items, share in zip(positives, pick, strict=True)])
        pasts = [search_past(self.features, int(query)) for query in rows]
        local = self._local(draw, [target, *[past.item[past.item >= 0] for past in pasts]])
        seen = []
        for number, items in enumerate(positives):
            there = items[local.holds(items)]
            seen.append((np.full(len(there), number), local.find(there), np.zeros(len(there), dtype=np.int64)))
        users = np.array([queries.user[query] if histories is not None else -1 for query in rows])
        steps = np.array([len(past.item) for past in pasts])
        return self._batch(
            local, self.features.users(pasts, users, rows, local), np.arange(len(rows)), steps, local.find(target), seen,
            positives=len(rows), tokens=len(rows),
        )  # fmt: skip

    def _local(self, draw: Draw, wanted: list[np.ndarray]) -> Local:
        if self.negatives.kind == "all":
            return Local(None, self.total)
        rng = np.random.default_rng([self.seed, draw.epoch, 3, draw.number])
        random = rng.integers(0, self.total, size=min(self.negatives.random, self.total))
        return Local(np.unique(np.concatenate([*wanted, random])), self.total)

    def _batch(  # noqa: PLR0913
        self, local: Local, users: UserBatch, row: np.ndarray, step: np.ndarray, target: np.ndarray,
        seen: list[tuple[np.ndarray, np.ndarray, np.ndarray]], *, positives: int, tokens: int,
    ) -> RetrieverBatch:  # fmt: skip
        seen_row, seen_item, seen_step = (torch.from_numpy(np.concatenate(part)) for part in zip(*seen, strict=True))
        return RetrieverBatch(
            items=None if local.items is None else self.features.items(local.items),
            users=users, row=torch.from_numpy(row), step=torch.from_numpy(step), target=torch.from_numpy(target),
            seen_row=seen_row, seen_item=seen_item, seen_step=seen_step,
            log_q=self._log_q(local, positives), tokens=tokens,
        )  # fmt: skip

    def _log_q(self, local: Local, positives: int) -> torch.Tensor | None:
        """log of the chance that an item stands in the batch: as one of the positives' items, or drawn at random."""
        if local.items is None or not self.negatives.log_q:
            return None
        as_positive = -np.expm1(positives * np.log1p(-np.minimum(self.popularity[local.items], 0.999)))
        at_random = min(self.negatives.random / self.total, 1.0)
        chance = as_positive + at_random - as_positive * at_random
        return torch.from_numpy(np.log(np.maximum(chance, 1e-9)).astype(np.float32))


@dataclass(frozen=True, kw_only=True)
class _Sample:
    """One window: its entries, and for every supervised target its row in the layout and its step."""

    past: Past
    targets: np.ndarray  # [R] rows of the layout
    steps: np.ndarray  # [R]
    first: int  # first row of the layout that the window's entries may come from
    user: int


def _window_sample(features: Features, user: int, first: int, last: int, kept: np.ndarray | None) -> _Sample:
    histories = features.data.histories
    assert histories is not None
    begin = first - 1 if first > histories.offsets[user] else first  # a later window needs one entry to start from
    rows = np.arange(begin, last)
    if kept is not None:
        keep = kept[: len(rows)]
        rows = rows[keep] if keep.sum() > 1 else rows
    targets = rows[histories.target[rows] & (histories.stage[rows] == TRAIN)]
    if rows[0] > histories.offsets[user]:
        targets = targets[targets > rows[0]]  # without its past, the first row would be learnt as if the user were new
    entries = rows[:-1]
    past = features.past(user, begin, last - 1, float(histories.order[last - 1]), np.isin(np.arange(begin, last - 1), entries))
    steps = _steps(past, histories.order[targets], np.searchsorted(rows, targets))
    if past.next_context.shape[1]:
        past.next_context[steps] = histories.context[targets]
    return _Sample(past=past, targets=targets, steps=steps, first=begin, user=user)


def _steps(past: Past, order: np.ndarray, number: np.ndarray) -> np.ndarray:
    """Number of entries before each target: the items before it, and the searches not after it."""
    if not (past.query >= 0).any():
        return number
    searches = past.order[past.query >= 0]
    return number + np.searchsorted(searches, order, side="right")


def _seen(number: int, sample: _Sample, histories, local: Local) -> tuple[np.ndarray, np.ndarray, np.ndarray]:  # noqa: ANN001
    """What the user had: everything before the window from the start, every other target event from its own step on."""
    start = int(histories.offsets[sample.user])
    last = int(sample.targets[-1]) if len(sample.targets) else sample.first
    rows = np.arange(start, last)
    rows = rows[histories.target[rows]]
    items = histories.item[rows].astype(np.int64)
    following = np.searchsorted(sample.targets, rows, side="right")  # the first target after each row
    steps = np.where(rows < sample.first, 0, np.append(sample.steps, 0)[following])
    there = local.holds(items)
    return np.full(int(there.sum()), number), local.find(items[there]), steps[there]


def search_past(features: Features, query: int) -> Past:
    """The history that stood behind a search: what its user had done before it."""
    data = features.data
    assert data.queries is not None
    user, order = int(data.queries.user[query]), float(data.queries.order[query])
    if data.histories is None or user < 0 or np.isnan(order):
        return Past.empty(len(data.codes.context))
    return features.latest(user, seen_order(data.histories, user, order), order)


def _train_ends(data: Prepared) -> np.ndarray:
    if data.histories is None:
        raise InputError("Task 'next_item' needs an interactions table; none was found below data.root.")
    return data.histories.stage_end(TRAIN)


def _train_queries(data: Prepared) -> np.ndarray:
    if data.queries is None:
        raise InputError("Task 'query_to_item' needs the tables queries and relevance; no queries table was found below data.root.")
    has = np.array([(data.queries.relevant(query)[1] > 0).any() for query in range(len(data.queries))], dtype=bool)
    return np.flatnonzero((data.queries.stage == TRAIN) & has)


def _rows_or_zero(table: np.ndarray, rows: np.ndarray) -> np.ndarray:
    return np.where((rows >= 0)[:, None, None], table[np.maximum(rows, 0)], 0) if len(table) else np.zeros((len(rows), *table.shape[1:]), table.dtype)


def _rows_or_nan(table: np.ndarray, rows: np.ndarray) -> np.ndarray:
    found = table[np.maximum(rows, 0)] if len(table) else np.zeros((len(rows), *table.shape[1:]), table.dtype)
    return np.where((rows >= 0)[:, None], found, np.nan).astype(np.float32)
