"""Texts to vectors: the project's encoder beside SentenceTransformer.encode, from strings to unit vectors."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import polars as pl
import torch
from measure import MINILM
from turns import Pace

from recsys.config import TextConfig, resolve_pretrained
from recsys.data.text import join_columns, load_tokenizer, plain_backend
from recsys.data.tokens import tokenize
from recsys.heap import keep_freed_memory
from recsys.models.text import TextEncoder, encode_all

BATCH = 64


@dataclass(frozen=True, kw_only=True)
class Texts:
    """What is encoded."""

    texts: list[str]
    precision: str = "fp32"
    model: str = MINILM
    max_tokens: int = 128

    def lengths(self) -> np.ndarray:
        """[n] real tokens of each text."""
        backend = plain_backend(load_tokenizer(TextConfig(model=self.model), [], Path()), self.max_tokens)
        return tokenize(self.texts, backend, 0).lengths


def item_texts(data: str, columns: list[str], count: int | None) -> list[str]:
    """Of a data set's items, all or some spread over the table."""
    texts = join_columns(pl.read_parquet(f"{data}/items.parquet"), columns)
    return texts if count is None else texts[:: max(len(texts) // count, 1)][:count]


def ours(pace: Pace, task: Texts) -> np.ndarray:
    """Job: `encode_all`; returns the vectors."""
    keep_freed_memory()  # as `recsys infer` does
    config = TextConfig(model=task.model, mode="frozen", max_tokens=task.max_tokens)
    tokenizer = load_tokenizer(config, [], Path())
    encoder = TextEncoder.build(config, len(tokenizer))
    if task.precision == "bf16":
        encoder.lower(torch.bfloat16)
    backend, pad = plain_backend(tokenizer, task.max_tokens), int(tokenizer.pad_token_id or 0)

    def encode(texts: list[str]) -> np.ndarray:
        tokens = tokenize(texts, backend, pad)
        vectors = encode_all(encoder, tokens.batch, tokens.lengths)
        return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)

    vectors = encode(task.texts[: 2 * BATCH])
    while pace.next():
        vectors = encode(task.texts)
    return vectors


def peer(pace: Pace, task: Texts) -> np.ndarray:
    """Job: `SentenceTransformer.encode`; returns the vectors."""
    from sentence_transformers import SentenceTransformer

    weights = {"dtype": torch.bfloat16} if task.precision == "bf16" else {}
    model = SentenceTransformer(resolve_pretrained(task.model), device="cpu", model_kwargs=weights)
    model.max_seq_length = task.max_tokens
    vectors = model.encode(task.texts[: 2 * BATCH], batch_size=BATCH)
    while pace.next():
        vectors = model.encode(task.texts, batch_size=BATCH, normalize_embeddings=True)
    return vectors


def cosines(left: np.ndarray, right: np.ndarray) -> np.ndarray:
    """[n] of the rows of two arrays."""
    left, right = left.astype(np.float64), right.astype(np.float64)
    return (left * right).sum(1) / (np.linalg.norm(left, axis=1) * np.linalg.norm(right, axis=1))
