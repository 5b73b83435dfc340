"""What holds for every test: one thread, no network."""

import os

os.environ["HF_HUB_OFFLINE"] = "1"  # read when huggingface_hub is imported, so before everything else

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import torch

from recsys.data.prepare import Prepared, prepare
from recsys.data.requests import candidate_requests, join_requests, seen_items
from recsys.shards import Parts
from recsys.tables import DataConfig, InteractionsConfig, ItemsConfig, QueriesConfig, RelevanceConfig, SplitConfig, UsersConfig

torch.set_num_threads(1)

TASKS = ["next_item", "query_to_item"]


@dataclass(frozen=True)
class Cascade:
    """What stands between a retriever and a pruner: a data set and the candidates of a retriever that guesses."""

    config: DataConfig
    data: Prepared
    candidates: Path

    @classmethod
    def make(cls, folder: Path, *, users: int = 12, items: int = 30, top_k: int = 12) -> "Cascade":
        rng = np.random.default_rng(0)
        _write_tables(folder / "tables", rng, users, items)
        config = DataConfig(
            root=str(folder / "tables"), cache=str(folder / "cache"),
            items=ItemsConfig(text=["title", "words"], category=["kind"], number=["price"]), users=UsersConfig(category=["age", "town"]),
            interactions=InteractionsConfig(context=["page"]), split=SplitConfig(second=1, valid_queries=0.3),
            queries=QueriesConfig(user="user_id", order="timestamp"), relevance=RelevanceConfig(grade="grade"),
        )  # fmt: skip
        data = prepare(config)
        _write_candidates(folder / "candidates", data, rng, top_k)
        return cls(config, data, folder / "candidates")


def _write_tables(folder: Path, rng: np.random.Generator, users: int, items: int) -> None:
    folder.mkdir()
    words = np.array(["red", "blue", "small", "large", "warm", "round"])
    titles = [f"{words[item % 6]} thing {item}" for item in range(items)]
    tables = {
        "items": {
            "item_id": [f"i{item}" for item in range(items)], "title": titles, "words": [" ".join(rng.choice(words, 3)) for _ in range(items)],
            "kind": [f"kind {item % 4}" for item in range(items)], "price": rng.random(items),
        },
        "users": {"user_id": [f"u{user}" for user in range(users)], "age": ["18-24", "25-34"] * (users // 2), "town": ["x", None] * (users // 2)},
        "interactions": {
            "user_id": [f"u{user}" for user in range(users) for _ in range(8)],
            "item_id": [f"i{item}" for _ in range(users) for item in rng.permutation(items)[:8]],
            "timestamp": list(range(8)) * users, "page": rng.choice(["home", "search"], 8 * users),
        },
        "queries": {"query_id": range(10), "query": titles[:10], "user_id": [f"u{user}" for user in range(10)], "timestamp": [4.5] * 10},
        "relevance": {"query_id": [*range(10), *range(10)], "item_id": [f"i{item}" for item in range(20)], "grade": [2] * 10 + [1] * 10},
    }  # fmt: skip
    for name, columns in tables.items():
        pl.DataFrame({column: list(values) for column, values in columns.items()}).write_parquet(folder / f"{name}.parquet")


def _write_candidates(folder: Path, data: Prepared, rng: np.random.Generator, top_k: int) -> None:
    """Random scores, in which a right item stands a little higher."""
    groups = candidate_requests(data, TASKS)
    requests, stages = join_requests([one for _, one in groups]), [stage for stage, one in groups for _ in range(len(one))]
    rows = []
    for number, (right, grade, seen) in enumerate(zip(requests.target_rows, requests.grades, seen_items(data, requests), strict=True)):
        score = rng.normal(size=len(data.catalogue)).astype(np.float32)
        score[right] += 1
        score[seen] = -np.inf
        best = np.argsort(-score)[:top_k]
        labels = dict(zip(right.tolist(), grade.tolist(), strict=True))
        rows += [(number, stages[number], int(item), rank, float(score[item]), labels.get(int(item), 0.0)) for rank, item in enumerate(best)]
    frame = pl.DataFrame(rows, schema=["request", "stage", "item", "rank", "score", "label"], orient="row")
    kinds = {"item": pl.Int32, "rank": pl.Int32, "score": pl.Float32, "label": pl.Float32}
    parts, half = Parts.open(folder, "made up"), frame.filter(pl.col("request") < 5)
    for number, part in enumerate((half, frame.slice(len(half)))):
        parts.write(number, part.cast(kinds))
    np.save(folder / "item_vectors.npy", rng.normal(size=(len(data.catalogue), 8)).astype(np.float32))
    np.save(folder / "user_vectors.npy", rng.normal(size=(len(requests), 8)).astype(np.float32))
    (folder / "source.json").write_text(json.dumps({"retriever": "none", "data": data.hash, "tasks": TASKS, "top_k": top_k}))


@pytest.fixture
def cascade(tmp_path: Path) -> Cascade:
    """A data set of 12 users, 30 items and 10 queries, and a folder of candidates as if a retriever had written them."""
    return Cascade.make(tmp_path)
