"""Lists that were written, measured against a split; the baselines on the same requests; and examples for the report."""

import json
import time
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import torch

from recsys.data.requests import Requests, request_pasts, seen_items
from recsys.data.split import VALID
from recsys.metrics.accumulate import RankingMetrics
from recsys.metrics.long_tail import popularity_segments
from recsys.metrics.ranking import rank_of_targets, top_items
from recsys.recommend.cascade import Cascade
from recsys.retrieval.baselines import Markov, Popularity
from recsys.shards import Parts, write_atomic

BATCH = 256


def list_ranks(items: np.ndarray, targets: np.ndarray, total: int) -> np.ndarray:
    """[B, P] place of each target in its list [B, L]; `total` (a miss) where it does not stand there; -1 for padding."""
    same = items[:, None, :] == targets[:, :, None]
    ranks = np.where(same.any(-1), same.argmax(-1), total)
    return np.where(targets < 0, -1, ranks)


def evaluate_lists(cascade: Cascade, requests: Requests, parts: Parts) -> dict[str, float]:
    """Metrics of the written lists; a target that is not in its list is a miss."""
    data, config = cascade.data, cascade.config
    users = data.tables.users.select(pl.col(config.users.id).alias("user_id")).with_row_index("user")
    items = data.tables.items.select(pl.col(config.items.id).alias("item_id")).with_row_index("item")
    rows = parts.frame().rename({config.users.id: "user_id"}, strict=False).select("user_id", "rank", "item_id")
    lists = rows.join(users.lazy(), on="user_id").join(items.lazy(), on="item_id").select("user", "rank", "item").collect()
    length = int(lists["rank"].max() or 1)  # type: ignore[arg-type]
    table = np.full((len(data.tables.users), length), -1, dtype=np.int64)
    table[lists["user"].to_numpy(), lists["rank"].to_numpy() - 1] = lists["item"].to_numpy()
    metrics = _metrics(cascade, ks=sorted({10, 20, 100} & set(range(length + 1)) | {10}))
    for start in range(0, len(requests), BATCH):
        piece = requests.take(np.arange(start, min(start + BATCH, len(requests))))
        targets, grades = padded(piece)
        shown = table[piece.users]
        ranks = list_ranks(shown, targets, len(data.catalogue))
        if shown.shape[1] < 10:
            shown = np.pad(shown, ((0, 0), (0, 10 - shown.shape[1])), constant_values=-1)
        metrics.update(torch.from_numpy(ranks), torch.from_numpy(targets), torch.from_numpy(shown), torch.from_numpy(grades))
    return metrics.compute()


def evaluate_baselines(cascade: Cascade, requests: Requests) -> dict[str, tuple[dict[str, float], float]]:
    """Popularity and Markov on the same requests, by full ranking; metrics and seconds of each."""
    data = cascade.data
    histories = data.histories
    assert histories is not None
    learnt = (histories.stage < VALID) & histories.target
    ends = np.concatenate([[0], np.cumsum(learnt)])[histories.offsets]
    train = np.split(histories.item[learnt].astype(np.int64), ends[1:-1])
    found = {}
    for name, kind in (("popularity", Popularity), ("Markov", Markov)):
        begin = time.perf_counter()
        model = kind.fit(train, len(data.catalogue))
        metrics = _metrics(cascade, ks=(10, 20, 100))
        for start in range(0, len(requests), BATCH):
            piece = requests.take(np.arange(start, min(start + BATCH, len(requests))))
            _update_full(metrics, piece, model.scores(_targets_before(cascade, piece)), seen_items(data, piece))
        found[name] = (metrics.compute(), time.perf_counter() - begin)
    return found


def _targets_before(cascade: Cascade, requests: Requests) -> list[np.ndarray]:
    """The visible target events of each request, oldest first."""
    histories = cascade.data.histories
    assert histories is not None
    spans = [slice(int(histories.offsets[user]), int(end)) for user, end in zip(requests.users, requests.ends, strict=True)]
    return [histories.item[span][histories.target[span]].astype(np.int64) for span in spans]


def _update_full(metrics: RankingMetrics, requests: Requests, scores: np.ndarray, seen: list[np.ndarray]) -> None:
    targets, grades = padded(requests)
    excluded = np.zeros(scores.shape, dtype=bool)
    for row, items in enumerate(seen):
        excluded[row, items] = True
    values, hidden, wanted = torch.from_numpy(scores), torch.from_numpy(excluded), torch.from_numpy(targets)
    metrics.update(rank_of_targets(values, wanted, hidden), wanted, top_items(values, 10, hidden), torch.from_numpy(grades))


def _metrics(cascade: Cascade, ks: Any) -> RankingMetrics:
    popularity = torch.from_numpy(cascade.data.popularity())
    return RankingMetrics(segments=popularity_segments(popularity), popularity=popularity, ks=ks)


def padded(requests: Requests) -> tuple[np.ndarray, np.ndarray]:
    """Targets [B, P] int64 and grades [B, P] float32, padded with -1 and 0."""
    width = max([len(items) for items in requests.target_rows], default=1) or 1
    targets = np.full((len(requests), width), -1, dtype=np.int64)
    grades = np.zeros((len(requests), width), dtype=np.float32)
    for row, (items, grade) in enumerate(zip(requests.target_rows, requests.grades, strict=True)):
        targets[row, : len(items)], grades[row, : len(items)] = items, grade
    return targets, grades


def write_samples(path: Path, cascade: Cascade, requests: Requests, *, count: int, images: Path, seed: int = 0) -> None:
    """samples.json: history, candidates and final list of a few requests, for the report."""
    rows = np.sort(np.random.default_rng(seed).permutation(len(requests))[:count])
    picked = requests.take(rows)
    lists = cascade.recommend(picked)
    pasts = request_pasts(cascade.retriever.features, picked)
    users = [_sample(cascade, picked, lists, pasts[row].item, row, images) for row in range(len(picked))]
    write_atomic(path, json.dumps({"users": users}, ensure_ascii=False))


def _sample(cascade: Cascade, requests: Requests, lists: Any, history: np.ndarray, row: int, images: Path) -> dict[str, Any]:  # noqa: PLR0913
    user, targets = int(requests.users[row]), set(requests.target_rows[row].tolist())
    people = cascade.data.tables.users
    proposed = [
        {**_card(cascade, int(item), images), "retriever_score": float(score), "is_target": int(item) in targets}
        for item, score in zip(lists.candidates[row], lists.candidate_scores[row], strict=True)
        if item >= 0
    ]
    kept = [
        {
            **_card(cascade, int(item), images), "rank": place + 1, "score": float(lists.scores[row, place]),
            "retriever_score": float(lists.retriever_scores[row, place]),
            "pruner_score": None if lists.pruner_scores is None else float(lists.pruner_scores[row, place]),
            "is_target": int(item) in targets,
        }
        for place, item in enumerate(lists.items[row]) if item >= 0
    ]  # fmt: skip
    return {
        "id": str(people[cascade.config.users.id][user]) if user >= 0 else None,
        "profile": {name: str(people[name][user]) for name in cascade.config.users.category} if user >= 0 else {},
        "query": None,
        "history": [_card(cascade, int(item), images) for item in history[-24:] if item >= 0],
        "target": _card(cascade, min(targets), images) if targets else None,
        "candidates": proposed,
        "recommendations": kept,
    }


def _card(cascade: Cascade, item: int, images: Path) -> dict[str, Any]:
    roles, row = cascade.config.items, cascade.data.tables.items.row(item, named=True)
    picture = row[roles.image] if roles.image else None
    detail = [str(row[name]) for name in [*roles.category, *roles.number] if row[name] is not None]
    title = str(row[roles.text[0]]) if roles.text else str(row[roles.id])
    image = str((images / picture).resolve()) if isinstance(picture, str) else None
    return {"item_id": str(row[roles.id]), "title": title, "image": image, "detail": " · ".join(detail)}
