"""Columns of vectors that were made elsewhere: a list of numbers in each cell, all of one length in a column."""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import polars as pl

from recsys.tables.faults import FIRST, Fault, Inspection, accept, severity, short

VECTOR = pl.List(pl.Float32)
"""What lists of numbers of any type, of fixed length or not, are read as."""


def holds_vectors(dtype: pl.DataType | None) -> bool:
    """Whether a column of this type can be read as `VECTOR`; one without any value can."""
    if isinstance(dtype, pl.List | pl.Array):
        return dtype.inner.is_numeric() or dtype.inner == pl.Null
    return dtype == pl.Null


@dataclass(frozen=True, kw_only=True)
class Vectors:
    """A column of N vectors of W numbers. Neither null nor empty cells are broken: they hold none."""

    width: int
    """W, the length of most; 0 where no cell holds a number."""
    values: np.ndarray  # [N, W] float32, zeros where there is none
    known: np.ndarray  # [N] bool
    odd: np.ndarray  # rows of vectors of another length
    infinite: np.ndarray  # rows of vectors with NaN, null or an infinite number


def read_vectors(cells: pl.Series) -> Vectors:
    """The vectors of a column of type `VECTOR`. Where every cell holds a good one, nothing is copied."""
    sizes = cells.list.len().fill_null(0).to_numpy()
    filled = sizes > 0
    width = int(np.bincount(sizes[filled]).argmax()) if filled.any() else 0
    right = filled & (sizes == width)
    listed = cells if right.all() else cells.filter(pl.Series(right))
    block = listed.explode().to_numpy().reshape(-1, width) if width else np.zeros((0, 0), dtype=np.float32)
    known = right.copy()
    known[right] = np.isfinite(block).all(axis=1)
    values = block
    if not known.all():
        values = np.zeros((len(cells), width), dtype=np.float32)
        values[known] = block[known[right]]
    return Vectors(
        width=width, values=values, known=known, odd=np.flatnonzero(filled & ~right),
        infinite=np.flatnonzero(right & ~known),
    )  # fmt: skip


def broken_vectors(seen: Inspection, column: str) -> dict[str, np.ndarray]:
    """By what is wrong, the rows of a column of items; empty where nothing is, or the column cannot be used."""
    if not seen.has("items", column):
        return {}
    found = read_vectors(seen.frames["items"].select(column).collect()[column])
    wrong = {
        f"a vector of another length than {found.width}, which most have": found.odd,
        "a vector with NaN or an infinite number": found.infinite,
    }
    return {message: rows for message, rows in wrong.items() if len(rows)}


def vector_faults(seen: Inspection, table: str) -> Iterable[Fault]:
    """Vectors of items that cannot be used."""
    policy = seen.config.policy.vectors
    for column in seen.config.items.vectors:
        for message, rows in broken_vectors(seen, column).items():
            first = rows[:FIRST].tolist()
            cells = seen.frames[table].select(pl.col(column).gather(first)).collect()[column]
            yield Fault(
                table=table, column=column, kind="broken vector", message=message, count=len(rows), rows=tuple(first),
                values=tuple(short(cell.to_list()) for cell in cells), remedy=accept("vectors", policy),
                severity=severity(policy),
            )  # fmt: skip
