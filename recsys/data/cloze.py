"""Items asked for by their own words: some columns of a text are the query, the others the answer.

The inverse cloze task (Lee, Chang and Toutanova 2019, arXiv:1906.00300). It needs no query that anybody asked, so the
encoder also meets the items that none of them is about.
"""

from copy import copy
from dataclasses import dataclass, field

import numpy as np

from recsys.data.features import Features, Texts
from recsys.data.text import join_columns
from recsys.errors import InputError, nearest


@dataclass(frozen=True, kw_only=True)
class ClozeConfig:
    """Which words ask, and how often."""

    columns: list[str] = field(default_factory=list)
    """Columns of data.items.text that are the query; the item is read without them."""
    share: float = 0.25
    """Rows in an epoch, other items in each, for every train query."""

    def __post_init__(self) -> None:
        if not self.columns or self.share <= 0:
            raise InputError(f"cloze: expected columns and a share above 0; found {self.columns} and {self.share}.")


@dataclass(frozen=True, kw_only=True)
class Cloze:
    """Rows of the task. `features` reads row i of the items table as a query and as an item."""

    features: Features
    items: np.ndarray
    """[n] items that have words on both sides."""
    count: int
    """Of them in an epoch."""

    def drawn(self, seed: int, epoch: int) -> np.ndarray:
        """[count] the items of an epoch, each once."""
        return np.random.default_rng([seed, epoch, 4]).permutation(self.items)[: self.count]


def split_texts(data: Features, config: ClozeConfig, text: list[str]) -> tuple[list[str], list[str]]:
    """What asks and what answers, for every item; `text` are the columns of data.items.text."""
    for name in config.columns:
        if name not in text:
            raise InputError(f"cloze.columns names {name!r}; expected columns of data.items.text.{nearest(name, text)}")
    rest = [name for name in text if name not in config.columns]
    if not rest:
        raise InputError("cloze.columns are all columns of data.items.text; leave at least one for the answer.")
    items = data.data.tables.items
    return join_columns(items, config.columns), join_columns(items, rest)


def make_cloze(
    features: Features, asking: list[str], answering: list[str], known: np.ndarray, *, queries: Texts, items: Texts,
    count: int,
) -> Cloze:  # fmt: skip
    """The rows of the task.

    Args:
        features: reader of the data set.
        asking, answering: from `split_texts`.
        known: [n] rows of the items that may be learnt from.
        queries, items: how these texts reach a batch.
        count: rows in an epoch, as many as there are at the most.
    """
    both = np.array([bool(one) and bool(other) for one, other in zip(asking, answering, strict=True)], dtype=bool)
    rows = known[both[known]]
    if not len(rows):
        raise InputError("No item has words in cloze.columns and in another column; there is nothing to learn from.")
    other = copy(features)
    other.query_texts, other.item_texts = queries, items
    return Cloze(features=other, items=rows, count=max(min(count, len(rows)), 1))
