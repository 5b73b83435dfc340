"""A data set of the benchmarks' shape, and a BERT of two layers with a tokenizer of its own."""

from dataclasses import dataclass

import numpy as np
import polars as pl
import pytest
import torch
from transformers import BertConfig, BertModel, PreTrainedTokenizerFast

from recsys.data.text import SPECIAL, train_wordpiece

WORDS = ["red", "blue", "small", "large", "warm", "round", "flat", "soft", "old", "new", "fast", "slow"]


@dataclass(frozen=True)
class Small:
    """The folders."""

    data: str
    model: str


@pytest.fixture(scope="session")
def small(tmp_path_factory: pytest.TempPathFactory) -> Small:
    folder = tmp_path_factory.mktemp("benchmarks")
    rng = np.random.default_rng(0)

    def some(count: int, shortest: int, longest: int) -> list[str]:
        return [" ".join(rng.choice(WORDS, rng.integers(shortest, longest))) for _ in range(count)]

    data, model, items = folder / "data", folder / "model", 40
    data.mkdir()
    texts = some(items, 3, 20)
    pl.DataFrame({
        "item_id": np.arange(items) + 100, "title": some(items, 1, 4), "year": [1990 + row % 9 for row in range(items)],
        "genres": some(items, 1, 3), "description": [None if row == 3 else text for row, text in enumerate(texts)],
    }).write_parquet(data / "items.parquet")  # fmt: skip
    split = ["train"] * 32 + ["valid"] * 8
    pl.DataFrame({"query_id": range(40), "query": some(40, 2, 40), "split": split}).write_parquet(
        data / "queries.parquet"
    )
    pl.DataFrame({"query_id": range(40), "item_id": rng.permutation(items) + 100}).write_parquet(data / "qrels.parquet")
    made = train_wordpiece([*texts, "1990 1991 1992"], 200)
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=made.backend_tokenizer, model_max_length=128, **SPECIAL,
        model_input_names=["input_ids", "token_type_ids", "attention_mask"],  # as BERT's own
    )  # fmt: skip
    tokenizer.save_pretrained(model)
    torch.manual_seed(0)
    shape = BertConfig(
        vocab_size=len(tokenizer), hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=64,
        max_position_embeddings=128, initializer_range=0.3,
    )  # fmt: skip
    BertModel(shape).save_pretrained(model)
    return Small(str(data), str(model))
