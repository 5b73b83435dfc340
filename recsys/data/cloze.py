"""Items asked for by their own words: some columns of a text are the query, the others the answer.

The inverse cloze task (Lee, Chang and Toutanova 2019, arXiv:1906.00300). It needs no query that anybody asked, so the
encoder also meets the items that none of them is about.
"""

from copy import copy
from dataclasses import dataclass, field

import numpy as np

from recsys.data.features import Features, Texts
from recsys.data.sampling import Draw
from recsys.data.text import join_columns
from recsys.errors import InputError, nearest


@dataclass(frozen=True, kw_only=True)
class ClozeConfig:
    """Which words ask, and how often."""

    columns: list[str] = field(default_factory=list)
    """Columns of data.items.text that are the query; the item is read without them."""
    share: float = 0.25
    """Items asked for so in a batch, others in each, for every query of it."""

    def __post_init__(self) -> None:
        if not self.columns or self.share <= 0:
            raise InputError(f"cloze: expected columns and a share above 0; found {self.columns} and {self.share}.")


@dataclass(frozen=True, kw_only=True)
class Cloze:
    """Row i of the items table asks as query `queries` + i and answers as item `catalogue` + i."""

    items: np.ndarray
    """[n] rows of the items that have words on both sides."""
    share: float
    queries: int
    catalogue: int

    def drawn(self, draw: Draw, seed: int) -> np.ndarray:
        """This process's share of the items that ask in a batch, each once."""
        count = round(self.share * len(draw.rows if draw.whole is None else draw.whole))
        rng = np.random.default_rng([seed, draw.epoch, 4, draw.number])
        return rng.choice(self.items, min(count, len(self.items)), replace=False)[draw.part :: draw.parts]


def split_texts(features: Features, config: ClozeConfig, text: list[str]) -> tuple[list[str], list[str]]:
    """What asks and what answers, for every item; `text` are the columns of data.items.text."""
    for name in config.columns:
        if name not in text:
            raise InputError(f"cloze.columns names {name!r}; expected columns of data.items.text.{nearest(name, text)}")
    rest = [name for name in text if name not in config.columns]
    if not rest:
        raise InputError("cloze.columns are all columns of data.items.text; leave at least one for the answer.")
    items = features.data.tables.items
    return join_columns(items, config.columns), join_columns(items, rest)


def add_cloze(
    features: Features, asking: list[str], answering: list[str], known: np.ndarray, share: float, *, queries: Texts,
    items: Texts,
) -> tuple[Features, Cloze]:  # fmt: skip
    """A reader that also knows these texts, and which rows there are.

    Args:
        features: reader of the data set.
        asking, answering: from `split_texts`.
        known: [n] rows of the items that may be learnt from.
        share: of `ClozeConfig`.
        queries: the queries' own texts, then `asking`.
        items: the items' own texts, then `answering`.
    """
    both = np.array([bool(one) and bool(other) for one, other in zip(asking, answering, strict=True)], dtype=bool)
    rows = known[both[known]]
    if not len(rows):
        raise InputError("No item has words in cloze.columns and in another column; there is nothing to learn from.")
    other, data = copy(features), features.data
    other.query_texts, other.item_texts = queries, items
    return other, Cloze(items=rows, share=share, queries=len(data.queries or ()), catalogue=len(data.catalogue))
