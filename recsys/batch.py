"""Nouns in flight: frozen dataclasses of tensors.

Letters: B rows of a batch, n distinct items of a batch, q distinct texts, H history entries, T tokens,
C category columns, V values of one category cell, M number columns, R supervised rows, D width.
Lightning moves a frozen dataclass only if it has ``.to()``; ``DataLoader(pin_memory=True)`` calls ``.pin_memory()``.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, fields
from typing import Self

import torch
from torch import Tensor
from torch.nn import functional as F


@dataclass(frozen=True, kw_only=True)
class Batch:
    """A dataclass whose fields are tensors, other batches, plain values or None."""

    def _each(self, change: Callable[[Tensor], Tensor]) -> Self:
        def one(value: object) -> object:
            if isinstance(value, Tensor):
                return change(value)
            return value._each(change) if isinstance(value, Batch) else value

        return type(self)(**{field.name: one(getattr(self, field.name)) for field in fields(self)})

    def to(self, device: torch.device | str, non_blocking: bool = False) -> Self:
        """The same batch with every tensor on ``device``."""
        return self._each(lambda tensor: tensor.to(device, non_blocking=non_blocking))

    def pin_memory(self) -> Self:
        """The same batch in page-locked memory."""
        return self._each(lambda tensor: tensor.pin_memory())


@dataclass(frozen=True, kw_only=True)
class TextBatch(Batch):
    """Tokenised texts, padded to the longest of the batch."""

    ids: Tensor  # [q, T] int64
    mask: Tensor  # [q, T] bool, True for a real token
    part: Tensor | None = None  # [q, T] int64, 1 for the second text of a pair (token types); None: single texts

    def take(self, rows: Tensor) -> Self:
        """Some of the texts, padded to the longest of them."""
        longest = int(self.mask[rows].sum(1).max()) if len(rows) else 1
        return self._each(lambda tensor: tensor[rows, :longest])


def join_texts(batches: Sequence[TextBatch]) -> TextBatch:
    """Single texts of several batches, one batch after the other."""
    longest = max(batch.ids.shape[1] for batch in batches)

    def joined(values: Iterable[Tensor]) -> Tensor:
        return torch.cat([F.pad(value, (0, longest - value.shape[1])) for value in values])

    return TextBatch(ids=joined(batch.ids for batch in batches), mask=joined(batch.mask for batch in batches))


@dataclass(frozen=True, kw_only=True)
class ApartBatch(Batch):
    """The words of B requests and of m distinct candidates, each text by itself."""

    request: TextBatch  # [B, T]
    candidate: TextBatch  # [m, T]
    row: Tensor  # [B, K] int64 rows of `candidate`, -1 at padding


@dataclass(frozen=True, kw_only=True)
class MaskedBatch(Batch):
    """Texts with some of their tokens hidden."""

    texts: TextBatch
    token: Tensor  # [m] int64, the hidden ones, counted over the real tokens of all texts
    original: Tensor  # [m] int64 ids
    tokens: int = 0  # real tokens in this batch, for the rate that is logged

    @property
    def rows(self) -> int:
        """Texts in this batch."""
        return len(self.texts.ids)


@dataclass(frozen=True, kw_only=True)
class ItemBatch(Batch):
    """The content of n distinct items. Exactly one of `text` and `text_vector` is set when items have text."""

    index: Tensor  # [n] int64, row in the items table; -1 for an item the model has not seen in training
    text: TextBatch | None = None  # [n, T], for an encoder that is trained
    text_vector: Tensor | None = None  # [n, W] float32, for a frozen encoder
    text_known: Tensor | None = None  # [n] bool, False where the words are hidden; None: they are everywhere
    image: Tensor | None = None  # [n, 3, P, P] uint8, for an encoder that is trained
    image_vector: Tensor | None = None  # [n, W] float32, for a frozen encoder
    image_known: Tensor | None = None  # [n] bool, False where there is no picture, or none that can be read
    ready_vector: Tensor | None = None  # [n, W] float32, the columns of ready-made vectors side by side
    ready_known: Tensor | None = None  # [n, S] bool, False where a column holds none, or a broken one
    category: Tensor | None = None  # [n, C, V] int64 codes, 0 is padding or missing
    number: Tensor | None = None  # [n, M] float32, scaled; NaN is missing

    def take(self, rows: Tensor) -> Self:
        """Some of the items."""
        return self._each(lambda tensor: tensor[rows])


@dataclass(frozen=True, kw_only=True)
class UserBatch(Batch):
    """The user's side of B requests.

    History entries index into the rows of `[items; queries]`: an entry `e < n` is item row `e` of the batch's
    ItemBatch, an entry `e >= n` is query text `e - n` of `query_text` (a search that stands in the history).
    """

    history: Tensor  # [B, H] int64 entries, oldest first, padded at the end
    history_mask: Tensor  # [B, H] bool, True for a real entry
    position: Tensor | None = None  # [B, H] int64, order of each entry; gaps are allowed
    event: Tensor | None = None  # [B, H] int64 codes of the kind of event, 0 is unknown
    profile: Tensor | None = None  # [B, P, V] int64 codes of user categories, 0 is missing
    profile_number: Tensor | None = None  # [B, M] float32, NaN is missing
    context: Tensor | None = None  # [B, H + 1, X] int64 codes of the moment of each next event, 0 is missing
    query: Tensor | None = None  # [B] int64 row of the query's words and picture, -1 for none
    query_text: TextBatch | None = None  # [q, T]
    query_vector: Tensor | None = None  # [q, W] float32, for a frozen encoder
    query_text_known: Tensor | None = None  # [q] bool, False where a query has no words; None: they all have
    query_image: Tensor | None = None  # [q, 3, P, P] uint8, for an encoder that is trained
    query_image_vector: Tensor | None = None  # [q, W] float32, for a frozen encoder
    query_image_known: Tensor | None = None  # [q] bool, False where there is no picture, or none that can be read


@dataclass(frozen=True, kw_only=True)
class RetrieverBatch(Batch):
    """One process's part of a training step of the retriever. Items are told by their row of the items table."""

    items: ItemBatch | None  # None: the whole catalogue, which the trainer holds
    item: Tensor | None  # [n] int64, the items of `items`, rising; None: the whole catalogue
    users: UserBatch
    row: Tensor  # [R] int64, row of `users` that each supervised target belongs to
    step: Tensor  # [R] int64, number of history entries before the target: 0 .. H
    target: Tensor  # [R] int64, item
    seen_row: Tensor  # [E] int64, row of `users`
    seen_item: Tensor  # [E] int64, item that this user has
    seen_step: Tensor  # [E] int64, from this step on the item is no negative (0: at every step)
    missed: Tensor | None = None  # [n, S] float64, log of the chance that one draw of each source misses the item
    draws: Tensor | None = None  # [S] int64, draws of each source that this process has made
    taught_item: Tensor | None = None  # [R, C] int64, items that a teacher has judged, the target first; -1 at padding
    taught_logit: Tensor | None = None  # [R, C] float32, its logits
    tokens: int = 0  # real tokens or entries in this batch, for the rate that is logged

    @property
    def rows(self) -> int:
        """Users' windows or queries in this batch."""
        return len(self.users.history)


@dataclass(frozen=True, kw_only=True)
class EvaluationBatch(Batch):
    """B requests whose answers are known, to be ranked against the whole catalogue."""

    users: UserBatch
    step: Tensor  # [B] int64, the state that answers: the number of history entries
    targets: Tensor  # [B, P] int64 item rows, padded with -1
    grades: Tensor  # [B, P] float32
    seen_row: Tensor  # [E] int64, row of `users`
    seen_item: Tensor  # [E] int64, item row that is not recommended to this user again


@dataclass(frozen=True, kw_only=True)
class NoteBatch(Batch):
    """The latest L reviews, or ads, of each candidate at its request's moment, newest first; m distinct ones."""

    row: Tensor  # [B, K, L] int64 rows of the two below, padded with -1
    number: Tensor  # [m, C] float32 beside each note, NaN is missing
    age: Tensor  # [B, K, L] float32, how long before the moment; 0 at padding
    vector: Tensor | None = None  # [m, W] float32 of the texts, by a frozen encoder


@dataclass(frozen=True, kw_only=True)
class PrunerBatch(Batch):
    """B requests with K candidates each, to be judged a second time.

    History entries and candidates index into `items`, the distinct items of the batch.
    """

    users: UserBatch
    items: ItemBatch
    item_vector: Tensor  # [n, D] float32, the retriever's vectors of `items`
    user_vector: Tensor  # [B, D] float32, the retriever's vector of the request
    candidate: Tensor  # [B, K] int64 rows of `items`, padded with -1 at the end
    retriever_score: Tensor  # [B, K] float32
    label: Tensor  # [B, K] float32 grade, 0 = not relevant
    others: Tensor | None = None  # [B, K, G] float32 whether each other target came true, NaN where it is not known
    lexical_score: Tensor | None = None  # [B, K] float32 of a lexical source, 0 without a query; None: no such source
    reviews: NoteBatch | None = None  # None: no such source
    ads: NoteBatch | None = None
    neighbours: Tensor | None = None  # [B, K, M] float32 what the history says of alike items; None: nobody asks
    rank: Tensor | None = None  # [B, K] int64 place in the retriever's list; None: the column (nothing was left out)
    evidence: Tensor | None = None  # [B, K, E] float32 `retriever_evidence` of a longer list; None: of these candidates
    pairs: TextBatch | None = None  # [B * K, T], user's words and candidate's words, for an encoder that is trained
    apart: ApartBatch | None = None  # the same words, each text by itself, for late interaction
    tokens: int = 0  # real tokens or states in this batch, for the rate that is logged

    @property
    def rows(self) -> int:
        """Requests in this batch."""
        return len(self.candidate)
