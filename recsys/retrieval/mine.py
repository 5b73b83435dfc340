"""Hard negatives: what the retriever ranks high for a train query or user, and is not right.

Never the whole matrix: a block of requests is searched at a time, and a search holds as many items a request as it is
deep. What is right for a query, in any split, and what a user had up to his last train target is no negative, nor is
what scores so near to it that it may be right.
"""

import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import polars as pl

from recsys.data.histories import Histories
from recsys.data.mined import MineConfig
from recsys.data.requests import Requests, answered_queries, query_requests, target_requests
from recsys.data.split import TRAIN
from recsys.errors import InputError
from recsys.retrieval.candidates import trained_tasks
from recsys.retrieval.embed import OpenRetriever, embed_items, embed_requests
from recsys.retrieval.index import ItemIndex
from recsys.shards import Parts, write_atomic
from recsys.tables import DataConfig

AUDIT = "audit.json"
"""Beside the parts: what there is among the negatives, and what there must not be."""


@dataclass(frozen=True, kw_only=True)
class Audit:
    """Of all negatives of one kind of request."""

    requests: int
    negatives: int
    without: int
    """Requests without any negative."""
    right: int
    """Negatives that are right after all; 0, or something is wrong."""
    twice: int
    """Negatives that stand twice in one list; likewise."""
    too_near: int
    """Wrong items in the window of ranks that were left out for the margin."""
    popularity: float
    """Mean train popularity of a negative, over that of an item of the catalogue."""
    overlap: float | None
    """Share of these pairs that the last round had, too; None: there was none."""


def mine(
    retriever: OpenRetriever, folder: Path, config: MineConfig, *, last_round: Path | None, overwrite: bool,
    part: int = 2048,
) -> dict[str, Audit]:  # fmt: skip
    """Write negatives to folder/query and folder/user, for the tasks that the retriever was trained for.

    Each holds part-*.parquet (query_id or user_id, item_id, rank, score) and, last of all, audit.json. Users are asked
    at the last of their train targets, and nothing that they ever had in train is a negative for them.
    """
    tasks = trained_tasks(retriever.folder.parent)
    items, found = embed_items(retriever), {}
    vectors = retriever.vectors(items)
    index = ItemIndex.build(vectors)
    for kind, requests in _requests(retriever, tasks):
        place = folder / kind
        place.mkdir(parents=True, exist_ok=True)
        features, ways = retriever.features, (asdict(config), kind, part)
        read = retriever.data.hash, features.max_items, features.searches is not None
        made_from = {"retriever": retriever.weights(), "data": read, "settings": ways}
        parts = Parts.open(place, made_from, overwrite=overwrite)
        sums = _Sums(retriever, kind, last_round)
        for number, start in enumerate(range(0, len(requests), part)):
            some = requests.take(np.arange(start, min(start + part, len(requests))))
            users = np.concatenate(list(embed_requests(retriever, items, some)))
            right = right_items(retriever, some)
            frame, near = find_negatives(index, vectors, users, right, some.target_rows, config)
            if not parts.finished(number, str(len(some))):
                parts.write(number, _with_ids(retriever, kind, some, frame), inputs=str(len(some)))
            sums.add(some, right, frame, near)
        parts.audit([str(min(part, len(requests) - start)) for start in range(0, len(requests), part)])
        found[kind] = sums.audit()
        write_atomic(place / AUDIT, json.dumps(asdict(found[kind]), indent=1))
    if not found:
        raise InputError("There is nothing to mine for: no train query or user has a right item.")
    return found


def mine_round(run: Path, data: DataConfig, config: MineConfig) -> None:
    """Write RUN/mined with the model of RUN, for a training that mines anew (`negatives.refresh`)."""
    mine(OpenRetriever.open(run, data), run / "mined", config, last_round=None, overwrite=False)


def _requests(retriever: OpenRetriever, tasks: list[str]) -> Iterator[tuple[str, Requests]]:
    data = retriever.data
    if "query_to_item" in tasks and data.queries is not None:
        rows = answered_queries(data, TRAIN)
        if len(rows):
            yield "query", query_requests(data, rows, stage=TRAIN)
    if "next_item" in tasks and data.histories is not None:
        last = last_targets(data.histories)
        if len(last):
            yield "user", target_requests(data, TRAIN, last)


def last_targets(histories: Histories) -> np.ndarray:
    """Rows of the layout: each user's last train target, of those who have one."""
    rows = np.flatnonzero((histories.stage == TRAIN) & histories.target)
    users = np.searchsorted(histories.offsets, rows, side="right") - 1
    return rows[np.append(np.diff(users) != 0, True)] if len(rows) else rows


def right_items(retriever: OpenRetriever, requests: Requests) -> list[np.ndarray]:
    """Sorted items that are no negative of each request: whatever a query is said to be about, in any split, with a
    grade above 0; whatever a user had up to the request, and its target; by `split.items`, what is held out.
    """
    data, found = retriever.data, []
    held = data.catalogue.stage
    if held is not None and data.queries is not None:  # the split is one for queries alone
        others = np.flatnonzero(held != TRAIN)
        return [np.union1d(data.queries.relevant(int(query))[0], others) for query in requests.queries]
    for user, query, end, targets in zip(
        requests.users, requests.queries, requests.ends, requests.target_rows, strict=True
    ):
        if query >= 0 and data.queries is not None:
            item, grade = data.queries.relevant(int(query))
            found.append(np.unique(item[grade > 0]).astype(np.int64))
        else:
            assert data.histories is not None
            had = data.histories.item[int(data.histories.offsets[user]) : int(end)]
            found.append(np.unique(np.concatenate([had.astype(np.int64), targets])))
    return found


def find_negatives(
    index: ItemIndex, items: np.ndarray, users: np.ndarray, right: list[np.ndarray], targets: Sequence[np.ndarray],
    config: MineConfig,
) -> tuple[pl.DataFrame, int]:  # fmt: skip
    """The hard negatives of B requests.

    Args:
        index, items: of all items, and their vectors [N, D].
        users: [B, D] vectors of the requests.
        right: of each request, the distinct items that are no negatives.
        targets: of each request, the items whose scores the margin is below.
        config: which ranks, and how far below.

    Returns:
        Columns request, item, rank (from 1, among the wrong ones) and score; and how many were too near.
    """
    found, scores = index.search(users, min(config.last, len(index)), right)
    real = found >= 0
    count = np.maximum(real.sum(1), 1)
    mean = np.where(real, scores, 0).sum(1) / count
    spread = np.sqrt(np.where(real, (scores - mean[:, None]) ** 2, 0).sum(1) / count)
    best = np.array([(items[own] @ user).max(initial=-np.inf) for own, user in zip(targets, users, strict=True)])
    inside = real & (np.arange(found.shape[1]) >= config.first - 1)
    far = scores <= (best - config.margin * spread)[:, None]
    rows, ranks = np.nonzero(inside & far)
    frame = pl.DataFrame({
        "request": rows, "item": found[rows, ranks], "rank": (ranks + 1).astype(np.int32), "score": scores[rows, ranks],
    })  # fmt: skip
    return frame, int((inside & ~far).sum())


def _with_ids(retriever: OpenRetriever, kind: str, requests: Requests, frame: pl.DataFrame) -> pl.DataFrame:
    tables, roles = retriever.data.tables, retriever.config
    rows = (requests.queries if kind == "query" else requests.users)[frame["request"].to_numpy()]
    if kind == "query":
        assert tables.queries is not None
        ids = tables.queries[roles.queries.id].gather(rows)
    else:
        ids = tables.users[roles.users.id].gather(rows)
    item = tables.items[roles.items.id].gather(frame["item"])
    return frame.select(ids.alias(f"{kind}_id"), item.alias("item_id"), "rank", "score")


class _Sums:
    """What the audit counts, a block at a time."""

    def __init__(self, retriever: OpenRetriever, kind: str, last_round: Path | None) -> None:
        self.retriever, self.kind = retriever, kind
        self.popularity = retriever.data.popularity()
        self.requests = self.negatives = self.without = self.right = self.twice = self.near = self.shared = 0
        self.popular = 0.0
        self.before: pl.DataFrame | None = None
        if last_round is not None:
            parts = sorted((last_round / kind).glob("part-*.parquet"))
            if not parts:
                raise InputError(f"last_round {str(last_round)!r} has no {kind}/part-*.parquet; name a folder `mined`.")
            self.before = pl.scan_parquet(parts).select(f"{kind}_id", "item_id").collect()

    def add(self, requests: Requests, right: list[np.ndarray], frame: pl.DataFrame, near: int) -> None:
        """Count one block."""
        owner, item = frame["request"].to_numpy(), frame["item"].to_numpy()
        self.requests += len(requests)
        self.negatives += len(frame)
        self.without += len(requests) - len(np.unique(owner))
        known = np.repeat(np.arange(len(right)), [len(one) for one in right])
        pairs = pl.DataFrame({"request": known, "item": np.concatenate(right)})
        self.right += len(frame.join(pairs, on=["request", "item"], how="semi"))
        self.twice += len(frame) - frame.select("request", "item").n_unique()
        self.near += near
        self.popular += float(self.popularity[item].sum())
        if self.before is not None:
            pairs = _with_ids(self.retriever, self.kind, requests, frame)
            self.shared += len(pairs.join(self.before, on=[f"{self.kind}_id", "item_id"], how="semi"))

    def audit(self) -> Audit:
        """Of all blocks."""
        mean = float(self.popularity.mean()) or 1.0
        return Audit(
            requests=self.requests, negatives=self.negatives, without=self.without, right=self.right, twice=self.twice,
            too_near=self.near, popularity=self.popular / max(self.negatives, 1) / mean,
            overlap=None if self.before is None else self.shared / max(self.negatives, 1),
        )  # fmt: skip


def print_audit(found: dict[str, Audit]) -> str:
    """As lines."""
    lines = []
    for kind, one in found.items():
        lines.append(f"{kind}: {one.negatives:,} negatives of {one.requests:,} requests, {one.without:,} without any")
        lines.append(f"  right after all {one.right}, twice {one.twice}, left out as too near {one.too_near:,}")
        again = "" if one.overlap is None else f", {one.overlap:.0%} were there in the last round"
        lines.append(f"  {one.popularity:.2f} times as popular as an item of the catalogue{again}")
    return "\n".join(lines)
