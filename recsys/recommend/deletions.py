"""What can be taken away from a request or an item, and batches without it.

What is taken away is what the models know as missing: an entry that never stood in the history, a word that never stood
in the text, a source that is hidden (`model.hide` teaches what that means). A column's value that is taken away leaves
the mean over the column's values, and a number its median, for most models never meet a missing value.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from recsys.batch import ItemBatch, UserBatch
from recsys.data.pasts import Past

Kind = Literal["history", "query", "word", "field", "profile", "context", "source"]
"""Items or searches of the history, words of the query and of the item's text, columns of item, user and moment, and
whole sources."""

_OF_REQUEST = ("history", "query", "profile", "context")
_MOST_VALUES = 32  # of a column, that stand for its mean


@dataclass(frozen=True)
class Unit:
    """One thing that can be taken away."""

    kind: Kind
    at: int
    """history: row of the items table, or -2 - row of the query that was searched; query, word: number of the word;
    field, profile, context: number of the column, categories first; source: nothing."""
    name: str = ""
    """Of a source."""

    @property
    def of_request(self) -> bool:
        """Whether it belongs to the user's side; else to the item's."""
        return self.kind in _OF_REQUEST or (self.kind == "source" and self.name in _OF_REQUEST)

    @classmethod
    def source(cls, name: str) -> "Unit":
        """A whole source by its name."""
        return cls("source", 0, name)


Gone = frozenset[Unit]


@dataclass(frozen=True)
class Asked:
    """The score of an item for a request, without some things."""

    request: int
    """Number among the requests that are explained."""
    item: int
    """Row of the items table, one of the request's candidates."""
    gone: Gone = frozenset()

    def sides(self) -> tuple[tuple[int, Gone], tuple[int, Gone]]:
        """The request without what is gone of it, and the item likewise."""
        mine = frozenset(unit for unit in self.gone if unit.of_request)
        return (self.request, mine), (self.item, self.gone - mine)


def numbers_of(gone: Iterable[Unit], kind: Kind) -> list[int]:
    """Where the units of one kind stand, ascending."""
    return sorted(unit.at for unit in gone if unit.kind == kind)


def hides(gone: Gone, source: str) -> bool:
    """Whether a whole source is gone."""
    return Unit.source(source) in gone


def entry_keys(past: Past) -> np.ndarray:
    """[H] int64: `Unit.at` of each entry of a history."""
    return np.where(past.item >= 0, past.item, -2 - past.query)


def past_without(past: Past, gone: Gone) -> Past:
    """A history as if some entries had never been in it; the moment stays."""
    if hides(gone, "history"):
        return past.last(0)
    taken = numbers_of(gone, "history")
    if not taken:
        return past
    keep = ~np.isin(entry_keys(past), taken)
    cut = {name: getattr(past, name)[keep] for name in ("item", "query", "event", "position", "order")}
    return replace(past, **cut, next_context=past.next_context[np.append(keep, True)])


def users_without(batch: UserBatch, gone: Sequence[Gone], lengths: Sequence[int], sizes: Sequence[int]) -> UserBatch:
    """Profiles and moments without some columns, or none at all.

    Args:
        batch: B requests.
        gone: what is taken from each.
        lengths: [B] entries of each history; the moment stands after them.
        sizes: values of each category column of the profile.
    """
    profile, number, context = batch.profile, batch.profile_number, batch.context
    columns = [(row, at) for row, one in enumerate(gone) for at in numbers_of(one, "profile")]
    profile, number = _columns_without(profile, number, columns, sizes)
    context = None if context is None else _context_without(context.clone(), gone, lengths)
    unknown = torch.tensor([hides(one, "profile") for one in gone])
    return replace(
        batch, context=context,
        profile=None if profile is None else profile.masked_fill(unknown[:, None, None], 0),
        profile_number=None if number is None else number.masked_fill(unknown[:, None], torch.nan),
    )  # fmt: skip


def reworded(batch: UserBatch, rows: list[int], vectors: Tensor, texts: list[str]) -> UserBatch:
    """The requests `rows` with other words of their queries, and the pictures that these had.

    Args:
        batch: B requests, whose queries' words are vectors.
        rows: [n] requests with a query.
        vectors: [n, W] of the words that are left.
        texts: these words.
    """
    assert batch.query is not None
    assert batch.query_vector is not None
    left = torch.tensor([bool(text.strip()) for text in texts])
    known, query, own = batch.query_text_known, batch.query.clone(), batch.query[rows]
    query[rows] = len(batch.query_vector) + torch.arange(len(rows))
    picture, shown = (
        None if values is None else torch.cat([values, values[own]])
        for values in (batch.query_image_vector, batch.query_image_known)
    )
    return replace(
        batch, query=query, query_vector=torch.cat([batch.query_vector, vectors]), query_image_vector=picture,
        query_image_known=shown,
        query_text_known=None if known is None else torch.cat([known, left]),
    )  # fmt: skip


def _context_without(context: Tensor, gone: Sequence[Gone], lengths: Sequence[int]) -> Tensor:
    for row, one in enumerate(gone):
        if hides(one, "context"):
            context[row] = 0
        for at in numbers_of(one, "context"):
            context[row, lengths[row], at] = 0
    return context


def items_without(
    batch: ItemBatch, gone: Sequence[Gone], sizes: Sequence[int], vectors: Sequence[str] = ()
) -> ItemBatch:
    """Items without some columns, picture, words or ready-made vectors as a whole; single words are the affair of who
    reads texts.

    Args:
        batch: n items.
        gone: what is taken from each.
        sizes: values of each category column.
        vectors: names of the columns of ready-made vectors.
    """
    columns = [(row, at) for row, one in enumerate(gone) for at in numbers_of(one, "field")]
    category, number = _columns_without(batch.category, batch.number, columns, sizes)
    seen = ~torch.tensor([hides(one, "image") for one in gone])
    told = ~torch.tensor([hides(one, "text") for one in gone])
    pictures, ready = batch.image_known, batch.ready_known
    if ready is not None:
        ready = ready & ~torch.tensor([[hides(one, name) for name in vectors] for one in gone], dtype=torch.bool)
    return replace(
        batch, category=category, number=number, image_known=None if pictures is None else pictures & seen,
        text_known=None if batch.text_vector is None else told, ready_known=ready,
    )  # fmt: skip


def _columns_without(
    codes: Tensor | None, numbers: Tensor | None, columns: list[tuple[int, int]], sizes: Sequence[int]
) -> tuple[Tensor | None, Tensor | None]:
    """The same [n, C, V] codes and [n, M] numbers with (row, column) replaced by the mean of what the column can be."""
    categories = [(row, at) for row, at in columns if at < len(sizes)]
    others = [(row, at - len(sizes)) for row, at in columns if at >= len(sizes)]
    if codes is not None and categories:
        width = min(max(sizes[at] for _, at in categories), _MOST_VALUES)
        codes = F.pad(codes, (0, max(width - codes.shape[-1], 0)))
        for row, at in categories:
            values = torch.linspace(1, sizes[at], min(sizes[at], width)).round().long()
            codes[row, at] = 0
            codes[row, at, : len(values)] = values
    if numbers is not None and others:
        numbers = numbers.clone()
        rows, at = zip(*others, strict=True)
        numbers[list(rows), list(at)] = 0.0
    return codes, numbers
