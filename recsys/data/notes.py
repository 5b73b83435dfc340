"""What is said of items from some moment on: reviews and ads. Nobody reads what was written after his own moment."""

from dataclasses import dataclass

import numpy as np
import polars as pl
import torch

from recsys.batch import NoteBatch
from recsys.data.codes import Codes, scale
from recsys.data.histories import numbered, order_column
from recsys.data.text import join_columns
from recsys.tables import AdsConfig, DataConfig, Tables

_PRIOR = 100.0  # impressions that the mean click rate weighs as much as


@dataclass(frozen=True, kw_only=True)
class Notes:
    """The rows of a table of notes, sorted by item and time: item n owns rows offsets[n]:offsets[n + 1]."""

    texts: list[str]  # [E]
    offsets: np.ndarray  # [N + 1] int64
    order: np.ndarray  # [E] float64
    number: np.ndarray  # [E, C] float32, NaN is missing
    unit: float
    """Of the ages that a model is told: a day, where the order is a time of one year."""

    def latest(self, items: np.ndarray, before: np.ndarray, count: int) -> np.ndarray:
        """[n, count] rows of the latest notes of each item that are earlier than its moment, newest first, -1 padded.

        Args:
            items: [n] rows of the items table, -1 for padding.
            before: [n] order values; infinite: all notes are known.
            count: how many at most.
        """
        if not len(self.order):
            return np.full((len(items), count), -1)
        first, end = self.offsets[np.maximum(items, 0)], self.offsets[np.maximum(items, 0) + 1]
        low, high = first.copy(), np.where(items >= 0, end, first)
        while (open_to := low < high).any():  # one binary search for all
            middle = (low + high) // 2
            earlier = open_to & (self.order[np.minimum(middle, len(self.order) - 1)] < before)
            low, high = np.where(earlier, middle + 1, low), np.where(open_to & ~earlier, middle, high)
        rows = low[:, None] - 1 - np.arange(count)
        return np.where(rows >= first[:, None], rows, -1)

    def batch(self, candidates: np.ndarray, before: np.ndarray, count: int, vectors: np.ndarray | None) -> NoteBatch:
        """The notes of candidates [B, K] at moments `before` [B]; `vectors` [E, W] are those of the texts."""
        moments = np.repeat(before, candidates.shape[1])
        rows = self.latest(candidates.ravel(), moments, count)
        distinct = np.unique(rows[rows >= 0])
        now = np.where(np.isinf(moments), self.order.max(initial=0), moments)[:, None]
        age = np.where(rows >= 0, now - np.append(self.order, 0)[rows], 0.0)
        shape = (*candidates.shape, count)
        words = None if vectors is None else torch.from_numpy(np.asarray(vectors[distinct], dtype=np.float32))
        place = np.where(rows >= 0, np.searchsorted(distinct, rows), -1)
        return NoteBatch(
            row=torch.from_numpy(place.reshape(shape)), vector=words, number=torch.from_numpy(self.number[distinct]),
            age=torch.from_numpy(np.maximum(age / self.unit, 0).astype(np.float32).reshape(shape)),
        )  # fmt: skip


def read_notes(tables: Tables, config: DataConfig, codes: Codes) -> dict[str, Notes]:
    """By name (`reviews`, `ads`) the notes of the tables that the config gives roles to, scaled as `codes` say; where
    they say nothing, as this table has it.
    """
    scales, found = {**note_scales(tables, config), **codes.notes}, {}
    if config.reviews is not None and tables.reviews is not None:
        unit, middle, spread = scales["reviews"]
        rows = _sorted(tables.reviews, tables, config, config.reviews.item, config.reviews.order)
        number = np.zeros((len(rows), 0))
        if config.reviews.rating is not None:
            number = (rows[config.reviews.rating].cast(pl.Float64).to_numpy()[:, None] - middle) / spread
        found["reviews"] = _notes(rows, tables, config.reviews.text, number, unit)
    if config.ads is not None and tables.ads is not None:
        unit, mean = scales["ads"]
        rows = _sorted(tables.ads, tables, config, config.ads.item, config.ads.order)
        found["ads"] = _notes(rows, tables, config.ads.text, _click_rates(rows, config.ads, mean), unit)
    return found


def note_scales(tables: Tables, config: DataConfig) -> dict[str, list[float]]:
    """`Codes.notes` of these tables."""
    found: dict[str, list[float]] = {}
    if config.reviews is not None and tables.reviews is not None:
        rating = config.reviews.rating
        spread = [0.0, 1.0] if rating is None else scale(tables.reviews[rating])
        found["reviews"] = [_age_unit(tables.reviews, config.reviews.order), *spread]
    if config.ads is not None and tables.ads is not None:
        found["ads"] = [_age_unit(tables.ads, config.ads.order), _click_rate(tables.ads, config.ads)]
    return found


def _age_unit(rows: pl.DataFrame, column: str) -> float:
    """A 365th of the time that the rows span; 1 where that is none."""
    order = rows.select(order_column(rows.lazy(), column)).to_series()
    return float(np.ptp(order.drop_nulls().to_numpy())) / 365 or 1.0 if order.drop_nulls().len() else 1.0


def _click_rate(rows: pl.DataFrame, ads: AdsConfig) -> float:
    """Clicks for each impression; 1 where they are not counted, or there are none."""
    if ads.impressions is None or ads.clicks is None:
        return 1.0
    shown, clicked = (float(rows[name].cast(pl.Float64).sum()) for name in (ads.impressions, ads.clicks))
    return clicked / shown if clicked > 0 and shown > 0 else 1.0


def _sorted(frame: pl.DataFrame, tables: Tables, config: DataConfig, item: str, order: str) -> pl.DataFrame:
    """The rows by item and time, with the columns `__item` and `__order`; ties stand as in the table."""
    items = numbered(tables.items[config.items.id], "__item").rename({"__item_id": item})
    moments = order_column(frame.lazy(), order).alias("__order")
    return frame.with_columns(moments).join(items, on=item).sort("__item", "__order", maintain_order=True)


def _notes(rows: pl.DataFrame, tables: Tables, text: str, number: np.ndarray, unit: float) -> Notes:
    items = np.arange(len(tables.items) + 1)
    return Notes(
        texts=join_columns(rows, [text]), offsets=np.searchsorted(rows["__item"].to_numpy(), items),
        order=rows["__order"].to_numpy(), number=number.astype(np.float32), unit=unit,
    )  # fmt: skip


def _click_rates(rows: pl.DataFrame, ads: AdsConfig, mean: float) -> np.ndarray:
    """[E, 1]: the log of how much oftener than others' an item's earlier ads were clicked; [E, 0] where clicks are not
    counted. What an ad itself will have been clicked is not known while it runs.

    Smoothed: (clicks + 100 mean) / (impressions + 100).
    """
    if ads.impressions is None or ads.clicks is None:
        return np.zeros((len(rows), 0))
    shown, clicked = (pl.col(name).cast(pl.Float64).fill_null(0) for name in (ads.impressions, ads.clicks))
    before = [one.cum_sum().shift(1, fill_value=0).over("__item") for one in (clicked, shown)]
    return rows.select(((before[0] + _PRIOR * mean) / (before[1] + _PRIOR) / mean).log()).to_numpy()
