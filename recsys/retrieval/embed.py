"""A retriever's model folder -> readers of its batches, item vectors and user vectors."""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from recsys.batch import TextBatch
from recsys.data.datasets import Features, Texts
from recsys.data.prepare import Codes, Prepared, prepare
from recsys.data.requests import Requests, evaluation_batch
from recsys.data.vectors import text_source
from recsys.models.checkpoint import load_retriever
from recsys.models.text import TextEncoder, encode_all
from recsys.models.towers import Retriever
from recsys.shards import folder_hash
from recsys.tables import DataConfig


@dataclass(frozen=True, kw_only=True)
class OpenRetriever:
    """A trained retriever beside the data set that it is used on."""

    folder: Path
    model: Retriever
    data: Prepared
    features: Features

    @classmethod
    def open(cls, run: Path, config: DataConfig) -> "OpenRetriever":
        """Load RUN/model and prepare the data with the codes that the model was trained on."""
        folder = run / "model"
        model = load_retriever(folder)
        data = prepare(config, Codes.load(folder / "codes.json"))
        features = open_features(folder, model.text, data, config)
        return cls(folder=folder, model=model, data=data, features=features)


def open_features(folder: Path, encoder: TextEncoder | None, data: Prepared, config: DataConfig) -> Features:
    """Reader of batches for a model folder's text encoder: every text is encoded once, its vector cached."""
    items = queries = Texts()
    if encoder is not None:
        items = encode_texts(folder, encoder, data.catalogue.texts, config)
        if data.queries is not None:
            queries = encode_texts(folder, encoder, data.queries.texts, config)
    history = config.history
    return Features(data, items, queries, max_items=history.max_items, searches=history.queries and encoder is not None)


def encode_texts(folder: Path, encoder: TextEncoder, texts: list[str], config: DataConfig, *, cached: bool = True) -> Texts:
    """Vectors of texts by the encoder in `folder`/text; `cached` on disk, or made for this once."""
    tokenizer = _tokenizer(folder / "text")
    if not cached:
        found = tokenizer(texts, truncation=True, max_length=encoder.max_tokens, padding=True, return_tensors="pt")
        with torch.no_grad():
            return Texts(vectors=encoder(TextBatch(ids=found["input_ids"], mask=found["attention_mask"].bool())).numpy())
    return text_source(
        texts, tokenizer, encoder.max_tokens, Path(config.cache),
        encode=lambda tokens: encode_all(encoder, tokens.batch, tokens.lengths), encoder_key=folder_hash(folder / "text"),
    )  # fmt: skip


@lru_cache(maxsize=4)
def _tokenizer(folder: Path) -> PreTrainedTokenizerFast:
    return AutoTokenizer.from_pretrained(folder, trust_remote_code=False)


@torch.no_grad()
def embed_items(retriever: OpenRetriever, block: int = 8192) -> np.ndarray:
    """[N, D] float32 vectors of all items."""
    count = len(retriever.data.catalogue)
    parts = [retriever.features.items(np.arange(start, min(start + block, count))) for start in range(0, count, block)]
    return np.concatenate([retriever.model.encode_items(part).numpy() for part in parts])


@torch.no_grad()
def embed_requests(retriever: OpenRetriever, items: np.ndarray, requests: Requests, batch_size: int = 256) -> Iterator[np.ndarray]:
    """Vectors of requests, [b, D] float32 a batch, in order."""
    table = torch.from_numpy(items)
    for start in range(0, len(requests), batch_size):
        rows = np.arange(start, min(start + batch_size, len(requests)))
        batch = evaluation_batch(retriever.features, requests.take(rows))
        states = retriever.model.encode_users(batch.users, table)
        yield states[torch.arange(len(rows)), batch.step].numpy()


