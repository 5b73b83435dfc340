"""Queries that show a picture, beside their words or in place of them."""

import numpy as np
import polars as pl
import torch

from recsys.data.images import Images
from recsys.data.prepare import Prepared, Queries
from recsys.errors import InputError
from recsys.tables import DataConfig

_APART = 1_000_003
"""Added to the seed: the picture of query n is not moved as that of item n is."""


def check_query_images(config: DataConfig, *, encoded: bool) -> None:
    """Refuse pictures of queries where the retriever has no encoder of pictures; `encoded`: it has one."""
    if config.queries.image is not None and not encoded:
        found = f"data.queries.image names {config.queries.image!r}, and the retriever reads no pictures"
        raise InputError(f"{found}; set model.image, which is for items and queries, or leave data.queries.image out.")


def query_cells(config: DataConfig, data: Prepared) -> pl.Series | None:
    """[Q] paths, bytes or null, what the queries show; None where no column says it, or there are no queries."""
    column, table = config.queries.image, data.tables.queries
    return None if column is None or table is None else table[column]


def read_query_images(
    images: Images, rows: np.ndarray, moved: tuple[int, int] | None = None
) -> dict[str, torch.Tensor]:
    """The fields of a UserBatch that are about the pictures of queries.

    Args:
        images: of the queries table.
        rows: [q] of it; those beyond it (`data.cloze`) have words alone.
        moved: seed and epoch, as `Images.read` takes them.
    """
    own = rows < len(images.known)
    found = images.read(np.where(own, rows, 0), None if moved is None else (moved[0] + _APART, moved[1]))
    found["image_known"] &= torch.from_numpy(own)
    return {f"query_{name}": values for name, values in found.items()}


def worded(queries: Queries | None, rows: np.ndarray) -> torch.Tensor | None:
    """[q] bool, which rows of the queries table have words; those beyond it do. None: where queries have no pictures,
    words are all that they are.
    """
    if queries is None or queries.pictures is None:
        return None
    return torch.tensor([row >= len(queries) or bool(queries.texts[row]) for row in rows.tolist()], dtype=torch.bool)


def pictures_alone(queries: Queries | None) -> np.ndarray | None:
    """[Q] bool, which queries show a picture and have no words; None where none has a picture."""
    if queries is None or queries.pictures is None:
        return None
    pairs = zip(queries.texts, queries.pictures, strict=True)
    return np.array([bool(shown) and not text for text, shown in pairs], dtype=bool)
