"""The catalogue as it is searched: the items' vectors and an index of them, in memory or kept in a folder.

Kept, both follow the items table: what has not changed is not embedded again, an index gets a small exact shard of what
is new, with what is gone left out, and is built afresh when more than a tenth is different.
"""

import json
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from recsys.data.requests import query_requests, serving_requests
from recsys.errors import InputError
from recsys.retrieval.embed import OpenRetriever, embed_items, embed_requests, item_keys, stored_items
from recsys.retrieval.index import ItemIndex, needs_rebuild
from recsys.retrieval.kinds import SMALL, IndexConfig
from recsys.retrieval.tuning import Tuned, tuned_index
from recsys.shards import array_hash, fingerprint, one_at_a_time, publish_folder, write_atomic
from recsys.vectors import content_keys, find_keys

VECTORS, INDEX = "vectors", "index"
"""Folders of a run."""


@dataclass(frozen=True, kw_only=True)
class Store:
    """Where the vectors and the index of a run lie, and how they are made."""

    folder: Path
    """Of the run."""
    dtype: Literal["float32", "float16"]
    index: IndexConfig


@dataclass(frozen=True, kw_only=True)
class OpenCatalogue:
    """All items, ready to be searched."""

    items: np.ndarray  # [N, D or more], as `embed_items` gives them; of a store, mapped from disk
    index: ItemIndex
    made_from: str = ""
    """Fingerprint of what a search depends on beside the vectors: "" where it is exact."""
    told: str = "every query is compared with all of them"
    """How they are searched, in words."""


def open_catalogue(retriever: OpenRetriever, store: Store | None = None) -> OpenCatalogue:
    """Embed and index the catalogue; with a store, what lies there is taken, and kept up to date."""
    if store is None:
        items = embed_items(retriever)
        return OpenCatalogue(items=items, index=ItemIndex.build(retriever.vectors(items)))
    items = stored_items(retriever, store.folder / VECTORS, store.dtype)
    vectors = retriever.vectors(items)
    if store.index.kind == "flat" or (store.index.kind == "auto" and len(vectors) <= SMALL):
        return OpenCatalogue(items=items, index=ItemIndex.build(vectors))
    asked: dict[str, object] = {"model": retriever.weights(), "device": retriever.device.type, "vectors": store.dtype}
    asked |= {"settings": asdict(store.index)}
    kept = _Kept(store.folder / INDEX, asked)

    def build() -> Tuned:
        return tuned_index(vectors, store.index, _asked(retriever, items, store.index))

    with one_at_a_time(store.folder):  # processes that start together build it once
        index = kept.follow(vectors, _row_keys(retriever), build)
    return OpenCatalogue(items=items, index=index, made_from=kept.made_from(index), told=kept.told(index))


def _row_keys(retriever: OpenRetriever) -> np.ndarray:
    """[N] keys of the items' ids and contents: two items that look alike are two rows."""
    ids = retriever.data.tables.items[retriever.config.items.id].to_list()
    return content_keys(f"{one} ".encode() + key for one, key in zip(ids, item_keys(retriever).tolist(), strict=True))


@dataclass(frozen=True)
class _Kept:
    """An index in a folder: items.faiss with items.json beside it, and the key of each of its rows, keys.npy."""

    folder: Path
    asked: dict[str, object]
    """What it has to be made from, beside the items."""

    @property
    def path(self) -> Path:
        """Of the index."""
        return self.folder / "items.faiss"

    def follow(self, vectors: np.ndarray, keys: np.ndarray, build: Callable[[], Tuned]) -> ItemIndex:
        """The index of these items: what lies there, with a shard of what is new beside it, or one built afresh."""
        known = self._keys()
        anew = known is not None and self._said()["settings"]["rescore"] > 1  # by the vectors that it was built of
        same = known is not None and np.array_equal(known, keys)
        if same and (not anew or self._said()["vectors"] == array_hash(vectors)):
            return ItemIndex.load(self.path, vectors if anew else None)
        if known is not None and not anew:
            rows, new = find_keys(keys, known), np.flatnonzero(find_keys(known, keys) < 0)
            if not needs_rebuild(len(new) + int((rows < 0).sum()), len(keys)):
                delta = np.asarray(vectors[new], dtype=np.float32)
                return ItemIndex.load(self.path).patched(rows.astype(np.int32), delta, new.astype(np.int32))
        with publish_folder(self.folder) as made:
            build().save(made / self.path.name)
            np.save(made / "keys.npy", keys)
            write_atomic(made / "asked.json", json.dumps(self.asked))
        return ItemIndex.load(self.path, vectors)

    def _said(self) -> dict[str, Any]:
        """What lies beside the index."""
        return _read(self.path.with_suffix(".json"))

    def made_from(self, index: ItemIndex) -> str:
        """Fingerprint of an index that `follow` gave."""
        moved = [None if one.items is None else one.items.tolist() for one in index.shards]
        return fingerprint(self._said()["file"], moved)

    def told(self, index: ItemIndex) -> str:
        """How it searches, in words."""
        said, changed = self._said(), any(one.items is not None for one in index.shards)
        speed = (
            f"{said['queries_per_second']:,.0f} queries/s ({said['flat_queries_per_second']:,.0f} with all compared)"
        )
        found = f"{said['settings']['kind']}, recall@{said['k']} {said['recall']:.3f}, {speed}"
        return f"{found}{', and what has changed since' if changed else ''}. {said['fault']}".strip()

    def _keys(self) -> np.ndarray | None:
        """Of the rows; None where no index lies there that was made as asked."""
        if not self.path.is_file() or _read(self.folder / "asked.json") != self.asked:
            return None
        return np.load(self.folder / "keys.npy", allow_pickle=False)


def _read(path: Path) -> dict[str, Any]:
    try:
        return json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise InputError(f"{path} cannot be read ({error}); remove {path.parent}, it is made anew then.") from error


def _asked(retriever: OpenRetriever, items: np.ndarray, config: IndexConfig) -> np.ndarray:
    """[R, D] vectors of users and queries such as will be asked, for the index to be tuned on."""
    data, rng, found = retriever.data, np.random.default_rng(config.seed), []
    most = 4 * config.sample
    if data.histories is not None and retriever.model.users.out is not None:
        users = np.sort(rng.permutation(len(data.histories))[:most])
        found += embed_requests(retriever, items, serving_requests(data, retriever.config.history.until, users))
    asked = retriever.words is not None or retriever.features.query_images is not None
    if data.queries is not None and asked:
        rows = np.sort(rng.permutation(len(data.queries))[:most])
        found += embed_requests(retriever, items, query_requests(data, rows))
    return np.concatenate(found) if found else np.asarray(items, dtype=np.float32)
