"""Candidate lists -> batches for the pruner: the retriever's own proposals for requests whose answers are known."""

import json
from collections.abc import Iterator, Sequence
from copy import copy
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import torch
from torch import Tensor

from recsys.batch import Batch, PrunerBatch
from recsys.data.datasets import Features, Local
from recsys.data.pairs import PairTexts
from recsys.data.prepare import Prepared
from recsys.data.requests import (
    Requests,
    candidate_requests,
    join_requests,
    judged_requests,
    moment_orders,
    request_pasts,
    seen_items,
)
from recsys.data.sampling import Alike, Draw, uniform
from recsys.data.split import TRAIN, VALID
from recsys.errors import InputError
from recsys.shards import Parts


@dataclass(frozen=True, kw_only=True)
class ListEvaluation(Batch):
    """B lists whose answers are known, and what they are made of in rows of the items table."""

    lists: PrunerBatch
    item: Tensor  # [B, K] int64, padded with -1
    targets: Tensor  # [B, P] int64, padded with -1
    grades: Tensor  # [B, P] float32


@dataclass(frozen=True, kw_only=True)
class CandidateLists:
    """A folder of candidates. Request r owns candidates offsets[r]:offsets[r + 1], best first."""

    requests: Requests
    sets: dict[str, np.ndarray]
    """Numbers of the requests that are learnt from (`second`) and judged on (`valid`, `valid_query`)."""
    offsets: np.ndarray  # [R + 1] int64
    item: np.ndarray  # [candidates] int32
    score: np.ndarray  # [candidates] float32
    label: np.ndarray  # [candidates] float32
    lexical_score: np.ndarray | None  # [candidates] float32, None where `lexical` is None
    item_vectors: np.ndarray  # [N, D] float32
    user_vectors: np.ndarray  # [R, D] float32
    lexical: dict[str, Any] | None
    """How the lists of queries were fused with a lexical source's; None: they are the retriever's own."""

    @classmethod
    def read(cls, folder: Path, data: Prepared) -> "CandidateLists":
        """Open what the inference stage `candidates` wrote; InputError if it is not whole or not of this data set."""
        source = _source(folder, data)
        groups = candidate_requests(data, source["tasks"])
        if not any(stage == "second" for stage, _ in groups):
            remedy = "set data.split.second to 1 or more before the retriever is trained"
            raise InputError(f"The pruner has nothing to learn from: {remedy}.")
        requests = join_requests([one for _, one in groups])
        lexical = source.get("lexical")
        more = [] if lexical is None else ["lexical_score"]
        frame = _read_parts(folder, source, len(requests), len(data.catalogue), more)
        counts = np.bincount(frame["request"].to_numpy(), minlength=len(requests))
        items, users = (_vectors(folder, name) for name in ("item_vectors", "user_vectors"))
        if len(items) != len(data.catalogue) or len(users) != len(requests):
            raise _incomplete(folder, "its vectors are of another number of items or requests")
        return cls(
            requests=requests, sets=_sets(groups), offsets=np.concatenate([[0], np.cumsum(counts)]),
            item=frame["item"].to_numpy(), score=frame["score"].to_numpy(), label=frame["label"].to_numpy(),
            item_vectors=items, user_vectors=users, lexical=lexical,
            lexical_score=frame[more[0]].to_numpy() if more else None,
        )  # fmt: skip

    @classmethod
    def judged(cls, data: Prepared) -> "CandidateLists":
        """Every row of the interactions as a list of one, right where it is a target (`interactions.judged`).

        Those of the train split are learnt from, those of valid are judged on; there is no retriever.
        """
        if data.histories is None or not data.judged:
            remedy = "name the folder of infer.py candidates, or set data.interactions.judged"
            raise InputError(f"The pruner has no candidates, and rows are no judgements; {remedy}.")
        groups = [(name, judged_requests(data, stage)) for name, stage in (("second", TRAIN), ("valid", VALID))]
        groups = [(name, one) for name, one in groups if len(one)]
        if not groups or groups[0][0] == "valid":
            raise InputError("No row of the interactions is of the train split; there is nothing to learn from.")
        requests = join_requests([one for _, one in groups])
        rows = requests.moments
        return cls(
            requests=requests, sets=_sets(groups),
            offsets=np.arange(len(rows) + 1), item=data.histories.item[rows],
            score=np.zeros(len(rows), dtype=np.float32), label=data.histories.target[rows].astype(np.float32),
            item_vectors=np.zeros((len(data.catalogue), 0), dtype=np.float32),
            user_vectors=np.zeros((len(rows), 0), dtype=np.float32), lexical=None, lexical_score=None,
        )  # fmt: skip

    def table(self, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Items (padded with -1), scores and labels of some requests, each [B, K]."""
        real, where = self._places(rows)
        item = np.full(real.shape, -1, dtype=np.int64)
        score, label = np.zeros(real.shape, dtype=np.float32), np.zeros(real.shape, dtype=np.float32)
        item[real], score[real], label[real] = self.item[where], self.score[where], self.label[where]
        return item, score, label

    def others(self, rows: np.ndarray, data: Prepared, targets: list[np.ndarray]) -> np.ndarray:
        """[B, K, G] float32: whether each other target came true for each candidate, from its request on and within the
        split that the request is of; NaN for queries, whose moment is not a row. `targets` are codes of events.
        """
        item, _, _ = self.table(rows)
        out, histories = np.full((*item.shape, len(targets)), np.nan, dtype=np.float32), data.histories
        if histories is None:
            return out
        moments = self.requests.moments[rows]
        ends = np.where(moments >= 0, moments + 1, 0)
        if not data.judged:
            stages = histories.stage[np.maximum(moments, 0)]
            for stage in np.unique(stages[moments >= 0]):
                own = (stages == stage) & (moments >= 0)
                ends[own] = histories.stage_end(int(stage))[self.requests.users[rows[own]]]
        for row in np.flatnonzero(moments >= 0):
            later = slice(moments[row], ends[row])
            for place, codes in enumerate(targets):
                there = histories.item[later][np.isin(histories.event[later], codes)]
                out[row, :, place] = np.isin(item[row], there)
        return out

    def lexical_table(self, rows: np.ndarray) -> np.ndarray | None:
        """[B, K] float32 scores of the lexical source, 0 at padding; None where there was none."""
        if self.lexical_score is None:
            return None
        real, where = self._places(rows)
        score = np.zeros(real.shape, dtype=np.float32)
        score[real] = self.lexical_score[where]
        return score

    def _places(self, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """[B, K] bool, which entries of a table are real, and the candidate that stands at each of these."""
        starts, sizes = self.offsets[rows], self.offsets[rows + 1] - self.offsets[rows]
        steps = np.arange(max(int(sizes.max(initial=0)), 1))
        real = steps < sizes[:, None]
        return real, (starts[:, None] + steps)[real]

    def found(self) -> np.ndarray:
        """[R] bool: whether a right answer stands in the list."""
        total = np.concatenate([[0], np.cumsum(self.label > 0)])
        return total[self.offsets[1:]] > total[self.offsets[:-1]]


def _source(folder: Path, data: Prepared) -> dict:
    path = folder / "source.json"
    if not path.is_file():
        remedy = "Make it with: infer.py candidates CONFIG"
        raise InputError(f"{folder} is no folder of candidates: it has no source.json. {remedy}")
    source = json.loads(path.read_text())
    if source["data"] != data.hash:
        raise InputError(
            f"The candidates in {folder} were made from other tables or roles (data {source['data'][:12]}, here "
            f"{data.hash[:12]}). Use the data section of the retriever's config, or make them again with: infer.py "
            "candidates CONFIG"
        )
    return source


def _read_parts(folder: Path, source: dict, requests: int, items: int, more: list[str]) -> pl.DataFrame:
    """All candidates, sorted by request and rank, with some columns `more`."""
    parts = Parts.read(folder)
    if parts.rows() != source.get("rows"):
        raise _incomplete(folder, f"its parts hold {parts.rows()} rows, and {source.get('rows')} were written")
    frame = parts.frame().select("request", "rank", "item", "score", "label", *more).collect()
    inside = pl.col("request").is_between(0, requests - 1) & pl.col("item").is_between(0, items - 1)
    if not frame.select(inside.all()).item():
        raise _incomplete(folder, "its numbers of requests or items do not fit the data set")
    return frame.sort("request", "rank")


def _vectors(folder: Path, name: str) -> np.ndarray:
    path = folder / f"{name}.npy"
    if not path.is_file():
        raise _incomplete(folder, f"it has no {path.name}")
    return np.load(path, mmap_mode="r", allow_pickle=False)


def _incomplete(folder: Path, what: str) -> InputError:
    remedy = "Make them again with: infer.py candidates CONFIG --overwrite=true"
    return InputError(f"The candidates in {folder} cannot be used: {what}. {remedy}")


def _sets(groups: list[tuple[str, Requests]]) -> dict[str, np.ndarray]:
    ends = np.cumsum([len(one) for _, one in groups])
    found: dict[str, np.ndarray] = {}
    for (stage, one), end in zip(groups, ends, strict=True):
        name = "valid_query" if stage == "valid" and (one.queries >= 0).all() else stage
        found[name] = np.concatenate([found.get(name, np.zeros(0, dtype=np.int64)), np.arange(end - len(one), end)])
    return found


def latest_only(features: Features, history: int) -> Features:
    """The same reader with histories of at most `history` entries."""
    narrow = copy(features)
    narrow.max_items = min(features.max_items, history)
    return narrow


def assemble_lists(
    features: Features, requests: Requests, candidates: np.ndarray, scores: np.ndarray, labels: np.ndarray,
    item_vectors: np.ndarray, user_vectors: np.ndarray, pairs: PairTexts | None, *, ranks: np.ndarray | None = None,
    lexical: np.ndarray | None = None, others: np.ndarray | None = None,
) -> PrunerBatch:  # fmt: skip
    """B requests and their candidates as a batch, for training and for inference.

    Args:
        features: reader of the pruner's features (see `latest_only`).
        requests: B requests.
        candidates: [B, K] rows of the items table, best first, padded with -1 at the end.
        scores: [B, K] of the retriever.
        labels: [B, K] grades; zeros where nothing is known.
        item_vectors: [N, D] the retriever's vectors of all items.
        user_vectors: [B, D] the retriever's vectors of these requests.
        pairs: reader of pairs of texts for a cross-encoder, or None.
        ranks: [B, K] places in the retriever's lists where candidates were left out; None: the columns.
        lexical: [B, K] scores of a lexical source, or None.
        others: [B, K, G] whether other targets came true, or None.
    """
    pasts, before = request_pasts(features, requests), moment_orders(features.data, requests)
    known = np.unique(np.concatenate([candidates.ravel(), *[past.item for past in pasts]]))
    items = known[known >= 0] if (known >= 0).any() else np.zeros(1, dtype=np.int64)
    local = Local(items, len(features.data.catalogue))
    texts: dict[str, Any] = {}
    tokens = int((candidates >= 0).sum()) + sum(len(past.item) for past in pasts)
    if pairs is not None:
        texts, tokens = pairs.fields(pasts, requests.users, requests.queries, candidates)
    return PrunerBatch(
        users=features.users(pasts, requests.users, requests.queries, local),
        items=features.items(items),
        item_vector=torch.from_numpy(np.asarray(item_vectors[items], dtype=np.float32)),
        user_vector=torch.from_numpy(np.asarray(user_vectors, dtype=np.float32)),
        candidate=torch.from_numpy(np.where(candidates >= 0, local.find(candidates), -1)),
        retriever_score=torch.from_numpy(np.asarray(scores, dtype=np.float32)),
        label=torch.from_numpy(np.asarray(labels, dtype=np.float32)),
        others=None if others is None else torch.from_numpy(others),
        lexical_score=None if lexical is None else torch.from_numpy(lexical),
        reviews=features.note_batch("reviews", candidates, before), ads=features.note_batch("ads", candidates, before),
        neighbours=features.neighbours(pasts, requests.users, candidates),
        rank=None if ranks is None else torch.from_numpy(ranks),
        tokens=tokens,
        **texts,
    )  # fmt: skip


class PrunerRows:
    """Training rows of the pruner: lists of the stage `second`. A list keeps its positives and some of the others."""

    alike: Alike | None = None

    def __init__(
        self, features: Features, lists: CandidateLists, rows: np.ndarray, *, pairs: PairTexts | None, sampled: int,
        pointwise: bool, seed: int, targets: Sequence[np.ndarray] = (), shared: bool = False,
    ) -> None:  # fmt: skip
        """`rows` are numbers of requests; without a `pointwise` loss, a list without a positive is left out. `targets`
        are the codes of the events that make each other target true. `shared`: every list meets the candidates of the
        whole batch, without the retriever's word on them.
        """
        self.shared = shared
        self.targets = list(targets)
        self.features, self.lists, self.pairs, self.sampled, self.seed = features, lists, pairs, sampled, seed
        self.rows = rows if pointwise else rows[lists.found()[rows]]
        if not lists.found()[rows].any():
            remedy = "propose more candidates, or train the retriever for longer"
            raise InputError(f"No candidate list to train on holds a right answer; {remedy}.")

    def lengths(self, epoch: int) -> np.ndarray:
        """States of a row: history entries (of this request, as far as they are read) and candidates."""
        histories, requests = self.features.data.histories, self.lists.requests.take(self.rows)
        sizes = np.diff(self.lists.offsets)[self.rows]
        if histories is None:
            return sizes
        past = np.where(requests.ends >= 0, requests.ends - histories.offsets[np.maximum(requests.users, 0)], 0)
        return sizes + np.minimum(past, self.features.max_items)

    def groups(self) -> np.ndarray:
        """0: users, 1: queries."""
        return (self.lists.requests.queries[self.rows] >= 0).astype(np.int64)

    def assemble(self, draw: Draw) -> PrunerBatch:
        """Make one batch."""
        if self.shared:
            return self._everyones(draw)
        rows, lists = self.rows[draw.rows], self.lists
        item, score, label = lists.table(rows)
        kept = self._kept(draw.epoch, rows, item, label)
        item, score, label = (np.take_along_axis(table, kept, axis=1) for table in (item, score, label))
        lexical, others = lists.lexical_table(rows), None
        if self.targets:
            others = np.take_along_axis(lists.others(rows, self.features.data, self.targets), kept[..., None], axis=1)
        left_out = np.arange(item.shape[1]) >= (kept >= 0).sum(1, keepdims=True)
        return assemble_lists(
            self.features, lists.requests.take(rows), np.where(left_out, -1, item), score, np.where(left_out, 0, label),
            lists.item_vectors, lists.user_vectors[rows], self.pairs, ranks=np.maximum(kept, 0),
            lexical=None if lexical is None else np.take_along_axis(lexical, kept, axis=1), others=others,
        )  # fmt: skip

    def _everyones(self, draw: Draw) -> PrunerBatch:
        """For texts that are read once for all: a candidate that anybody has in the batch of all processes is
        everyone's who had it not. What the retriever says of the others is not known, and nothing.
        """
        rows = self.rows[draw.rows if draw.whole is None else draw.whole]
        item, _, label = self.lists.table(rows)
        kept = self._kept(draw.epoch, rows, item, label)
        known = np.unique(np.take_along_axis(item, kept, axis=1)[kept >= 0])
        rows = self.rows[draw.rows]
        requests = self.lists.requests.take(rows)
        labels = np.zeros((len(rows), len(known)), dtype=np.float32)
        had = np.stack([np.isin(known, items) for items in seen_items(self.features.data, requests)])
        for row, (right, grade) in enumerate(zip(requests.target_rows, requests.grades, strict=True)):
            there = np.isin(right, known)
            labels[row, np.searchsorted(known, right[there])] = np.asarray(grade)[there]
        return assemble_lists(
            self.features, requests, np.where(had & (labels <= 0), -1, known), np.zeros_like(labels), labels,
            self.lists.item_vectors, self.lists.user_vectors[rows], self.pairs,
        )  # fmt: skip

    def _kept(self, epoch: int, rows: np.ndarray, item: np.ndarray, label: np.ndarray) -> np.ndarray:
        """[B, k] columns that stay, in the retriever's order; -1 is padding at the end."""
        chance = uniform(self.seed, epoch, (rows[:, None] << 20) + np.arange(item.shape[1]))
        chance = np.where(item < 0, 2.0, np.where(label > 0, -1.0, chance))
        order = np.argsort(chance, axis=1, kind="stable")
        real = (item >= 0).sum(1)
        count = np.minimum((label > 0).sum(1) + self.sampled, real)
        columns = np.where(np.arange(item.shape[1]) < count[:, None], order, item.shape[1])
        columns = np.sort(columns, axis=1)[:, : max(int(count.max(initial=0)), 1)]
        return np.where(columns < item.shape[1], columns, -1)


def list_evaluations(
    features: Features, lists: CandidateLists, rows: np.ndarray, pairs: PairTexts | None, *, batch_size: int = 64,
    part: int = 0, parts: int = 1, targets: Sequence[np.ndarray] = (),
) -> Iterator[ListEvaluation]:  # fmt: skip
    """Whole lists of some requests, dealt to one of several processes, in batches; uneven shares are fine."""
    mine = rows[part::parts]
    for start in range(0, len(mine), batch_size):
        yield _evaluation(features, lists, mine[start : start + batch_size], pairs, list(targets))


def _evaluation(
    features: Features, lists: CandidateLists, rows: np.ndarray, pairs: PairTexts | None, targets: list[np.ndarray]
) -> ListEvaluation:
    requests = lists.requests.take(rows)
    item, score, label = lists.table(rows)
    width = max([len(targets) for targets in requests.target_rows] + [1])
    right, grades = np.full((len(rows), width), -1, dtype=np.int64), np.zeros((len(rows), width), dtype=np.float32)
    for number, (own, grade) in enumerate(zip(requests.target_rows, requests.grades, strict=True)):
        right[number, : len(own)], grades[number, : len(own)] = own, grade
    batch = assemble_lists(
        features, requests, item, score, label, lists.item_vectors, lists.user_vectors[rows], pairs,
        lexical=lists.lexical_table(rows),
        others=lists.others(rows, features.data, targets) if targets else None,
    )  # fmt: skip
    answers = {"targets": torch.from_numpy(right), "grades": torch.from_numpy(grades)}
    return ListEvaluation(lists=batch, item=torch.from_numpy(item), **answers)
