"""The retriever's own candidates for requests whose answers are known: what the second selection learns from."""

import io
import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import polars as pl
import yaml

from recsys.data.requests import Requests, candidate_requests, seen_items
from recsys.errors import InputError
from recsys.retrieval.embed import OpenRetriever, embed_items, embed_requests
from recsys.retrieval.index import ItemIndex
from recsys.shards import Parts, fingerprint, folder_hash, write_atomic


@dataclass(frozen=True, kw_only=True)
class Found:
    """Candidates of some requests, best first."""

    items: np.ndarray  # [B, K] int64, -1 padded
    scores: np.ndarray  # [B, K] float32
    users: np.ndarray  # [B, D] float32, vectors of the requests


def retrieve(retriever: OpenRetriever, index: ItemIndex, items: np.ndarray, requests: Requests, k: int) -> Found:
    """The k nearest unseen items of each request; `items` are the vectors in the index."""
    vectors = np.concatenate(list(embed_requests(retriever, items, requests)))
    found, scores = index.search(vectors, min(k, len(index)), seen_items(retriever.data, requests))
    return Found(items=found, scores=scores, users=vectors)


def write_candidates(retriever: OpenRetriever, folder: Path, *, top_k: int, overwrite: bool, part: int = 2048) -> int:
    """Write candidates, item vectors and request vectors to `folder`; returns the number of requests.

    Files: part-*.parquet (request, stage, item, rank, score, label), item_vectors.npy [N, D],
    user_vectors.npy [requests, D] and, last of all, source.json. A folder that is whole is left as it is.
    """
    features, tasks = retriever.features, _tasks(retriever.folder.parent)
    groups = candidate_requests(retriever.data, tasks)
    if not any(stage == "second" for stage, _ in groups):
        remedy = "set data.split.second to 1 or more before the retriever is trained"
        raise InputError(f"No row is kept for a pruner to learn from: {remedy}, or give queries with relevance.")
    inputs = folder_hash(retriever.folder), retriever.data.hash, features.max_items, features.searches is not None
    parts = Parts.open(folder, fingerprint(inputs, top_k, tasks), overwrite=overwrite)
    if not (folder / "source.json").is_file():
        items = embed_items(retriever)
        users = _write_parts(retriever, parts, items, _pieces(groups, part), top_k)
        _save(folder / "item_vectors.npy", items)
        _save(folder / "user_vectors.npy", users)
        source = {"retriever": str(retriever.folder), "data": retriever.data.hash, "tasks": tasks, "top_k": top_k}
        write_atomic(folder / "source.json", json.dumps(source))
    return sum(len(requests) for _, requests in groups)


def _tasks(run: Path) -> list[str]:
    path = run / "config.yaml"
    content = yaml.safe_load(path.read_text()) if path.is_file() else None
    if not isinstance(content, dict) or "tasks" not in content:
        raise InputError(f"{path} names no tasks; expected {run} to be the folder of a retriever's training run.")
    return content["tasks"]


def _pieces(groups: list[tuple[str, Requests]], size: int) -> list[tuple[str, Requests]]:
    """The same requests in pieces of one stage and at most `size`."""
    return [
        (stage, requests.take(np.arange(start, min(start + size, len(requests)))))
        for stage, requests in groups
        for start in range(0, len(requests), size)
    ]


def _write_parts(
    retriever: OpenRetriever, parts: Parts, items: np.ndarray, pieces: list[tuple[str, Requests]], top_k: int
) -> np.ndarray:
    """Write what is not there yet; returns the vectors of all requests, [requests, D] float32."""
    index, vectors, first = ItemIndex.build(items), [], 0
    for number, (stage, requests) in enumerate(pieces):
        found = retrieve(retriever, index, items, requests, top_k)
        if not parts.finished(number):
            parts.write(number, _frame(requests, found, stage, first))
        vectors.append(found.users)
        first += len(requests)
    return np.concatenate(vectors)


def _frame(requests: Requests, found: Found, stage: str, first: int) -> pl.DataFrame:
    rows, ranks = np.nonzero(found.items >= 0)
    item = found.items[rows, ranks]
    return pl.DataFrame(
        {
            "request": first + rows, "stage": pl.repeat(stage, len(rows), eager=True), "item": item.astype(np.int32),
            "rank": ranks.astype(np.int32), "score": found.scores[rows, ranks], "label": _labels(requests, rows, item),
        }
    )  # fmt: skip


def _labels(requests: Requests, rows: np.ndarray, items: np.ndarray) -> np.ndarray:
    """Grade of each item for the request in whose list it stands; 0: not relevant. All [candidates]."""
    grades = {
        (row, item): grade
        for row, pair in enumerate(zip(requests.target_rows, requests.grades, strict=True))
        for item, grade in zip(*(values.tolist() for values in pair), strict=True)
    }
    pairs = zip(rows.tolist(), items.tolist(), strict=True)
    return np.array([grades.get(pair, 0.0) for pair in pairs], dtype=np.float32)


def _save(path: Path, values: np.ndarray) -> None:
    content = io.BytesIO()
    np.save(content, values, allow_pickle=False)
    write_atomic(path, content.getvalue())
