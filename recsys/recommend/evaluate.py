"""Lists that were written, measured against a split; and the baselines on the same requests."""

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import polars as pl
import torch

from recsys.data.requests import Requests, seen_items
from recsys.data.split import VALID
from recsys.metrics.accumulate import RankingMetrics
from recsys.metrics.long_tail import popularity_segments
from recsys.metrics.per_request import RequestValues
from recsys.metrics.ranking import rank_of_targets, top_items
from recsys.recommend.cascade import Cascade
from recsys.retrieval.baselines import Markov, Popularity
from recsys.shards import Parts

SHOWN = 10
"""Length of the lists whose coverage, Gini and novelty are told."""


@dataclass(frozen=True, kw_only=True)
class Quality:
    """What some lists are worth."""

    metrics: dict[str, float]
    each: dict[str, np.ndarray]
    """Columns of `RequestValues`: what each request with a target is worth, by its place among all."""
    seconds: float | None = None
    """To make them."""


def evaluate_lists(cascade: Cascade, requests: Requests, ids: pl.Series, parts: Parts, *, part: int) -> Quality:
    """Metrics of the written lists, by the trainer's rules; a target that is not in its list is a miss.

    Args:
        cascade: that made the lists.
        requests: R requests, each with what would have been right.
        ids: [R] what stands in the first column of the parts for each request, distinct.
        parts: of `part` requests each, in their order; one part is read at a time.
        part: requests in a part.
    """
    length = cascade.length
    metrics, each = _measures(cascade, len(requests), ks=[k for k in (10, 20, 100) if k <= length] or [SHOWN])
    for number, rows in enumerate(_blocks(len(requests), part)):
        piece = requests.take(rows)
        shown = read_lists(cascade, pl.read_parquet(parts.path(number)), ids.gather(rows), max(length, SHOWN))
        targets, grades = padded(piece)
        ranks = torch.from_numpy(list_ranks(shown, targets, len(cascade.data.catalogue)))
        right, worth = torch.from_numpy(targets), torch.from_numpy(grades)
        metrics.update(ranks, right, torch.from_numpy(shown), worth)
        each.update(ranks, right, worth)
    return Quality(metrics=metrics.compute(), each=each.compute())


def read_lists(cascade: Cascade, frame: pl.DataFrame, ids: pl.Series, length: int) -> np.ndarray:
    """[B, length] rows of the items table, padded with -1: the lists of these B ids in a written part."""
    key = frame.columns[0]
    owners = pl.DataFrame({key: ids, "row": np.arange(len(ids))})
    items = pl.DataFrame({"item_id": cascade.item_ids, "item": np.arange(len(cascade.item_ids))})
    found = frame.select(key, "rank", "item_id").join(owners, on=key).join(items, on="item_id")
    lists = np.full((len(ids), length), -1, dtype=np.int64)
    lists[found["row"].to_numpy(), found["rank"].to_numpy() - 1] = found["item"].to_numpy()
    return lists


def list_ranks(items: np.ndarray, targets: np.ndarray, total: int) -> np.ndarray:
    """[B, P] place of each target in its list [B, L]; `total` where it does not stand there (a miss), -1 at padding."""
    same = items[:, None, :] == targets[:, :, None]
    ranks = np.where(same.any(-1), same.argmax(-1), total)
    return np.where(targets < 0, -1, ranks)


def evaluate_baselines(cascade: Cascade, requests: Requests) -> dict[str, Quality]:
    """Popularity and Markov on the same requests, by full ranking."""
    histories = cascade.data.histories
    assert histories is not None
    learnt = (histories.stage < VALID) & histories.target
    ends = np.concatenate([[0], np.cumsum(learnt)])[histories.offsets]
    train = np.split(histories.item[learnt].astype(np.int64), ends[1:-1])
    items, found = len(cascade.data.catalogue), {}
    for name, kind in (("popularity", Popularity), ("Markov", Markov)):
        begin = time.perf_counter()
        model, (metrics, each) = kind.fit(train, items), _measures(cascade, len(requests), ks=(10, 20, 100))
        for rows in _blocks(len(requests), max((1 << 22) // items, 1)):
            piece = requests.take(rows)
            scores = model.scores(_before(cascade, piece))
            _update_full(metrics, each, piece, scores, _unlisted(cascade, piece))
        spent = time.perf_counter() - begin
        found[name] = Quality(metrics=metrics.compute(), each=each.compute(), seconds=spent)
    return found


def _blocks(count: int, size: int) -> Iterator[np.ndarray]:
    return (np.arange(start, min(start + size, count)) for start in range(0, count, size))


def _before(cascade: Cascade, requests: Requests) -> list[np.ndarray]:
    """The visible target events of each request, oldest first."""
    histories = cascade.data.histories
    assert histories is not None
    ends = zip(requests.users, requests.ends, strict=True)
    spans = [slice(int(histories.offsets[user]), int(end)) for user, end in ends]
    return [histories.item[span][histories.target[span]].astype(np.int64) for span in spans]


def _unlisted(cascade: Cascade, requests: Requests) -> list[np.ndarray]:
    """What the cascade does not list for each request."""
    seen, filters = seen_items(cascade.data, requests), cascade.data.filters
    if filters is None:
        return seen
    allowed = filters.of(requests.users)
    return [np.union1d(own, np.flatnonzero(~allowed.masks[at])) for own, at in zip(seen, allowed.group, strict=True)]


def _update_full(
    metrics: RankingMetrics, each: RequestValues, requests: Requests, scores: np.ndarray, seen: list[np.ndarray]
) -> None:
    targets, grades = (torch.from_numpy(values) for values in padded(requests))
    values, hidden = torch.from_numpy(scores), torch.zeros(scores.shape, dtype=torch.bool)
    for row, items in enumerate(seen):
        hidden[row, items] = True
    ranks = rank_of_targets(values, targets, hidden)
    metrics.update(ranks, targets, top_items(values, SHOWN, hidden), grades)
    each.update(ranks, targets, grades)


def _measures(cascade: Cascade, count: int, ks: Sequence[int]) -> tuple[RankingMetrics, RequestValues]:
    """Of `count` requests: all together, and each."""
    popularity = torch.from_numpy(cascade.data.popularity())
    segments = popularity_segments(popularity)
    together = RankingMetrics(segments=segments, popularity=popularity, ks=ks, list_k=SHOWN)
    return together, RequestValues(count, segments)


def padded(requests: Requests) -> tuple[np.ndarray, np.ndarray]:
    """Targets [B, P] int64 and grades [B, P] float32, padded with -1 and 0."""
    width = max([len(items) for items in requests.target_rows] + [1])
    targets = np.full((len(requests), width), -1, dtype=np.int64)
    grades = np.zeros((len(requests), width), dtype=np.float32)
    for row, (items, grade) in enumerate(zip(requests.target_rows, requests.grades, strict=True)):
        targets[row, : len(items)], grades[row, : len(items)] = items, grade
    return targets, grades
