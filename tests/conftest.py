"""What holds for every test: one thread, no network."""

import os

os.environ["HF_HUB_OFFLINE"] = "1"  # read when huggingface_hub is imported, so before everything else

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import torch
import yaml

from recsys.cli import main
from recsys.config import parse_run
from recsys.data.prepare import Prepared, prepare
from recsys.data.requests import candidate_requests, join_requests, seen_items
from recsys.recommend.cascade import Cascade as ServedCascade
from recsys.recommend.settings import InferRun
from recsys.shards import Parts
from recsys.tables import (
    DataConfig,
    InteractionsConfig,
    ItemsConfig,
    QueriesConfig,
    RelevanceConfig,
    SplitConfig,
    UsersConfig,
)

torch.set_num_threads(1)

TASKS = ["next_item", "query_to_item"]


@dataclass(frozen=True)
class Cascade:
    """What stands between a retriever and a pruner: a data set and the candidates of a retriever that guesses."""

    config: DataConfig
    data: Prepared
    candidates: Path

    @classmethod
    def make(
        cls, folder: Path, *, users: int = 12, items: int = 30, top_k: int = 12, second_queries: float = 0.0
    ) -> "Cascade":
        rng = np.random.default_rng(0)
        _write_tables(folder / "tables", rng, users, items)
        config = DataConfig(
            root=str(folder / "tables"), cache=str(folder / "cache"),
            items=ItemsConfig(text=["title", "words"], category=["kind"], number=["price"]),
            users=UsersConfig(category=["age", "town"]),
            interactions=InteractionsConfig(context=["page"]),
            split=SplitConfig(second=1, valid_queries=0.3, second_queries=second_queries),
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
            "item_id": [f"i{item}" for item in range(items)], "title": titles,
            "words": [" ".join(rng.choice(words, 3)) for _ in range(items)],
            "kind": [f"kind {item % 4}" for item in range(items)], "price": rng.random(items),
        },
        "users": {
            "user_id": [f"u{user}" for user in range(users)], "age": ["18-24", "25-34"] * (users // 2),
            "town": ["x", None] * (users // 2),
        },
        "interactions": {
            "user_id": [f"u{user}" for user in range(users) for _ in range(8)],
            "item_id": [f"i{item}" for _ in range(users) for item in rng.permutation(items)[:8]],
            "timestamp": list(range(8)) * users, "page": rng.choice(["home", "search"], 8 * users),
        },
        "queries": {
            "query_id": range(10), "query": titles[:10], "user_id": [f"u{user}" for user in range(10)],
            "timestamp": [4.5] * 10,
        },
        "relevance": {
            "query_id": [*range(10), *range(10)], "item_id": [f"i{item}" for item in range(20)],
            "grade": [2] * 10 + [1] * 10,
        },
    }  # fmt: skip
    for name, columns in tables.items():
        pl.DataFrame({column: list(values) for column, values in columns.items()}).write_parquet(
            folder / f"{name}.parquet"
        )


def _write_candidates(folder: Path, data: Prepared, rng: np.random.Generator, top_k: int) -> None:
    """Random scores, in which a right item stands a little higher."""
    groups = candidate_requests(data, TASKS)
    requests, stages = (
        join_requests([one for _, one in groups]),
        [stage for stage, one in groups for _ in range(len(one))],
    )
    rows = []
    for number, (right, grade, seen) in enumerate(
        zip(requests.target_rows, requests.grades, seen_items(data, requests), strict=True)
    ):
        score = rng.normal(size=len(data.catalogue)).astype(np.float32)
        score[right] += 1
        score[seen] = -np.inf
        best = np.argsort(-score)[:top_k]
        labels = dict(zip(right.tolist(), grade.tolist(), strict=True))
        rows += [
            (number, stages[number], int(item), rank, float(score[item]), labels.get(int(item), 0.0))
            for rank, item in enumerate(best)
        ]
    frame = pl.DataFrame(rows, schema=["request", "stage", "item", "rank", "score", "label"], orient="row")
    kinds = {"item": pl.Int32, "rank": pl.Int32, "score": pl.Float32, "label": pl.Float32}
    parts, half = Parts.open(folder, {"of": "made up"}), frame.filter(pl.col("request") < 5)
    for number, part in enumerate((half, frame.slice(len(half)))):
        parts.write(number, part.cast(kinds))
    np.save(folder / "item_vectors.npy", rng.normal(size=(len(data.catalogue), 8)).astype(np.float32))
    np.save(folder / "user_vectors.npy", rng.normal(size=(len(requests), 8)).astype(np.float32))
    (folder / "source.json").write_text(
        json.dumps({"retriever": "none", "data": data.hash, "tasks": TASKS, "top_k": top_k, "rows": len(frame)})
    )


@pytest.fixture(scope="session")
def cascades() -> type[Cascade]:
    """The maker of such data sets, for a test that needs its own."""
    return Cascade


@pytest.fixture
def cascade(tmp_path: Path) -> Cascade:
    """A data set of 12 users, 30 items and 10 queries, and candidates as if a retriever had written them."""
    return Cascade.make(tmp_path)


TEXT = {"model": "config:", "mode": "full", "max_tokens": 16, "layers": 1, "width": 32, "heads": 2, "vocab": 300}


@dataclass(frozen=True)
class Journey:
    """A tiny shop, and a retriever and a pruner that were trained on it by the commands that a user would type."""

    folder: Path

    @classmethod
    def walk(cls, folder: Path) -> "Journey":
        made = cls(folder)
        write_shop_tables(folder / "tables")
        made.write("retriever", tasks=TASKS, model=made.retriever, negatives={"kind": "batch", "random": 16})
        made.write("pruner", candidates=f"{folder}/runs/infer/candidates", model=made.pruner)
        runs = {"retriever": f"{folder}/runs/retriever", "pruner": f"{folder}/runs/pruner"}
        made.write("infer", **runs, candidates=20, decision={"top": 10}, part=16, threads=1, samples=2)
        for command in ("train retriever", "infer candidates infer", "train pruner"):
            *words, config = command.split()
            assert main([*words, str(made.config(config))]) == 0
        return made

    @property
    def retriever(self) -> dict[str, Any]:
        return {"text": TEXT, "width": 32, "history": {"layers": 1, "heads": 2}}

    @property
    def pruner(self) -> dict[str, Any]:
        text = {"model": f"{self.folder}/runs/retriever/model/text", "mode": "frozen", "max_tokens": 16}
        return {"text": text, "width": 32, "layers": 1, "heads": 2, "history": 8}

    def write(self, task: str, *, name: str | None = None, data: dict[str, Any] | None = None, **values: Any) -> Path:
        """A config of this shop, called as its task if not `name`."""
        roles: dict[str, Any] = {
            "root": f"{self.folder}/tables", "cache": f"{self.folder}/cache",
            "items": {"text": ["title", "words"], "category": ["kind"], "number": ["price"]},
            "users": {"category": ["age", "town", "orders"], "number": ["visits"], "bands": {"orders": 3}},
            "interactions": {"event": "event", "target_events": ["buy"], "context": ["page"]},
            "queries": {"user": "user_id", "order": "timestamp"}, "relevance": {"grade": "grade"},
            "split": {"by": "last", "second": 1, "valid_queries": 0.3}, "history": {"max_items": 20},
        }  # fmt: skip
        trained = {
            "loader": {"batch_size": 16},
            "optim": {"epochs": 1, "lr": 0.003, "text_lr": 0.001},
            "trainer": {"threads": 1, "accelerator": "cpu"},
        }
        until = {"history": {"max_items": 20, "until": "valid"}}
        content = {"task": task, "name": name or task, "runs": f"{self.folder}/runs"}
        content |= {"data": {**roles, **(until if task == "infer" else {}), **(data or {})}}
        content |= {**({} if task == "infer" else trained), **values}
        self.config(name or task).write_text(yaml.safe_dump(content))
        return self.config(name or task)

    def config(self, name: str) -> Path:
        """Of the runs `retriever`, `pruner`, `infer`, and those that a test has written."""
        return self.folder / f"{name}.yaml"

    def infer(self, *overrides: str, output: Path) -> InferRun:
        """The inference run's config, with its output in a place of the test's own."""
        places = (f"--runs={output}", f"--data.cache={self.folder}/cache")
        return parse_run(InferRun, [str(self.config("infer")), *places, *overrides])


def write_shop_tables(folder: Path, *, users: int = 40, items: int = 60) -> None:
    """Tables in which a user buys along a ring of items, and looks at some on the way."""
    rng = np.random.default_rng(0)
    folder.mkdir(parents=True)
    kinds = [f"kind {item % 5}" for item in range(items)]
    words = np.array(["red", "blue", "small", "large", "warm", "round", "flat", "soft"])
    described = [" ".join(rng.choice(words, 3)) for _ in range(items)]
    bought = (rng.integers(0, items, (users, 1)) + np.arange(12) * 7) % items
    names = [f"i{item:03d}" for item in range(items)]
    tables = {
        "items": {
            "item_id": names, "title": [f"{words[item % 8]} thing {item}" for item in range(items)],
            "words": described, "kind": kinds, "price": rng.random(items),
        },
        "users": {
            "user_id": [f"u{user:03d}" for user in range(users)], "age": rng.choice(["18-24", "25-34"], users),
            "town": [None if user % 7 == 0 else f"town {user % 3}" for user in range(users)],
            "visits": rng.random(users), "orders": [None if user % 9 == 0 else user % 8 for user in range(users)],
        },
        "interactions": {
            "user_id": np.repeat([f"u{user:03d}" for user in range(users)], 12),
            "item_id": [names[item] for item in bought.ravel()], "timestamp": np.tile(np.arange(12), users),
            "event": np.tile(["view", "buy", "buy"], 4 * users), "page": rng.choice(["home", "search"], 12 * users),
        },
        "queries": {
            "query_id": range(20), "query": [described[item] for item in range(20)],
            "user_id": [f"u{user:03d}" if user % 2 else None for user in range(20)], "timestamp": [4.5] * 20,
        },
        "relevance": {"query_id": [*range(20)] * 2, "item_id": names[:40], "grade": [2] * 20 + [1] * 20},
    }  # fmt: skip
    for name, columns in tables.items():
        pl.DataFrame({column: list(values) for column, values in columns.items()}).write_parquet(
            folder / f"{name}.parquet"
        )


@pytest.fixture(scope="session")
def journey(tmp_path_factory: pytest.TempPathFactory) -> Journey:
    """A trained retriever and pruner on a shop of 60 items and 40 users. Read only: write what you make elsewhere."""
    return Journey.walk(tmp_path_factory.mktemp("journey"))


@pytest.fixture(scope="session")
def served(journey: Journey) -> ServedCascade:
    """The journey's models, ready to answer as of the valid split."""
    one = parse_run(InferRun, [str(journey.config("infer"))])
    return ServedCascade.open(one.retriever, one.pruner, one.data, one.candidates, one.decision)
