"""A retriever's model folder -> readers of its batches, item vectors and user vectors."""

from collections.abc import Collection, Iterator
from dataclasses import dataclass, fields, replace
from functools import partial
from pathlib import Path

import numpy as np
import polars as pl
import torch
from transformers import PreTrainedTokenizerFast

from recsys.batch import ItemBatch, TextBatch
from recsys.data.features import Features, Local, Texts, note_readers
from recsys.data.images import Images, decode_picture, image_source
from recsys.data.prepare import Codes, Prepared, prepare
from recsys.data.query_images import check_query_images, query_cells
from recsys.data.requests import Requests, request_pasts
from recsys.data.text import load_tokenizer, plain_backend
from recsys.data.tokens import Tokens, tokenize
from recsys.data.vectors import text_source
from recsys.errors import InputError
from recsys.models.image import ImageEncoder, encode_images
from recsys.models.pruner import Pruner
from recsys.models.text import TextEncoder, encode_all
from recsys.models.towers import Retriever
from recsys.retrieval.runtime import TORCH, Runtime
from recsys.shards import fingerprint, folder_hash
from recsys.tables import DataConfig
from recsys.vectors import FrozenEncoder, Unfinished, VectorStore, content_keys


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

    def read(self, texts: list[str], share: tuple[int, int] = (0, 1)) -> Texts:
        """Vectors of a table's texts, made once and mapped from disk afterwards; `share` is that of `text_source`."""
        frozen = FrozenEncoder(
            encode=lambda tokens: encode_all(self.encoder, tokens.batch, tokens.lengths), width=self.encoder.width,
            key=self.encoder.content_hash(),
        )  # fmt: skip
        return text_source(texts, self.tokenizer, self.encoder.max_tokens, self.cache, frozen=frozen, share=share)

    @torch.no_grad()
    def read_once(self, text: str) -> Texts:
        """The vector of one text, kept nowhere."""
        found = self.tokenizer([text], truncation=True, max_length=self.encoder.max_tokens, return_tensors="pt")
        batch = TextBatch(ids=found["input_ids"], mask=found["attention_mask"].bool())
        device = next(self.encoder.parameters()).device
        return Texts(vectors=self.encoder(batch.to(device)).cpu().numpy())

    def tokens(self, texts: list[str]) -> TextBatch:
        """Texts that are worth no cache, with their special tokens."""
        return self._tokenized(texts).batch(np.arange(len(texts)))

    def read_all(self, texts: list[str]) -> np.ndarray:
        """[n, W] float32 vectors of texts, kept nowhere."""
        tokens = self._tokenized(texts)
        return encode_all(self.encoder, tokens.batch, tokens.lengths)

    def _tokenized(self, texts: list[str]) -> Tokens:
        backend = plain_backend(self.tokenizer, self.encoder.max_tokens)
        return tokenize(texts, backend, backend.token_to_id(str(self.tokenizer.pad_token)) or 0)


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
        cls, run: Path, config: DataConfig, hidden: Collection[str] = (), *, runtime: Runtime = TORCH,
        share: tuple[int, int] = (0, 1),
    ) -> "OpenRetriever":  # fmt: skip
        """Load RUN/model and prepare the data with the codes that the model was trained on.

        Args:
            run: folder of the training run.
            config: of the data to serve.
            hidden: sources of which nothing is read.
            runtime: what computes the model.
            share: of the vectors that are not there, as `text_source` takes it.
        """
        folder = run / "model"
        model = runtime.load_retriever(folder).to(runtime.device)
        codes = Codes.load(folder / "codes.json")
        check_roles(codes, config, folder)
        words = TextReader.open(folder, model, config.cache)
        check_query_images(config, encoded=model.image is not None)
        data = prepare(config, codes)
        features = open_features(words, data, config, model.image, hidden=hidden, share=share, asks=True)
        return cls(
            folder=folder, config=config, model=model, words=words, data=data, features=features, runtime=runtime
        )

    def weights(self) -> str:
        """Hash of the model folder, and of the files that are computed with in its stead."""
        own = folder_hash(self.folder)
        return fingerprint(own, self.runtime.key) if self.runtime.key else own

    @property
    def device(self) -> torch.device:
        """Where the model computes."""
        return next(self.model.parameters()).device

    def vectors(self, items: np.ndarray) -> np.ndarray:
        """[N, D] the vectors among what `embed_items` gives, for an index."""
        return items[:, : self.model.width]


def check_roles(codes: Codes, config: DataConfig, folder: Path) -> None:
    """Refuse a config whose columns are not those that the model in `folder` has weights for."""
    items, users, rows = config.items, config.users, config.interactions
    roles = {
        "items.category": (codes.item_category, items.category),
        "items.number": (codes.item_number, items.numbers(codes.event)),
        "items.vectors": (codes.item_vectors, items.vectors),
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
    notes: int = 0, hidden: Collection[str] = (), share: tuple[int, int] = (0, 1), asks: bool = False,
) -> Features:  # fmt: skip
    """Reader of batches in which every text is a vector of `words`, and every picture one of `image`.

    Args:
        words, image: of the model; None: it reads no texts, or no pictures.
        data, config: what is read, and the roles of its columns.
        notes: reviews, and ads, of an item that are read at most; 0: none are.
        hidden: sources that are read as if the data set did not have them.
        share: of the vectors that are not there, as `text_source` takes it.
        asks: whether pictures of queries are read, too.
    """
    left: list[Unfinished] = []

    def read(texts: list[str]) -> Texts:
        try:
            return Texts() if words is None or not any(texts) else words.read(texts, share)
        except Unfinished as unfinished:  # there may be something to do in the other tables
            left.append(unfinished)
            return Texts()

    def look(cells: pl.Series | None) -> Images | None:
        try:
            return None if image is None or cells is None else _images(image, cells, config, share)
        except Unfinished as unfinished:
            left.append(unfinished)
            return None

    said = data.notes if notes else {}
    items, queries = read(data.catalogue.texts), read([] if data.queries is None else data.queries.texts)
    vectors = {name: read(one.texts).vectors for name, one in said.items()}
    images, shown = look(_item_cells(data, config)), look(query_cells(config, data) if asks else None)
    if left:
        raise left[0]
    return Features(
        data, items, queries, max_items=config.history.max_items, hidden=hidden,
        searches=config.history.queries and words is not None and (queries.there or shown is not None), images=images,
        query_images=shown, notes=note_readers(data, vectors, notes) if notes else None,
    )  # fmt: skip


def read_picture(retriever: OpenRetriever, picture: str | Path | bytes) -> Images:
    """The vector of one picture, a file or its bytes, kept nowhere, as the only query's. Raises InputError if it cannot
    be read, or the retriever reads no pictures.
    """
    encoder = retriever.model.image
    if encoder is None:
        raise InputError("This retriever has no image encoder, so it sees no pictures; train one with model.image.")
    name = "The picture" if isinstance(picture, bytes) else str(picture)
    try:
        content = picture if isinstance(picture, bytes) else Path(picture).read_bytes()
    except OSError as error:
        raise InputError(f"{name} cannot be read ({error.strerror}); give the file of a picture.") from error
    pixels = decode_picture(content, encoder.pixels)
    if pixels is None:
        raise InputError(f"{name} cannot be decoded; give a picture, such as a JPEG or PNG file.")
    return Images(known=np.ones(1, dtype=bool), vectors=encode_images(encoder, pixels))


def _item_cells(data: Prepared, config: DataConfig) -> pl.Series:
    """[N] paths or bytes of the items' pictures; where the config names no column of them, all are missing."""
    column, items = config.items.image, data.tables.items
    return items[column] if column is not None else pl.Series([None] * len(items), dtype=pl.String)


def _images(encoder: ImageEncoder, cells: pl.Series, config: DataConfig, share: tuple[int, int]) -> Images:
    """Vectors of pictures."""
    frozen = FrozenEncoder(encode=partial(encode_images, encoder), width=encoder.width, key=encoder.content_hash())
    return image_source(config.root, cells, encoder.pixels, Path(config.cache), frozen=frozen, share=share)


@torch.no_grad()
def embed_items(retriever: OpenRetriever, rows: np.ndarray | None = None, block: int = 8192) -> np.ndarray:
    """[N, D] float32 vectors of all items, or of some; with a dynamic representation [N, D + h] (`encode_items`)."""
    rows = np.arange(len(retriever.data.catalogue)) if rows is None else rows
    parts = [rows[start : start + block] for start in range(0, len(rows), block)]
    made = [retriever.model.encode_items(_items(retriever, part)).cpu().numpy() for part in parts]
    return np.concatenate(made)


def _items(retriever: OpenRetriever, rows: np.ndarray) -> ItemBatch:
    return retriever.features.items(rows).to(retriever.device)


def stored_items(
    retriever: OpenRetriever, folder: Path, dtype: str = "float32", share: tuple[int, int] = (0, 1)
) -> np.ndarray:
    """The same, kept in a folder and mapped from disk: an item whose content and model are what they were is not
    embedded again.

    Args:
        retriever: whose catalogue is embedded.
        folder: of the store; what it holds of other models and other catalogues goes.
        dtype: float32 or float16.
        share: I, N: this process makes every N-th part from the I-th on.

    Raises Unfinished where parts of other shares are missing.
    """
    store, keys = _store(retriever, folder, dtype), item_keys(retriever)
    return store.read(keys, lambda rows: embed_items(retriever, rows), share)


def audit_items(retriever: OpenRetriever, folder: Path, dtype: str = "float32") -> tuple[int, int]:
    """Check the stored vectors, byte for byte; returns their number, and how many were not there before."""
    store, keys = _store(retriever, folder, dtype), item_keys(retriever)
    store.audit(keys)
    return store.made(keys)


def _store(retriever: OpenRetriever, folder: Path, dtype: str) -> VectorStore:
    width = embed_items(retriever, np.zeros(1, dtype=np.int64)).shape[1]
    made_from = fingerprint(retriever.weights(), retriever.device.type)
    return VectorStore(folder=folder, made_from=made_from, width=width, dtype=dtype, keep=False)


def item_keys(retriever: OpenRetriever, block: int = 8192) -> np.ndarray:
    """[N] keys of all that the item tower reads of each item."""
    count = len(retriever.data.catalogue)
    blocks = (np.arange(start, min(start + block, count)) for start in range(0, count, block))
    return content_keys(row for rows in blocks for row in _content(retriever.features.items(rows)))


def _content(batch: ItemBatch) -> Iterator[bytes]:
    """The bytes of each item's fields."""
    found = {field.name: getattr(batch, field.name) for field in fields(batch)}
    columns = [
        value.reshape(len(batch.index), -1).numpy() for value in found.values() if isinstance(value, torch.Tensor)
    ]
    table = np.concatenate([np.ascontiguousarray(column).view(np.uint8) for column in columns], axis=1)
    return (row.tobytes() for row in table)


@torch.no_grad()
def embed_requests(
    retriever: OpenRetriever, items: np.ndarray, requests: Requests, batch_size: int = 256
) -> Iterator[np.ndarray]:
    """Vectors of requests, [b, D] float32 a batch, in order; `items` [N, D] come from `embed_items`."""
    features, count = retriever.features, len(retriever.data.catalogue)
    for start in range(0, len(requests), batch_size):
        some = requests.take(np.arange(start, min(start + batch_size, len(requests))))
        pasts = request_pasts(features, some)
        own = np.unique(np.concatenate([np.zeros(1, dtype=np.int64), *(past.item[past.item >= 0] for past in pasts)]))
        batch = features.users(pasts, some.users, some.queries, Local(own, count)).to(retriever.device)
        table = torch.from_numpy(np.asarray(items[own], dtype=np.float32)).to(retriever.device)
        states, last = retriever.model.encode_users(batch, table), [len(past.item) for past in pasts]
        yield states[torch.arange(len(some)), torch.tensor(last)].cpu().numpy()


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
    scores, device = np.empty(found.shape, dtype=np.float32), retriever.device
    for start in range(0, len(found), batch_size):
        rows = slice(start, start + batch_size)
        states = np.asarray(items[np.maximum(found[rows], 0)], dtype=np.float32)
        own = (torch.from_numpy(values).to(device) for values in (users[rows], states))
        scores[rows] = retriever.model.score(*own).cpu().numpy()
    scores[found < 0] = -np.inf
    order = np.lexsort((found, -scores))
    return order, np.take_along_axis(scores, order, 1)
