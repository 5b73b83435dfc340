"""Lists that were written, measured against a split; and the baselines on the same requests."""

import time
from collections.abc import Iterator

import numpy as np
import polars as pl
import torch

from recsys.data.requests import Requests, seen_items
from recsys.data.split import VALID
from recsys.metrics.accumulate import RankingMetrics
from recsys.metrics.long_tail import popularity_segments
from recsys.metrics.ranking import rank_of_targets, top_items
from recsys.recommend.cascade import Cascade
from recsys.retrieval.baselines import Markov, Popularity
from recsys.shards import Parts

SHOWN = 10
"""Length of the lists whose coverage, Gini and novelty are told."""


def evaluate_lists(
    cascade: Cascade, requests: Requests, ids: pl.Series, parts: Parts, *, part: int
) -> dict[str, float]:
    """Metrics of the written lists, by the trainer's rules; a target that is not in its list is a miss.

    Args:
        cascade: that made the lists.
        requests: R requests, each with what would have been right.
        ids: [R] what stands in the first column of the parts for each request, distinct.
        parts: of `part` requests each, in their order; one part is read at a time.
        part: requests in a part.
    """
    length = min(cascade.decision.top or cascade.top_k, len(cascade.data.catalogue))
    metrics = _metrics(cascade, ks=[k for k in (10, 20, 100) if k <= length] or [SHOWN])
    for number, rows in enumerate(_blocks(len(requests), part)):
        piece = requests.take(rows)
        shown = read_lists(cascade, pl.read_parquet(parts.path(number)), ids.gather(rows), max(length, SHOWN))
        targets, grades = padded(piece)
        ranks = list_ranks(shown, targets, len(cascade.data.catalogue))
        metrics.update(*(torch.from_numpy(values) for values in (ranks, targets, shown, grades)))
    return metrics.compute()


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


def evaluate_baselines(cascade: Cascade, requests: Requests) -> dict[str, tuple[dict[str, float], float]]:
    """Popularity and Markov on the same requests, by full ranking; metrics and seconds of each."""
    histories = cascade.data.histories
    assert histories is not None
    learnt = (histories.stage < VALID) & histories.target
    ends = np.concatenate([[0], np.cumsum(learnt)])[histories.offsets]
    train = np.split(histories.item[learnt].astype(np.int64), ends[1:-1])
    items, found = len(cascade.data.catalogue), {}
    for name, kind in (("popularity", Popularity), ("Markov", Markov)):
        begin = time.perf_counter()
        model, metrics = kind.fit(train, items), _metrics(cascade, ks=(10, 20, 100))
        for rows in _blocks(len(requests), max((1 << 22) // items, 1)):
            piece = requests.take(rows)
            _update_full(metrics, piece, model.scores(_before(cascade, piece)), seen_items(cascade.data, piece))
        found[name] = metrics.compute(), time.perf_counter() - begin
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


def _update_full(metrics: RankingMetrics, requests: Requests, scores: np.ndarray, seen: list[np.ndarray]) -> None:
    targets, grades = (torch.from_numpy(values) for values in padded(requests))
    values, hidden = torch.from_numpy(scores), torch.zeros(scores.shape, dtype=torch.bool)
    for row, items in enumerate(seen):
        hidden[row, items] = True
    metrics.update(rank_of_targets(values, targets, hidden), targets, top_items(values, SHOWN, hidden), grades)


def _metrics(cascade: Cascade, ks: list[int] | tuple[int, ...]) -> RankingMetrics:
    popularity = torch.from_numpy(cascade.data.popularity())
    return RankingMetrics(segments=popularity_segments(popularity), popularity=popularity, ks=ks, list_k=SHOWN)


def padded(requests: Requests) -> tuple[np.ndarray, np.ndarray]:
    """Targets [B, P] int64 and grades [B, P] float32, padded with -1 and 0."""
    width = max([len(items) for items in requests.target_rows] + [1])
    targets = np.full((len(requests), width), -1, dtype=np.int64)
    grades = np.zeros((len(requests), width), dtype=np.float32)
    for row, (items, grade) in enumerate(zip(requests.target_rows, requests.grades, strict=True)):
        targets[row, : len(items)], grades[row, : len(items)] = items, grade
    return targets, grades
