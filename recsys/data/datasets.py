"""Global rows -> batches for the retriever: next-item windows and query-to-item pairs."""

from dataclasses import dataclass, field
from typing import Literal, Protocol

import numpy as np
import torch

from recsys.batch import Batch, ItemBatch, RetrieverBatch, UserBatch
from recsys.data.augment import AugmentConfig, Change
from recsys.data.cloze import Cloze
from recsys.data.features import Features, Local, Texts, search_past
from recsys.data.histories import Histories
from recsys.data.mined import HardNegatives, MineConfig, Mined
from recsys.data.pasts import Past
from recsys.data.prepare import Prepared
from recsys.data.sampling import Alike, Draw, Windows, cut_windows, split_alike, uniform
from recsys.data.split import TRAIN
from recsys.data.taught import Taught
from recsys.errors import InputError

__all__ = ["Features", "Local", "NegativesConfig", "Past", "RetrieverRows", "Rows", "Texts", "search_past"]


_LEAF = 3
"""Runs that a leaf of alike rows has, at most: which of its rows meet changes from epoch to epoch."""


def _unit(vectors: np.ndarray) -> np.ndarray:
    return vectors / np.maximum(np.linalg.norm(vectors, axis=-1, keepdims=True), 1e-12)


class Rows(Protocol):
    """What a data module deals: global rows with a length and a group, and how a draw of them becomes a batch."""

    alike: Alike | None
    """Which rows stand together in a batch; None: as the shuffle and their lengths have it."""

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
class NegativesConfig:
    """Which items stand against the positive."""

    kind: Literal["all", "batch"] = "all"
    """all: every item of the catalogue. batch: the items of the batch and `random` more."""
    random: int = 1024
    """Items drawn uniformly from the catalogue for every batch (kind batch)."""
    log_q: bool = True
    """Correct for popular items standing in the batch more often (kind batch). Hard negatives are not corrected for:
    they are there to weigh more."""
    alike: int = 0
    """Queries of a batch stand in runs of this many whose texts and items are alike, as the encoder has them before
    training, so that the items of a batch are hard to tell apart (topic-aware sampling, Hofstätter et al. 2021); 0: as
    the shuffle has them."""
    hard: int = 0
    """Hard negatives of each query or window, drawn anew in each epoch from the lists of `mined` (kind batch)."""
    mined: str | None = None
    """Parquet file or folder with item_id and query_id or user_id: what an earlier retriever found, as infer.py search
    and recommend write it; or the folder of infer.py mine. Relevant items are left out. null, with `refresh`: the
    model mines before it learns."""
    refresh: int = 0
    """Epochs after which hard negatives are mined anew, by the model as it then is; 0: never. The rounds lie below
    rounds/ of the run's folder."""
    mine: MineConfig = field(default_factory=MineConfig)
    """Which items of the model's ranking they are (with `refresh`)."""

    def __post_init__(self) -> None:
        if self.kind not in ("all", "batch"):
            raise InputError(f"negatives.kind is {self.kind!r}; expected 'all' or 'batch'.")
        if self.random < 0:
            raise InputError(f"negatives.random is {self.random}; expected 0 or more items.")
        if self.alike < 0 or self.alike == 1 or (self.alike and self.kind == "all"):
            raise InputError(f"negatives.alike is {self.alike}; expected 0, or 2 and more with negatives.kind: batch.")
        if self.refresh < 0:
            raise InputError(f"negatives.refresh is {self.refresh}; expected 0 or more epochs.")
        if self.hard < 0 or (self.hard > 0) != (self.mined is not None or self.refresh > 0):
            found = f"negatives.hard is {self.hard}, mined {self.mined!r} and refresh {self.refresh}"
            raise InputError(f"{found}; set hard with one of the others, or none of them.")
        if self.hard and self.kind == "all":
            raise InputError("negatives.hard needs negatives.kind: batch; with 'all' every item is there already.")


class RetrieverRows:
    """Training rows of the retriever: windows of histories first, then (query, relevant items) pairs."""

    alike: Alike | None = None
    cloze: Cloze | None = None
    """Items that are asked for by their own words, beside the queries of each batch; `features` then read them too."""

    def __init__(
        self,
        features: Features,
        *,
        tasks: list[str],
        negatives: NegativesConfig,
        augment: AugmentConfig | None = None,
        hard: HardNegatives | None = None,
        taught: Taught | None = None,
        each_pair: bool = False,
        seed: int,
    ) -> None:
        """With `each_pair`, every relevant pair of a query and an item is a row; else every query, with one of its
        items drawn anew in each epoch.
        """
        self.features, self.negatives, self.hard, self.seed = features, negatives, hard, seed
        self.augment, self.taught = augment or AugmentConfig(), taught
        data = features.data
        self.known = np.arange(len(data.catalogue))
        if data.catalogue.stage is not None:  # the others are as if nobody had them yet
            self.known = np.flatnonzero(data.catalogue.stage == TRAIN)
        self.ends = _train_ends(data) if "next_item" in tasks else None
        self.queries = none = np.zeros(0, dtype=np.int64)
        self.pair_item = none if each_pair else None
        """The item of each row of `queries`; None: one of the relevant ones is drawn."""
        if "query_to_item" in tasks:
            owner, item = _train_pairs(data)
            self.queries, self.pair_item = (owner, item) if each_pair else (np.unique(owner), None)
        self.row_share, self.query_share = _row_share(data), _query_share(data, self.queries, self.pair_item)
        self._cached: tuple[int, Windows] | None = None
        self.window_count = len(self._windows(0).user)

    def _windows(self, epoch: int) -> Windows:
        if self._cached is None or self._cached[0] != epoch:
            histories, none = self.features.data.histories, np.zeros(0, dtype=np.int64)
            windows = Windows(user=none, first=none, last=none)
            if histories is not None and self.ends is not None:
                windows = cut_windows(histories.offsets, self.ends, self.features.max_items, self.seed, epoch)
            self._cached = epoch, windows
        return self._cached[1]

    def lengths(self, epoch: int) -> np.ndarray:
        """Entries of a window; characters of a query.

        Where every pair is a row, all count alike: a batch of like lengths would be one of the same query.
        """
        queries, windows = self.features.data.queries, self._windows(epoch)
        texts = [0 if queries is None else len(queries.texts[query]) for query in self.queries]
        texts = texts if self.pair_item is None else [0] * len(texts)
        return np.concatenate([windows.last - windows.first, np.array(texts, dtype=np.int64)])

    def groups(self) -> np.ndarray:
        """0: next item, 1: query to item."""
        return np.repeat([0, 1], [self.window_count, len(self.queries)])

    def group_alike(self, queries: np.ndarray, items: np.ndarray) -> None:
        """From now on, the queries of a batch stand in runs of `negatives.alike` that are alike.

        Args:
            queries: [Q, W] vectors of the queries' texts.
            items: [N, W] vectors of the items'.
        """
        data, run = self.features.data.queries, self.negatives.alike
        assert data is not None
        right = [data.relevant(int(query)) for query in self.queries]
        right = [item[grade > 0] for item, grade in right]
        if self.pair_item is not None:
            right = [np.array([item]) for item in self.pair_item]
        about = np.stack([_unit(items[one].mean(0)) for one in right]) + _unit(queries[self.queries])
        leaf = np.concatenate([np.full(self.window_count, -1), split_alike(_unit(about), _LEAF * run)])
        self.alike = Alike(leaf=leaf, run=run)

    def assemble(self, draw: Draw) -> RetrieverBatch:
        """Make one batch."""
        if draw.rows[0] < self.window_count:
            return self._next_item(draw)
        return self._query_to_item(draw, draw.rows - self.window_count)

    def _next_item(self, draw: Draw) -> RetrieverBatch:
        histories, windows = self.features.data.histories, self._windows(draw.epoch)
        assert histories is not None
        users, firsts, lasts = (array[draw.rows] for array in (windows.user, windows.first, windows.last))
        samples = [
            _window_sample(self.features, user, first, last, self._change(draw.epoch, row))
            for user, first, last, row in zip(users, firsts, lasts, draw.rows, strict=True)
        ]
        entries = histories.item[np.concatenate([sample.rows for sample in samples])].astype(np.int64)
        target = histories.item[np.concatenate([sample.targets for sample in samples])].astype(np.int64)
        hard = self._hard(draw, users, self.hard.users if self.hard else None)
        local, pasts = self._local(draw, [entries, hard]), [sample.past for sample in samples]
        return self._batch(
            draw,
            local,
            self.features.users(pasts, users, np.full(len(users), -1), local, (self.seed, draw.epoch)),
            row=np.repeat(np.arange(len(samples)), [len(sample.targets) for sample in samples]),
            step=np.concatenate([sample.steps for sample in samples]),
            target=target,
            seen=[_seen(sample, histories) for sample in samples],
            draws=(len(entries), 0),
        )

    def _change(self, epoch: int, row: int) -> Change:
        return Change(config=self.augment, seed=(self.seed, epoch, int(row)))

    def _query_to_item(self, draw: Draw, places: np.ndarray) -> RetrieverBatch:
        """`places` are rows of `queries`."""
        queries = self.features.data.queries
        assert queries is not None
        rows, held = self.queries[places], self.features.data.catalogue.stage
        positives = [item[grade > 0] for item, grade in map(queries.relevant, rows)]
        if self.pair_item is not None:
            target = self.pair_item[places]
        else:
            known = positives if held is None else [items[held[items] == TRAIN] for items in positives]
            pick = uniform(self.seed, draw.epoch, rows)
            target = np.array([items[int(share * len(items))] for items, share in zip(known, pick, strict=True)])
        pasts = [search_past(self.features, int(query)) for query in rows]
        entries = np.concatenate([past.item[past.item >= 0] for past in pasts])
        hard = self._hard(draw, rows, self.hard.queries if self.hard else None, places)
        judged = None
        if self.taught is not None:
            judged = self.taught.draw(rows, target, seed=self.seed, epoch=draw.epoch)
            judged[0][~np.isin(judged[0], self.known)] = -1
        local = self._local(draw, [target, entries, hard, *([] if judged is None else [judged[0][judged[0] >= 0]])])
        others = [items[items != own] for items, own in zip(positives, target, strict=True)]
        users = queries.user[rows]
        if self.cloze is not None:
            asked, (words, wordless) = self.cloze.drawn(draw, self.seed), (self.cloze.queries, self.cloze.catalogue)
            rows, users = np.append(rows, words + asked), np.append(users, np.full(len(asked), -1))
            others = [np.append(items, wordless + right) for items, right in zip(others, positives, strict=True)]
            others += [asked[row : row + 1] for row in range(len(asked))]
            pasts += [Past.empty(len(self.features.data.codes.context))] * len(asked)
            target, local = np.append(target, wordless + asked), local.joined(wordless + asked)
            if judged is not None:  # no teacher has judged these
                more = ((0, len(asked)), (0, 0))
                judged = np.pad(judged[0], more, constant_values=-1), np.pad(judged[1], more)
        return self._batch(
            draw,
            local,
            self.features.users(pasts, users, rows, local, (self.seed, draw.epoch)),
            row=np.arange(len(rows)),
            step=np.array([len(past.item) for past in pasts]),
            target=target,
            seen=[(items, np.zeros(len(items), dtype=np.int64)) for items in others],
            draws=(len(entries), len(places)),
            taught=judged,
        )

    def _local(self, draw: Draw, wanted: list[np.ndarray]) -> Local:
        total = len(self.features.data.catalogue)
        if self.negatives.kind == "all":
            return Local(None, total)
        return Local(np.unique(np.concatenate([*wanted, self._random(draw)])), total)

    def _hard(self, draw: Draw, rows: np.ndarray, mined: Mined | None, places: np.ndarray | None = None) -> np.ndarray:
        """Hard negatives of these queries or users, drawn for each of `places` by itself (None: for each row)."""
        if self.hard is None or mined is None:
            return np.zeros(0, dtype=np.int64)
        found = mined.draw(rows, self.hard.count, seed=self.seed, epoch=draw.epoch, places=places)
        return found[np.isin(found, self.known)]

    def _random(self, draw: Draw) -> np.ndarray:
        """This process's share of the items that are drawn for the whole batch."""
        rng = np.random.default_rng([self.seed, draw.epoch, 3, draw.number])
        count = len(self.known)
        return self.known[rng.integers(0, count, size=min(self.negatives.random, count))[draw.part :: draw.parts]]

    def _batch(
        self,
        draw: Draw,
        local: Local,
        users: UserBatch,
        *,
        row: np.ndarray,
        step: np.ndarray,
        target: np.ndarray,
        seen: list[tuple[np.ndarray, np.ndarray]],
        draws: tuple[int, int],
        taught: tuple[np.ndarray, np.ndarray] | None = None,
    ) -> RetrieverBatch:
        """`seen` holds for each row of `users` the items that it has, and from which step on; `draws` counts the rows
        of the interactions and the queries that brought items in.
        """
        item, since = (np.concatenate(part) for part in zip(*seen, strict=True))
        owner = np.repeat(np.arange(len(seen)), [len(items) for items, _ in seen])
        corrected = local.items is not None and self.negatives.log_q
        items = None if local.items is None else self.features.items(local.items, (self.seed, draw.epoch))
        return RetrieverBatch(
            items=items,
            item=None if local.items is None else torch.from_numpy(local.items),
            users=users,
            row=torch.from_numpy(row),
            step=torch.from_numpy(step),
            target=torch.from_numpy(target),
            seen_row=torch.from_numpy(owner),
            seen_item=torch.from_numpy(item),
            seen_step=torch.from_numpy(since),
            missed=self._missed(local.items) if corrected and local.items is not None else None,
            draws=torch.tensor([*draws, len(self._random(draw))]) if corrected else None,
            taught_item=None if taught is None else torch.from_numpy(taught[0]),
            taught_logit=None if taught is None else torch.from_numpy(taught[1]),
            tokens=_tokens(users, items),
        )

    def _missed(self, items: np.ndarray) -> torch.Tensor:
        """[n, 3] log of the chance that one draw misses each item: 1 less its share of the train rows, of what train
        queries ask for, and of the catalogue. One without some of its words counts as what a query asks for does.
        """
        own = items < len(self.row_share)
        items = np.where(own, items, 0)
        asked = self.query_share[self.query_share > 0].mean() if self.cloze is not None else 0.0
        shares = (
            np.where(own, self.row_share[items], 0), np.where(own, self.query_share[items], asked),
            np.where(own, 1 / len(self.known), 0),
        )  # fmt: skip
        return torch.from_numpy(np.stack([np.log1p(-np.minimum(share, 1 - 1e-6)) for share in shares], axis=1))


def _tokens(users: UserBatch, items: ItemBatch | None) -> int:
    """Entries of histories, and the tokens of all texts that are read; a query that is a vector counts as one."""
    asked = 0 if users.query is None or users.query_text is not None else int((users.query >= 0).sum())
    texts = (users.query_text, items.text if items is not None else None)
    return int(users.history_mask.sum()) + asked + sum(int(text.mask.sum()) for text in texts if text is not None)


@dataclass(frozen=True, kw_only=True)
class _Sample:
    """One window: its entries, and for every supervised target its row in the layout and its step."""

    user: int
    past: Past
    rows: np.ndarray  # rows of the layout: the entries, and what comes after the last of them
    targets: np.ndarray  # [R] rows of the layout
    steps: np.ndarray  # [R]


def _window_sample(features: Features, user: int, first: int, last: int, change: Change) -> _Sample:
    histories = features.data.histories
    assert histories is not None
    begin = first - 1 if first > histories.offsets[user] else first  # a later window needs one entry to start from
    rows = np.arange(begin, last)
    kept = change.kept(last - first + 1)[: len(rows)]
    if kept.sum() > 1:
        rows = rows[kept]
    targets = rows[(rows >= first) & histories.target[rows] & (histories.stage[rows] == TRAIN)]
    if rows[0] > histories.offsets[user]:
        targets = targets[targets > rows[0]]  # without its past, the first row would be learnt as if the user were new
    keep = np.isin(np.arange(begin, last - 1), rows[:-1])
    past = features.past(user, begin, last - 1, float(histories.order[last - 1]), keep, TRAIN)
    steps = past.steps(np.searchsorted(rows, targets), histories.order[targets])
    past.next_context[steps] = histories.context[targets]
    past, asked = change.reordered(past)
    return _Sample(user=user, past=past, rows=rows, targets=targets[asked[steps]], steps=steps[asked[steps]])


def _seen(sample: _Sample, histories: Histories) -> tuple[np.ndarray, np.ndarray]:
    """Items that the user had before the last target, and the step of the first target that comes after each."""
    if not len(sample.targets):
        return np.zeros(0, dtype=np.int64), np.zeros(0, dtype=np.int64)
    rows = np.arange(histories.offsets[sample.user], sample.targets[-1])
    rows = rows[histories.target[rows]]
    return histories.item[rows].astype(np.int64), sample.steps[np.searchsorted(sample.targets, rows, side="right")]


def _train_ends(data: Prepared) -> np.ndarray:
    histories = data.histories
    if histories is None:
        raise InputError("Task 'next_item' needs an interactions table; none was found below data.root.")
    if not (histories.target & (histories.stage == TRAIN)).any():
        raise InputError(
            "Task 'next_item' has nothing to learn from: no interaction is a train target; see data.split."
        )
    return histories.stage_end(TRAIN)


def _train_pairs(data: Prepared) -> tuple[np.ndarray, np.ndarray]:
    """[E] query and [E] item of every pair that is learnt from."""
    if data.queries is None:
        raise InputError("Task 'query_to_item' needs a queries table; none was found below data.root.")
    train = data.pairs(TRAIN)
    if not train.any():
        raise InputError("Task 'query_to_item' has nothing to learn from: no train query has a relevant item.")
    return data.queries.owner()[train], data.queries.item[train]


def _row_share(data: Prepared) -> np.ndarray:
    """[N] each item's share of all train rows."""
    if data.histories is None:
        return np.zeros(len(data.catalogue))
    stage = data.histories.stage
    counts = data.histories.item_counts(len(data.catalogue), lambda rows: stage[rows] == TRAIN)
    return counts / max(int(counts.sum()), 1)


def _query_share(data: Prepared, queries: np.ndarray, pair_item: np.ndarray | None) -> np.ndarray:
    """[N] each item's share of the targets of an epoch: of the pairs', or of one drawn for each of these queries."""
    share = np.zeros(len(data.catalogue))
    if pair_item is not None:
        return np.bincount(pair_item, minlength=len(share)) / max(len(pair_item), 1)
    owner, item = (queries, queries) if data.queries is None or not len(queries) else _train_pairs(data)
    alike = np.bincount(owner, minlength=1)
    np.add.at(share, item, 1 / (alike[owner] * max(len(queries), 1)))
    return share
