"""A prepared data set -> items and users as parts of a batch."""

from collections.abc import Callable, Collection, Mapping
from copy import copy
from dataclasses import dataclass

import numpy as np
import torch

from recsys.batch import ItemBatch, NoteBatch, TextBatch, UserBatch
from recsys.data.images import Images
from recsys.data.notes import Notes
from recsys.data.pasts import Past, Searches
from recsys.data.prepare import Prepared
from recsys.data.query_images import read_query_images, worded
from recsys.data.ready import read_ready
from recsys.data.split import TEST
from recsys.tables.config import SOURCES

ReadTexts = Callable[..., TextBatch]
"""Rows of a table, and perhaps what drops tokens (`TokenCache.batch`) -> their texts."""


@dataclass(frozen=True, kw_only=True)
class Texts:
    """How the texts of items or queries reach a batch: tokens for a trained encoder, or vectors of a frozen one."""

    tokens: ReadTexts | None = None
    vectors: np.ndarray | None = None  # [N, W]
    dropout: float = 0.0
    """Share of the tokens that are left out in training."""

    @property
    def there(self) -> bool:
        """Whether anything can be read."""
        return self.tokens is not None or self.vectors is not None

    def read(
        self, rows: np.ndarray, moved: tuple[int, int] | None = None
    ) -> tuple[TextBatch | None, torch.Tensor | None]:
        """Tokens and vectors of some rows; at most one of them is there. `moved`: the seed and epoch of a training."""
        if self.vectors is not None:
            return None, torch.from_numpy(np.asarray(self.vectors[rows], dtype=np.float32))
        if self.tokens is None:
            return None, None
        return (self.tokens(rows, (self.dropout, *moved)) if moved and self.dropout else self.tokens(rows)), None


@dataclass(frozen=True, kw_only=True)
class NoteReader:
    """How reviews or ads reach a batch."""

    notes: Notes
    vectors: np.ndarray | None  # [E, W] of a frozen encoder; None: their words are not read
    count: int
    """Of the latest ones of an item, at most."""


HIDEABLE = SOURCES
"""Sources that a data set can be read without, beside the columns of `items.vectors`, each by its name; `text` and
`image` are those of the items: a query's own words and picture are the question."""


class Features:
    """Reads items and users of a prepared data set as parts of a batch.

    A source that is `hidden` is read as if the data set did not have it: what it told is missing everywhere.
    """

    def __init__(
        self, data: Prepared, items: Texts, queries: Texts, *, max_items: int, searches: bool = False,
        images: Images | None = None, notes: Mapping[str, NoteReader] | None = None,
        hidden: Collection[str] = (), query_images: Images | None = None,
    ) -> None:  # fmt: skip
        """`notes` are by name: reviews, ads. `query_images` are the pictures of queries, where they are read."""
        self.data, self.item_texts, self.query_texts, self.max_items = data, items, queries, max_items
        self.images, self.notes, self.hidden = images, notes or {}, frozenset(hidden)
        self.query_images = query_images
        self.searches = Searches(data.queries) if searches and data.queries is not None else None

    def items(self, rows: np.ndarray, moved: tuple[int, int] | None = None) -> ItemBatch:
        """The content of items, one row each; `moved`, a seed and an epoch, augments it for training.

        A row beyond the catalogue is an item of it with other words (`data.cloze`).
        """
        catalogue = self.data.catalogue
        tokens, vectors = (None, None) if "text" in self.hidden else self.item_texts.read(rows, moved)
        rows = rows % len(catalogue)
        return ItemBatch(
            **({} if self.images is None or "image" in self.hidden else self.images.read(rows, moved)),
            **read_ready(catalogue.vectors, rows, self.hidden),
            index=torch.from_numpy(catalogue.index[rows]),
            text=tokens,
            text_vector=vectors,
            category=torch.from_numpy(catalogue.category[rows]) if catalogue.category.shape[1] else None,
            number=torch.from_numpy(catalogue.number[rows]) if catalogue.number.shape[1] else None,
        )

    def catalogue(self) -> ItemBatch:
        """Every item, but for the pixels of pictures: those are read in blocks, by `pixels`."""
        rows = np.arange(len(self.data.catalogue))
        if self.pixels is None:
            return self.items(rows)
        other = copy(self)
        other.images = None
        return other.items(rows)

    @property
    def pixels(self) -> "Callable[[np.ndarray], dict[str, torch.Tensor]] | None":
        """Rows of the items table -> the fields of an ItemBatch that are about pictures; None: no encoder of them is
        trained.
        """
        return self.images.read if self.images is not None and self.images.pixels is not None else None

    def note_batch(self, name: str, candidates: np.ndarray, before: np.ndarray) -> NoteBatch | None:
        """The reviews or ads of candidates [B, K] that are earlier than moments [B]; None where they are not read."""
        reader = self.notes.get(name)
        if reader is None or name in self.hidden:
            return None
        return reader.notes.batch(candidates, before, reader.count, reader.vectors)

    def neighbours(self, pasts: list[Past], users: np.ndarray, candidates: np.ndarray) -> torch.Tensor | None:
        """What B users' own histories say of candidates [B, K] (`Neighbours.batch`); None where nobody asks."""
        known = self.data.neighbours
        if known is None:
            return None
        return known.batch([past.item for past in pasts], [past.event for past in pasts], users, candidates)

    def users(
        self, pasts: list[Past], users: np.ndarray, queries: np.ndarray, local: "Local",
        moved: tuple[int, int] | None = None,
    ) -> UserBatch:  # fmt: skip
        """The users' side of a batch.

        Args:
            pasts: B histories.
            users: [B] rows of the users table, -1 for nobody known.
            queries: [B] rows of the queries table, -1 for none.
            local: where items stand in the batch.
            moved: as in `items`.
        """
        data, texts = self.data, np.unique(np.concatenate([queries, *[past.query for past in pasts]]))
        texts = texts[texts >= 0]
        tokens, vectors = self.query_texts.read(texts, moved) if len(texts) else (None, None)
        history, mask, position, event = self._entries(pasts, texts, local)
        known = np.full_like(users, -1) if "profile" in self.hidden else users
        asked = np.where(queries >= 0, np.searchsorted(texts, queries), -1)
        return UserBatch(
            history=torch.from_numpy(history),
            history_mask=torch.from_numpy(mask),
            position=torch.from_numpy(position),
            event=torch.from_numpy(event) if data.codes.event else None,
            profile=torch.from_numpy(_rows_or(data.profile, known, 0)) if data.profile.shape[1] else None,
            profile_number=torch.from_numpy(_rows_or(data.profile_number, known, np.nan))
            if data.profile_number.shape[1]
            else None,
            context=self._context(pasts, history.shape[1]),
            query_text=tokens,
            query_vector=vectors,
            **(self._asked(asked, texts, moved) if len(texts) else {}),
        )

    def _asked(
        self, asked: np.ndarray, texts: np.ndarray, moved: tuple[int, int] | None
    ) -> dict[str, torch.Tensor | None]:
        """`query` and the fields beside its words. Who asks without words and without a picture that can be read is
        answered by whatever else is known of him: he has no query.
        """
        words, query = worded(self.data.queries, texts), torch.from_numpy(asked)
        if self.query_images is None or words is None:
            return {"query": query, "query_text_known": words}
        shown = read_query_images(self.query_images, texts, moved)
        told = (words & self.query_texts.there) | shown["query_image_known"]
        return {"query": torch.where(told[query], query, -1), "query_text_known": words, **shown}

    def _entries(self, pasts: list[Past], texts: np.ndarray, local: "Local") -> list[np.ndarray]:
        """History, mask, position and event, each [B, H]; H is a multiple of 8."""
        length = -(-max((len(past.item) for past in pasts), default=0) // 8) * 8
        history, position, event = (np.zeros((len(pasts), length), dtype=np.int64) for _ in range(3))
        mask = np.zeros((len(pasts), length), dtype=bool)
        search = len(self.data.codes.event) + 1
        for row, past in enumerate(pasts):
            size, is_item = len(past.item), past.item >= 0
            found = np.where(is_item, local.find(past.item), local.size + np.searchsorted(texts, past.query))
            history[row, :size], mask[row, :size] = found, True
            position[row, :size] = past.position
            position[row, size:] = past.position[-1] + 1 if size else 0
            event[row, :size] = np.where(is_item, past.event, search)
        return [history, mask, position, event]

    def _context(self, pasts: list[Past], length: int) -> torch.Tensor | None:
        columns = len(self.data.codes.context)
        if not columns:
            return None
        out = np.zeros((len(pasts), length + 1, columns), dtype=np.int64)
        for number, past in enumerate([] if "context" in self.hidden else pasts):
            out[number, : len(past.next_context)] = past.next_context
        return torch.from_numpy(out)

    def past(
        self, user: int, first: int, last: int, end: float, keep: np.ndarray | None = None, stage: int = TEST
    ) -> Past:
        """A piece of a user's history.

        Args:
            user: row of the users table.
            first, last: rows first:last of the layout.
            end: the user's searches since row `first` (since ever, for the first row) and before this order value
                stand among them.
            keep: [last - first] bool, which of the rows stay.
            stage: searches of a later one are left out, and rows where those are judged: what is learnt from does not
                see what is judged on.
        """
        histories = self.data.histories
        assert histories is not None
        rows = np.arange(first, last) if keep is None else np.arange(first, last)[keep]
        if self.data.judged:
            rows = rows[histories.stage[rows] <= stage]
        past = Past(
            item=histories.item[rows].astype(np.int64),
            query=np.full(len(rows), -1, dtype=np.int64),
            event=histories.event[rows].astype(np.int64),
            position=histories.position[rows].astype(np.int64),
            order=histories.order[rows],
            next_context=np.zeros((len(rows) + 1, len(self.data.codes.context)), dtype=np.int64),
        )
        if self.searches is None:
            return past
        since = histories.order[first] if first > histories.offsets[user] else -np.inf
        return past.merge(*self.searches.between(user, since, end, stage))

    def latest(self, user: int, end: int, before: float, stage: int = TEST) -> Past:
        """The latest `max_items` entries of a user: rows before `end` of the layout, searches before `before`."""
        histories = self.data.histories
        if histories is None or user < 0:
            return Past.empty(len(self.data.codes.context))
        first = max(int(histories.offsets[user]), end - self.max_items)
        return self.past(user, first, end, before, stage=stage).last(self.max_items)


def note_readers(data: Prepared, vectors: Mapping[str, np.ndarray | None], count: int) -> dict[str, NoteReader]:
    """Of each kind of notes that the data set has, with the vectors of its texts."""
    return {name: NoteReader(notes=one, vectors=vectors[name], count=count) for name, one in data.notes.items()}


class Local:
    """Where items stand in a batch: all items in table order, or a sorted set of distinct ones."""

    def __init__(self, items: np.ndarray | None, total: int) -> None:
        self.items = items
        self.size = total if items is None else len(items)

    def find(self, rows: np.ndarray) -> np.ndarray:
        """Local rows of items that are there (others give a meaningless row)."""
        return rows if self.items is None else np.minimum(np.searchsorted(self.items, rows), self.size - 1)

    def joined(self, rows: np.ndarray) -> "Local":
        """With other items beside them."""
        return self if self.items is None else Local(np.union1d(self.items, rows), self.size)


def search_past(features: Features, query: int, end: int = -1, before: float = np.inf) -> Past:
    """The history that stood behind a search: what its user had done before it.

    Where they are given, rows from `end` of the layout on and searches from the order value `before` on are hidden.
    """
    data = features.data
    assert data.queries is not None
    user, order = int(data.queries.user[query]), float(data.queries.order[query])
    if data.histories is None or user < 0 or np.isnan(order):
        return Past.empty(len(data.codes.context))
    row = data.histories.row_at(user, order)
    stage = int(data.queries.stage[query])
    return features.latest(user, row if end < 0 else min(row, end), min(order, before), stage)


def _rows_or(table: np.ndarray, rows: np.ndarray, missing: float) -> np.ndarray:
    """The rows of a table, `missing` throughout for row -1."""
    out = np.full((len(rows), *table.shape[1:]), missing, dtype=table.dtype)
    out[rows >= 0] = table[rows[rows >= 0]]
    return out
