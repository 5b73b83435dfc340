"""The retriever's own candidates for requests whose answers are known: what the second selection learns from."""

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
from recsys.shards import Parts, fingerprint, folder_hash


@dataclass(frozen=True, kw_only=True)
class Found:
    """Candidates of some requests, best first."""

    items: np.ndarray  # [B, K] int64, -1 padded
    scores: np.ndarray  # [B, K] float32
    users: np.ndarray  # [B, D] float32, vectors of the requests


def retrieve(retriever: OpenRetriever, index: ItemIndex, items: np.ndarray, requests: Requests, k: int) -> Found:
    """The k nearest unseen items of each request."""
    vectors = np.concatenate(list(embed_requests(retriever, items, requests)))
    found, scores = index.search(vectors, min(k, len(index)), seen_items(retriever.data, requests))
    return Found(items=found, scores=scores, users=vectors)


def write_candidates(retriever: OpenRetriever, folder: Path, *, top_k: int, overwrite: bool, part: int = 2048) -> int:
    """Write candidates, item vectors and request vectors to `folder`; returns the number of requests.

    Files: part-*.parquet (request, stage, item, rank, score, label), item_vectors.npy [N, D],
    user_vectors.npy [requests, D], source.json.
    """
    data = retriever.data
    tasks = _tasks(retriever.folder.parent)
    print_ = fingerprint(folder_hash(retriever.folder), data.hash, top_k, tasks)
    groups = candidate_requests(data, tasks)
    if not sum(len(requests) for _, requests in groups):
        raise InputError("No request has a known answer: set data.split.second to 1 or more, or give queries with relevance.")
    parts = Parts.open(folder, print_, overwrite=overwrite)
    items = embed_items(retriever)
    index, number, first, vectors = ItemIndex.build(items), 0, 0, []
    for stage, requests in groups:
        for start in range(0, len(requests), part):
            piece = requests.take(np.arange(start, min(start + part, len(requests))))
            found = retrieve(retriever, index, items, piece, top_k)
            vectors.append(found.users)
            if not parts.finished(number):
                parts.write(number, _frame(piece, found, stage, first))
            number, first = number + 1, first + len(piece)
    np.save(folder / "item_vectors.npy", items)
    np.save(folder / "user_vectors.npy", np.concatenate(vectors))
    (folder / "source.json").write_text(
        json.dumps({"retriever": str(retriever.folder), "data": data.hash, "tasks": tasks, "top_k": top_k, "fingerprint": print_})
    )
    return first


def _tasks(run: Path) -> list[str]:
    path = run / "config.yaml"
    if not path.is_file():
        raise InputError(f"{run} has no config.yaml; expected the folder of a retriever's training run.")
    return yaml.safe_load(path.read_text())["tasks"]


def _frame(requests: Requests, found: Found, stage: str, first: int) -> pl.DataFrame:
    rows, ranks = np.nonzero(found.items >= 0)
    item = found.items[rows, ranks]
    grades = [dict(zip(t.tolist(), g.tolist(), strict=True)) for t, g in zip(requests.target_rows, requests.grades, strict=True)]
    label = np.array([grades[row].get(one, 0.0) for row, one in zip(rows.tolist(), item.tolist(), strict=True)], dtype=np.float32)
    return pl.DataFrame(
        {
            "request": first + rows, "stage": pl.repeat(stage, len(rows), eager=True), "item": item.astype(np.int32),
            "rank": ranks.astype(np.int32), "score": found.scores[rows, ranks], "label": label,
        }
    )  # fmt: skip

