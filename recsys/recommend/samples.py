"""Examples for the report: what a few requests had, what was proposed and what was kept."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch

from recsys.data.requests import Requests, request_pasts
from recsys.metrics.long_tail import SEGMENTS, popularity_segments
from recsys.recommend.cascade import Cascade, Lists
from recsys.shards import write_atomic

HISTORY = 24
"""Latest entries of a history that are told."""


def write_samples(path: Path, cascade: Cascade, requests: Requests, *, count: int, seed: int = 0) -> None:
    """Write history, candidates and final list of a few users, drawn by `seed`, as JSON.

    The file holds user ids and profiles; the report shows them only when asked to.
    """
    rows = np.sort(np.random.default_rng(seed).permutation(len(requests))[:count])
    picked = requests.take(rows)
    lists = cascade.recommend(picked)
    pasts = request_pasts(cascade.retriever.features, picked)
    tail = tail_items(cascade)
    users = [_sample(cascade, picked, lists, past.item, row, tail) for row, past in enumerate(pasts)]
    write_atomic(path, json.dumps({"users": users}, ensure_ascii=False))


def tail_items(cascade: Cascade) -> np.ndarray:
    """[N] bool: items beyond head and torso (`popularity_segments`), those that nobody has taken among them."""
    segments = popularity_segments(torch.from_numpy(cascade.data.popularity()))
    return (segments >= SEGMENTS.index("tail")).numpy()


def _sample(
    cascade: Cascade, requests: Requests, lists: Lists, history: np.ndarray, row: int, tail: np.ndarray
) -> dict[str, Any]:
    people, roles = cascade.data.tables.users, cascade.config.users
    user, targets = people.row(int(requests.users[row]), named=True), set(requests.target_rows[row].tolist())

    def card(item: int) -> dict[str, Any]:
        return {**_card(cascade, item), "is_target": item in targets, "is_tail": bool(tail[item])}

    return {
        "id": str(user[roles.id]),
        "profile": {name: str(user[name]) for name in [*roles.category, *roles.number] if user[name] is not None},
        "history": [_card(cascade, item) for item in history[history >= 0][-HISTORY:].tolist()],
        "target": _card(cascade, min(targets)) if targets else None,
        "candidates": [
            {**card(item), "retriever_score": score}
            for item, score in zip(lists.candidates[row].tolist(), lists.candidate_scores[row].tolist(), strict=True)
            if item >= 0
        ],
        "recommendations": [
            {**card(item), "rank": place + 1, **_scores(lists, row, place)}
            for place, item in enumerate(lists.items[row].tolist())
            if item >= 0
        ],
    }


def _scores(lists: Lists, row: int, place: int) -> dict[str, float | None]:
    pruner = lists.pruner_scores
    return {
        "score": float(lists.scores[row, place]),
        "retriever_score": float(lists.retriever_scores[row, place]),
        "pruner_score": None if pruner is None else float(pruner[row, place]),
    }


def _card(cascade: Cascade, item: int) -> dict[str, Any]:
    """An item in words, and where its picture lies."""
    roles, row = cascade.config.items, cascade.data.tables.items.row(item, named=True)
    named = (row[name] for name in [*roles.text, roles.id])
    picture = row[roles.image] if roles.image else None
    detail = [str(row[name]) for name in [*roles.category, *roles.number] if row[name] is not None]
    return {
        "item_id": str(row[roles.id]),
        "title": str(next(value for value in named if value is not None)),
        "image": str((Path(cascade.config.root) / picture).resolve()) if isinstance(picture, str) else None,
        "detail": " · ".join(detail),
    }
