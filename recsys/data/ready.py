"""Vectors of items that were made elsewhere (`items.vectors`): an array for each column, whose rows go into a batch."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass

import numpy as np
import polars as pl
import torch

from recsys.errors import InputError
from recsys.tables.vectors import read_vectors


@dataclass(frozen=True, kw_only=True)
class ReadyVectors:
    """A column of N vectors of W numbers."""

    values: np.ndarray  # [N, W] float32, zeros where there is none
    known: np.ndarray  # [N] bool, False where there is none, or a broken one


def fit_widths(items: pl.DataFrame, columns: list[str]) -> dict[str, int]:
    """W of each column. Raises InputError for a column in which no cell holds a vector that can be used."""
    widths = {}
    for name in columns:
        found = read_vectors(items[name])
        if not found.known.any():
            raise InputError(
                f"items.{name} holds no vector in any of {len(items):,} rows; expected lists of finite numbers. Fill "
                "the column, or take it out of data.items.vectors."
            )
        widths[name] = found.width
    return widths


def ready_vectors(items: pl.DataFrame, widths: Mapping[str, int]) -> dict[str, ReadyVectors]:
    """The columns of some items; one that the table does not have, or without any vector, is missing in every row.

    Raises InputError where most vectors of a column are of another width than the model learnt.
    """
    return {name: _column(items, name, width) for name, width in widths.items()}


def _column(items: pl.DataFrame, name: str, width: int) -> ReadyVectors:
    found = read_vectors(items[name]) if name in items.columns else None
    if found is None or not found.width:
        nothing = np.broadcast_to(np.zeros(width, dtype=np.float32), (len(items), width))
        return ReadyVectors(values=nothing, known=np.zeros(len(items), dtype=bool))
    if found.width != width:
        raise InputError(
            f"items.{name} holds vectors of {found.width} numbers, and the model was trained with {width}; make them "
            "the way that those were made."
        )
    return ReadyVectors(values=found.values, known=found.known)


def read_ready(
    columns: Mapping[str, ReadyVectors], rows: np.ndarray, hidden: Collection[str] = ()
) -> dict[str, torch.Tensor]:
    """The fields of an ItemBatch that are about them, of some rows of the items table; none where there are no columns.

    Those of `hidden` columns are missing.
    """
    if not columns:
        return {}
    known = [one.known[rows] & (name not in hidden) for name, one in columns.items()]
    return {
        "ready_vector": torch.from_numpy(np.concatenate([one.values[rows] for one in columns.values()], axis=1)),
        "ready_known": torch.from_numpy(np.stack(known, axis=1)),
    }
