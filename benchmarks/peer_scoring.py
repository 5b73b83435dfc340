"""Pruner scoring: 100 candidates of each query by `score_candidates`, beside CrossEncoder.predict on the same pairs.

The weights are the same (`cross_encoder.py`). Ours reads tables, and makes pairs out of its token caches; the peer is
given pairs of strings, which is what it asks for. Queries are cut to half of a pair beforehand, as the pruner does, so
that both read the same tokens.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import polars as pl
import torch
from cross_encoder import Search
from turns import Pace

from recsys.config import TextConfig
from recsys.data.features import Features, Texts
from recsys.data.prepare import prepare
from recsys.data.requests import validation_requests
from recsys.heap import keep_freed_memory
from recsys.models.pruner import Pruner, PrunerConfig
from recsys.models.text import TextEncoder
from recsys.models.towers import Sizes
from recsys.recommend.score import open_pairs, score_candidates
from recsys.tables import DataConfig, ItemsConfig, QueriesConfig, RelevanceConfig, SplitConfig

BATCH = 64


@dataclass(frozen=True, kw_only=True)
class Scoring:
    """What is scored."""

    folder: str
    """With tables/, cross_encoder/ and candidates.npy."""
    precision: str = "fp32"
    max_tokens: int = 128
    queries: int = 20
    """That are scored in a turn."""


def write_task(search: Search, folder: Path) -> None:
    """The tables that ours reads, and the candidates, row by row."""
    tables = folder / "tables"
    tables.mkdir()
    count = len(search.queries)
    pl.DataFrame({"item_id": np.arange(len(search.items)), "text": search.items}).write_parquet(
        tables / "items.parquet"
    )
    asked = pl.DataFrame({"query_id": np.arange(count), "query": search.queries, "split": ["valid"] * count})
    asked.write_parquet(tables / "queries.parquet")
    pl.DataFrame({"query_id": np.arange(count), "item_id": search.right}).write_parquet(tables / "relevance.parquet")
    np.save(folder / "candidates.npy", search.candidates)


def open_pruner(folder: str, max_tokens: int) -> Pruner:
    """The pruner with the cross-encoder's body, pooler and output."""
    from transformers import BertForSequenceClassification

    whole = BertForSequenceClassification.from_pretrained(f"{folder}/text")
    text = TextConfig(model=f"{folder}/text", mode="full", pooling="cls", max_tokens=max_tokens)
    encoder = TextEncoder.build(text, whole.config.vocab_size)
    model = Pruner(PrunerConfig(text=text, evidence="after"), Sizes(items=1), encoder, vector_width=1)
    model.norm = torch.nn.Identity()
    model.head = torch.nn.Sequential(whole.bert.pooler.dense, torch.nn.Tanh(), whole.classifier)  # pyright: ignore
    return model.eval()


def ours(pace: Pace, task: Scoring) -> np.ndarray:
    """Job: `score_candidates`; returns [R, K] logits."""
    keep_freed_memory()  # as `recsys infer` does
    folder = Path(task.folder)
    config = DataConfig(
        root=f"{folder}/tables", cache=f"{folder}/cache", tables={"interactions": "", "users": ""},
        items=ItemsConfig(text=["text"]), queries=QueriesConfig(), relevance=RelevanceConfig(),
        split=SplitConfig(by="column"),
    )  # fmt: skip
    data, pruner = prepare(config), open_pruner(task.folder, task.max_tokens)
    requests, candidates = (
        validation_requests(data, ["query_to_item"])["valid_query"],
        np.load(folder / "candidates.npy"),
    )
    features = Features(data, Texts(), Texts(), max_items=1)
    if task.precision == "bf16" and pruner.text is not None:
        pruner.text.lower(torch.bfloat16)
    pairs = open_pairs(folder, pruner, data, config)
    none = np.zeros((len(data.catalogue), 1), dtype=np.float32)

    def score(rows: np.ndarray) -> np.ndarray:
        own = candidates[rows]
        logits = score_candidates(
            pruner, features, requests.take(rows), own, np.zeros(own.shape), none, none[rows], pairs=pairs
        )
        return logits[..., 0]

    score(np.arange(1))
    first = np.arange(min(task.queries, len(requests)))
    while pace.next():
        score(first)
    return score(np.arange(len(requests)))


def peer(pace: Pace, task: Scoring) -> np.ndarray:
    """Job: `CrossEncoder.predict`; returns [R, K] logits of a turn."""
    from sentence_transformers import CrossEncoder

    queries, items, candidates = _strings(task)
    pairs = [(queries[row], items[item]) for row, own in enumerate(candidates) for item in own]
    weights = {"dtype": torch.bfloat16} if task.precision == "bf16" else {}
    model = CrossEncoder(
        f"{task.folder}/text", max_length=task.max_tokens, device="cpu", model_kwargs=weights,
        activation_fn=torch.nn.Identity(),
    )  # fmt: skip
    scores = model.predict(pairs[: 2 * BATCH], batch_size=BATCH)
    while pace.next():
        scores = model.predict(pairs, batch_size=BATCH)
    return np.asarray(scores, dtype=np.float32).reshape(candidates.shape)


def pair_lengths(task: Scoring) -> np.ndarray:
    """[queries * K] real tokens of each pair of a turn."""
    from transformers import AutoTokenizer

    queries, items, candidates = _strings(task)
    pairs = [(queries[row], items[item]) for row, own in enumerate(candidates) for item in own]
    tokenizer = AutoTokenizer.from_pretrained(f"{task.folder}/text")
    return np.array([len(one) for one in tokenizer(pairs, truncation=True, max_length=task.max_tokens)["input_ids"]])


def right_columns(task: Scoring) -> np.ndarray:
    """[R] where the right item stands in each row of the candidates."""
    right = pl.read_parquet(f"{task.folder}/tables/relevance.parquet").sort("query_id")["item_id"].to_numpy()
    return (np.load(f"{task.folder}/candidates.npy") == right[:, None]).argmax(1)


def _strings(task: Scoring) -> tuple[list[str], list[str], np.ndarray]:
    """Queries, items, and the candidates of a turn."""
    tables = Path(task.folder) / "tables"
    items = pl.read_parquet(tables / "items.parquet")["text"].to_list()
    queries = pl.read_parquet(tables / "queries.parquet")["query"].to_list()
    return queries, items, np.load(f"{task.folder}/candidates.npy")[: task.queries]


def overlap(left: np.ndarray, right: np.ndarray, k: int = 10) -> float:
    """Mean share of the k best columns of each row that two arrays of scores have in common."""
    tops = zip(np.argsort(-left, kind="stable")[:, :k], np.argsort(-right, kind="stable")[:, :k], strict=True)
    return float(np.mean([len(np.intersect1d(*pair)) / k for pair in tops]))


def ndcg(scores: np.ndarray, right: np.ndarray, k: int = 10) -> np.ndarray:
    """[R] nDCG@k where each row has one right column: 1 / log2(1 + rank), 0 behind place k."""
    rank = 1 + (scores > scores[np.arange(len(right)), right][:, None]).sum(1)
    return np.where(rank <= k, 1 / np.log2(1 + rank), 0.0)
