"""A cross-encoder that both sides can read: MiniLM's body and pooler with one output, taught on the train queries.

Kept as transformers saves it, so that sentence-transformers' CrossEncoder opens it as it is and the project's pruner
takes body and head from it. It learns with plain torch (a softmax over the right film and some of the retriever's best
others), long enough that its order means something: what bfloat16 does to an order can be seen only on one.
"""

import json
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import polars as pl
import torch
from measure import MINILM, has_bfloat16
from torch.nn import functional as F
from transformers import AutoTokenizer, BertForSequenceClassification

from recsys.config import TextConfig, resolve_pretrained
from recsys.data.text import join_columns, load_tokenizer, plain_backend
from recsys.data.tokens import tokenize
from recsys.models.text import TextEncoder, encode_all, without_reports

CANDIDATES, NEGATIVES, LISTS, LEARNING_RATE = 100, 7, 8, 5e-5


@dataclass(frozen=True, kw_only=True)
class Settings:
    """What is taught."""

    data: str
    text: list[str]
    """Columns of an item's text."""
    model: str = MINILM
    max_tokens: int = 128
    steps: int = 150


@dataclass(frozen=True, kw_only=True)
class Search:
    """Queries, the texts of all items, and the candidates of the retriever as it is before any training."""

    queries: list[str]
    """Cut to what the pruner reads of a request: half of a pair."""
    items: list[str]
    right: np.ndarray  # [Q] int64 row of `items`
    candidates: np.ndarray  # [Q, K] int64, the right one among them


def read_search(settings: Settings, split: str, count: int | None = None) -> Search:
    """The queries of a split, or the first `count` of them."""
    table = pl.read_parquet(f"{settings.data}/items.parquet")
    relevant = pl.read_parquet(f"{settings.data}/qrels.parquet").unique("query_id", keep="first")
    asked = pl.read_parquet(f"{settings.data}/queries.parquet").filter(pl.col("split") == split).sort("query_id")
    asked = asked.join(relevant, on="query_id", maintain_order="left").head(len(asked) if count is None else count)
    rows = {item: row for row, item in enumerate(table["item_id"])}
    right = np.array([rows[item] for item in asked["item_id"]])
    config = TextConfig(model=settings.model, mode="frozen", max_tokens=settings.max_tokens)
    tokenizer = load_tokenizer(config, [], Path())
    items = join_columns(table, settings.text)
    queries = [_cut(tokenizer, text, settings.max_tokens // 2 - 3) for text in asked["query"]]
    encoder = TextEncoder.build(config, len(tokenizer))
    if has_bfloat16():
        encoder.lower(torch.bfloat16)
    backend = plain_backend(tokenizer, settings.max_tokens)

    def unit(texts: list[str]) -> torch.Tensor:
        tokens = tokenize(texts, backend, 0)
        return F.normalize(torch.from_numpy(encode_all(encoder, tokens.batch, tokens.lengths)))

    scores = unit(queries) @ unit(items).T
    scores[torch.arange(len(right)), torch.from_numpy(right)] += 2  # above every cosine: it is always among them
    found = scores.topk(min(CANDIDATES, len(items))).indices.numpy()
    return Search(queries=queries, items=items, right=right, candidates=found)


def _cut(tokenizer: object, text: str, tokens: int) -> str:
    """The first words of a text, at most so many tokens."""
    found = tokenizer(text, add_special_tokens=False)  # pyright: ignore[reportCallIssue]
    words = [one for one in found.word_ids() if one is not None]
    if len(words) <= tokens:
        return text
    return text[: found.word_to_chars(words[tokens]).start].rstrip()


def teach(settings: Settings, folder: Path) -> None:
    """Write the model to a folder, unless it holds one of these settings."""
    said = folder / "settings.json"
    if said.is_file() and json.loads(said.read_text()) == asdict(settings):
        return
    torch.manual_seed(0)
    source = resolve_pretrained(settings.model)
    with without_reports():
        model = BertForSequenceClassification.from_pretrained(source, num_labels=1)
        tokenizer = AutoTokenizer.from_pretrained(source)
    if settings.steps:
        search = read_search(settings, "train")
        optimizer = torch.optim.AdamW(model.parameters(), lr=LEARNING_RATE)
        rng = np.random.default_rng(0)
        for step in range(settings.steps):
            for group in optimizer.param_groups:
                group["lr"] = LEARNING_RATE * (1 - step / settings.steps)
            rows = rng.integers(0, len(search.queries), LISTS)
            others = [rng.choice(search.candidates[row][1:], NEGATIVES, replace=False) for row in rows]  # first: right
            lists = np.column_stack([search.right[rows], np.stack(others)])
            pairs = [
                [search.queries[row], search.items[item]] for row, own in zip(rows, lists, strict=True) for item in own
            ]
            batch = tokenizer(pairs, padding=True, truncation=True, max_length=settings.max_tokens, return_tensors="pt")
            with torch.autocast("cpu", torch.bfloat16, enabled=has_bfloat16()):
                logits = model(**batch).logits.float().view(LISTS, -1)
            loss = F.cross_entropy(logits, torch.zeros(LISTS, dtype=torch.int64))
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    said.write_text(json.dumps(asdict(settings)))
