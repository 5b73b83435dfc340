"""The retriever's own candidates for requests whose answers are known: what the second selection learns from."""

import io
import json
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
import polars as pl
import yaml

from recsys.data.filters import Allowed
from recsys.data.requests import Requests, candidate_requests, seen_items
from recsys.errors import InputError
from recsys.retrieval.embed import OpenRetriever, embed_items, embed_requests, order_candidates
from recsys.retrieval.hybrid import Hybrid, query_texts
from recsys.retrieval.index import ItemIndex
from recsys.retrieval.lexical import LexicalConfig
from recsys.shards import Parts, write_atomic


@dataclass(frozen=True, kw_only=True)
class Found:
    """Candidates of some requests, best first."""

    items: np.ndarray  # [B, K] int64, -1 padded
    scores: np.ndarray  # [B, K] float32
    users: np.ndarray  # [B, D] float32, vectors of the requests
    lexical: np.ndarray | None = None  # [B, K] float32 BM25 scores, 0 without a query; None: no lexical source


def retrieve(
    retriever: OpenRetriever, index: ItemIndex, items: np.ndarray, requests: Requests, k: int,
    hybrid: Hybrid | None = None, allowed: Allowed | None = None,
) -> Found:  # fmt: skip
    """The k best unseen items of each request; `items` are what `embed_items` gives, and their vectors in the index.

    A retriever with a dynamic representation takes them, in its order, from a longer list of the nearest. With
    `hybrid`, a query's list is fused with BM25's by the plain vectors; other requests are as without. With `allowed`,
    no other items are listed; a list is shorter than k only where fewer are left.
    """
    vectors, dynamic = np.concatenate(list(embed_requests(retriever, items, requests))), retriever.model.config.dynamic
    depth = min(k if dynamic is None else max(k, dynamic.candidates), len(index))
    found, scores = search_allowed(index, vectors, depth, seen_items(retriever.data, requests), allowed)
    if dynamic is not None:
        order, scores = order_candidates(retriever, items, vectors, found)
        found = np.take_along_axis(found, order, 1)
    plain = Found(items=found[:, :k].copy(), scores=scores[:, :k].copy(), users=vectors)
    return plain if hybrid is None else _fused(hybrid, retriever, items, requests, plain, allowed)


def search_allowed(
    index: ItemIndex, users: np.ndarray, k: int, seen: list[np.ndarray], allowed: Allowed | None
) -> tuple[np.ndarray, np.ndarray]:
    """`ItemIndex.search` with the filter of each user; those with one filter are searched together."""
    if allowed is None:
        return index.search(users, k, seen)
    items, scores = np.full((len(users), k), -1, dtype=np.int64), np.full((len(users), k), -np.inf, dtype=np.float32)
    for rows, mask in allowed.groups():
        items[rows], scores[rows] = index.search(users[rows], k, [seen[row] for row in rows], mask)
    return items, scores


def _fused(
    hybrid: Hybrid, retriever: OpenRetriever, items: np.ndarray, requests: Requests, plain: Found,
    allowed: Allowed | None,
) -> Found:  # fmt: skip
    """The same lists, but those of queries fused with BM25's. What a search does not hide, this does not either."""
    rows, lexical = np.flatnonzero(requests.queries >= 0), np.zeros(plain.scores.shape, dtype=np.float32)
    if len(rows):
        texts = query_texts(retriever.data, requests.take(rows))
        own = None if allowed is None else allowed.take(rows)
        fused = hybrid.fuse(texts, plain.users[rows], retriever.vectors(items), plain.items[rows], own)
        plain.items[rows], plain.scores[rows], lexical[rows] = fused.items, fused.scores, fused.lexical
    return replace(plain, lexical=lexical)


def write_candidates(
    retriever: OpenRetriever, folder: Path, *, top_k: int, overwrite: bool, part: int = 2048,
    lexical: LexicalConfig | None = None,
) -> int:  # fmt: skip
    """Write candidates, item vectors and request vectors to `folder`; returns the number of requests.

    With `lexical`, queries have the lists that are fused with BM25's, and source.json says how.
    Files: part-*.parquet (request, stage, item, rank, score, label), item_vectors.npy [N, D],
    user_vectors.npy [requests, D] and, last of all, source.json. A folder that is whole is left as it is.
    """
    features, tasks = retriever.features, trained_tasks(retriever.folder.parent)
    groups = candidate_requests(retriever.data, tasks)
    if not any(stage == "second" for stage, _ in groups):
        remedy = "set data.split.second to 1 or more before the retriever is trained"
        raise InputError(f"No row is kept for a pruner to learn from: {remedy}, or give queries with relevance.")
    inputs = retriever.weights(), retriever.data.hash, features.max_items, features.searches is not None
    made_from = {"models and data": inputs, "candidates": top_k, "tasks": tasks}
    made_from |= {"lexical": None if lexical is None else asdict(lexical)}
    parts = Parts.open(folder, made_from, overwrite=overwrite)
    if not (folder / "source.json").is_file():
        items = embed_items(retriever)
        index = ItemIndex.build(retriever.vectors(items))
        hybrid = None if lexical is None else Hybrid.open(lexical, retriever, index, items, top_k)
        users = _write_parts(retriever, parts, index, items, _pieces(groups, part), top_k, hybrid)
        _save(folder / "item_vectors.npy", retriever.vectors(items))
        _save(folder / "user_vectors.npy", users)
        source = {"retriever": str(retriever.folder), "data": retriever.data.hash, "tasks": tasks, "top_k": top_k}
        source["rows"] = parts.rows()
        source |= {} if hybrid is None else {"lexical": hybrid.settings}
        write_atomic(folder / "source.json", json.dumps(source))
    return sum(len(requests) for _, requests in groups)


def trained_tasks(run: Path) -> list[str]:
    """What a retriever was trained for, as its run's config says."""
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
    retriever: OpenRetriever, parts: Parts, index: ItemIndex, items: np.ndarray, pieces: list[tuple[str, Requests]],
    top_k: int, hybrid: Hybrid | None,
) -> np.ndarray:  # fmt: skip
    """Write what is not there yet; returns the vectors of all requests, [requests, D] float32."""
    vectors, first = [], 0
    for number, (stage, requests) in enumerate(pieces):
        found = retrieve(retriever, index, items, requests, top_k, hybrid)
        if not parts.finished(number):
            parts.write(number, _frame(requests, found, stage, first))
        vectors.append(found.users)
        first += len(requests)
    return np.concatenate(vectors)


def _frame(requests: Requests, found: Found, stage: str, first: int) -> pl.DataFrame:
    rows, ranks = np.nonzero(found.items >= 0)
    item = found.items[rows, ranks]
    lexical = {} if found.lexical is None else {"lexical_score": found.lexical[rows, ranks]}
    return pl.DataFrame(
        {
            "request": first + rows, "stage": pl.repeat(stage, len(rows), eager=True), "item": item.astype(np.int32),
            "rank": ranks.astype(np.int32), "score": found.scores[rows, ranks], "label": _labels(requests, rows, item),
            **lexical,
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
