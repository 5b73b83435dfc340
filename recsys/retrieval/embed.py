"""A retriever's model folder -> readers of its batches, item vectors and user vectors."""

from collections.abc import Collection, Iterator
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
import polars as pl
import torch
from transformers import PreTrainedTokenizerFast

from recsys.batch import TextBatch
from recsys.data.features import Features, Texts, note_readers
from recsys.data.images import Images, image_source
from recsys.data.prepare import Codes, Prepared, prepare
from recsys.data.requests import Requests, evaluation_batch
from recsys.data.text import load_tokenizer
from recsys.data.vectors import text_source
from recsys.errors import InputError
from recsys.models.image import ImageEncoder, encode_images
from recsys.models.pruner import Pruner
from recsys.models.text import TextEncoder, encode_all
from recsys.models.towers import Retriever
from recsys.retrieval.runtime import TORCH, Runtime
from recsys.shards import fingerprint, folder_hash
from recsys.tables import DataConfig


@dataclass(frozen=True, kw_only=True)
class TextReader:
    """The text encoder of a model folder beside its tokenizer: texts -> vectors."""

    encoder: TextEncoder
    tokenizer: PreTrainedTokenizerFast
    cache: Path

    @classmethod
    def open(cls, folder: Path, model: Retriever | Pruner, cache: str) -> "TextReader | None":
        """What `folder`/text holds; None for a model that reads no texts."""
        if model.text is None or model.config.text is None:
            return None
        tokenizer = load_tokenizer(
            replace(model.config.text, model=str(folder / "text"), mode="frozen"), [], Path(cache)
        )
        return cls(encoder=model.text, tokenizer=tokenizer, cache=Path(cache))

    def read(self, texts: list[str]) -> Texts:
        """Vectors of a table's texts, made once and mapped from disk afterwards."""
        return text_source(
            texts, self.tokenizer, self.encoder.max_tokens, self.cache,
            encode=lambda tokens: encode_all(self.encoder, tokens.batch, tokens.lengths),
            encoder_key=self.encoder.content_hash(),
        )  # fmt: skip

    @torch.no_grad()
    def read_once(self, text: str) -> Texts:
        """The vector of one text, kept nowhere."""
        found = self.tokenizer([text], truncation=True, max_length=self.encoder.max_tokens, return_tensors="pt")
        batch = TextBatch(ids=found["input_ids"], mask=found["attention_mask"].bool())
        return Texts(vectors=self.encoder(batch).numpy())


@dataclass(frozen=True, kw_only=True)
class OpenRetriever:
    """A trained retriever beside the data set that it is used on."""

    folder: Path
    config: DataConfig
    model: Retriever
    words: TextReader | None
    data: Prepared
    features: Features
    runtime: Runtime

    @classmethod
    def open(
        cls, run: Path, config: DataConfig, hidden: Collection[str] = (), runtime: Runtime = TORCH
    ) -> "OpenRetriever":
        """Load RUN/model and prepare the data with the codes that the model was trained on; of `hidden` sources nothing
        is read.
        """
        folder = run / "model"
        model = runtime.load_retriever(folder)
        codes = Codes.load(folder / "codes.json")
        check_roles(codes, config, folder)
        words = TextReader.open(folder, model, config.cache)
        data = prepare(config, codes)
        features = open_features(words, data, config, model.image, hidden=hidden)
        return cls(
            folder=folder, config=config, model=model, words=words, data=data, features=features, runtime=runtime
        )

    def weights(self) -> str:
        """Hash of the model folder, and of the files that are computed with in its stead."""
        own = folder_hash(self.folder)
        return fingerprint(own, self.runtime.key) if self.runtime.key else own

    def vectors(self, items: np.ndarray) -> np.ndarray:
        """[N, D] the vectors among what `embed_items` gives, for an index."""
        return items[:, : self.model.width]


def check_roles(codes: Codes, config: DataConfig, folder: Path) -> None:
    """Refuse a config whose columns are not those that the model in `folder` has weights for."""
    items, users, rows = config.items, config.users, config.interactions
    roles = {
        "items.category": (codes.item_category, items.category),
        "items.number": (codes.item_number, items.number),
        "users.category": (codes.user_category, users.category),
        "users.number": (codes.user_number, users.number),
        "interactions.context": (codes.context, rows.context),
    }
    for role, (learnt, given) in roles.items():
        if list(learnt) != given:
            raise InputError(
                f"{folder} was trained with data.{role}: {list(learnt)}; this config has {given}. "
                "Use the data section of the training run's config."
            )


def open_features(
    words: TextReader | None, data: Prepared, config: DataConfig, image: ImageEncoder | None = None, *,
    notes: int = 0, hidden: Collection[str] = (),
) -> Features:  # fmt: skip
    """Reader of batches in which every text is a vector of `words`, and every picture one of `image`.

    Args:
        words, image: of the model; None: it reads no texts, or no pictures.
        data, config: what is read, and the roles of its columns.
        notes: reviews, and ads, of an item that are read at most; 0: none are.
        hidden: sources that are read as if the data set did not have them.
    """
    items = queries = Texts()
    if words is not None:
        items = words.read(data.catalogue.texts) if any(data.catalogue.texts) else items
        queries = words.read(data.queries.texts) if data.queries is not None else queries
    said = data.notes if notes else {}
    vectors = {name: None if words is None else words.read(one.texts).vectors for name, one in said.items()}
    return Features(
        data, items, queries, max_items=config.history.max_items, hidden=hidden,
        searches=config.history.queries and words is not None,
        images=None if image is None else _images(image, data, config),
        notes=note_readers(data, vectors, notes) if notes else None,
    )  # fmt: skip


def _images(encoder: ImageEncoder, data: Prepared, config: DataConfig) -> Images:
    """Vectors of the items' pictures; where the config names no column of them, all are missing."""
    column, items = config.items.image, data.tables.items
    cells = items[column] if column is not None else pl.Series([None] * len(items), dtype=pl.String)
    return image_source(
        config.root, cells, encoder.pixels, Path(config.cache), encode=partial(encode_images, encoder),
        encoder_key=encoder.content_hash(),
    )  # fmt: skip


@torch.no_grad()
def embed_items(retriever: OpenRetriever, block: int = 8192) -> np.ndarray:
    """[N, D] float32 vectors of all items; with a dynamic representation [N, D + h], as `encode_items` gives them."""
    count = len(retriever.data.catalogue)
    rows = [np.arange(start, min(start + block, count)) for start in range(0, count, block)]
    return np.concatenate([retriever.model.encode_items(retriever.features.items(part)).numpy() for part in rows])


@torch.no_grad()
def embed_requests(
    retriever: OpenRetriever, items: np.ndarray, requests: Requests, batch_size: int = 256
) -> Iterator[np.ndarray]:
    """Vectors of requests, [b, D] float32 a batch, in order; `items` [N, D] come from `embed_items`."""
    table = torch.from_numpy(items)
    for start in range(0, len(requests), batch_size):
        rows = np.arange(start, min(start + batch_size, len(requests)))
        batch = evaluation_batch(retriever.features, requests.take(rows))
        states = retriever.model.encode_users(batch.users, table)
        yield states[torch.arange(len(rows)), batch.step].numpy()


@torch.no_grad()
def order_candidates(
    retriever: OpenRetriever, items: np.ndarray, users: np.ndarray, found: np.ndarray, batch_size: int = 64
) -> tuple[np.ndarray, np.ndarray]:
    """The retriever's own order of given candidates; equal scores to the smaller item.

    Args:
        retriever: with a dynamic representation or without.
        items: of all items, from `embed_items`.
        users: [B, D] from `embed_requests`.
        found: [B, K] candidates, padded with -1.

    Returns:
        [B, K] columns of `found`, best first, those of padding last, and [B, K] float32 scores in that order.
    """
    table, scores = torch.from_numpy(items), np.empty(found.shape, dtype=np.float32)
    for start in range(0, len(found), batch_size):
        rows = slice(start, start + batch_size)
        states = table[torch.from_numpy(np.maximum(found[rows], 0))]
        scores[rows] = retriever.model.score(torch.from_numpy(users[rows]), states).numpy()
    scores[found < 0] = -np.inf
    order = np.lexsort((found, -scores))
    return order, np.take_along_axis(scores, order, 1)
