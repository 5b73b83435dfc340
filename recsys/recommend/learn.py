"""Impressions come back in: how much each place is looked at, how often each item was shown, what its clicks say."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import polars as pl
import torch

from recsys.data.prepare import Prepared
from recsys.errors import InputError
from recsys.metrics.clicks import examination_error, fit_examination
from recsys.metrics.long_tail import SEGMENTS, popularity_segments
from recsys.recommend.loop import Beliefs, ExploreConfig

LEARNT = "learnt.parquet"
"""In the run's folder: a row for each item."""
NEEDED = ("list_id", "item_id", "rank", "clicked")
_NORMAL = 1.96


@dataclass(frozen=True, kw_only=True)
class Impressions:
    """Lists that were shown, a row for each place."""

    items: np.ndarray  # [n] int64 rows of the items table
    ranks: np.ndarray  # [n] int64, from 0
    clicked: np.ndarray  # [n] bool
    lists: np.ndarray  # [n] int64 number of the list
    propensity: np.ndarray  # [n] float64 with which the item was drawn for its place; 1 where that is not logged


@dataclass(frozen=True, kw_only=True)
class Learnt:
    """What the impressions say."""

    examination: np.ndarray  # [K] chance that a place is looked at, relative to the first
    error: np.ndarray  # [K] its standard error
    items: pl.DataFrame
    """item_id, segment, shown, drawn (of these, those by chance), looks (shown, each by its examination), clicks, and
    the click rate when looked at with its 95 %: rate, low, high."""


def read_impressions(path: Path, ids: pl.Series) -> Impressions:
    """A table with list_id, item_id, rank (from 1), clicked and perhaps propensity. `ids` are those of the items table.

    Raises InputError for a missing column, an unknown item, or a value that cannot be.
    """
    try:
        frame = pl.read_csv(path) if path.suffix == ".csv" else pl.read_parquet(path)
    except (OSError, pl.exceptions.PolarsError) as error:
        reason = str(error).splitlines()[0]
        raise InputError(f"{path} cannot be read ({reason}); expected a CSV or Parquet file of impressions.") from error
    missing = [name for name in NEEDED if name not in frame.columns]
    if missing or not len(frame):
        raise InputError(f"{path} has no {missing[0] if missing else 'row'}; expected rows with {', '.join(NEEDED)}.")
    known = pl.DataFrame({"item_id": ids.cast(pl.String), "row": np.arange(len(ids))})
    rows = frame.select(pl.col("item_id").cast(pl.String)).join(known, on="item_id", how="left", maintain_order="left")
    found = Impressions(
        items=rows["row"].fill_null(-1).to_numpy(), ranks=frame["rank"].to_numpy().astype(np.int64) - 1,
        clicked=frame["clicked"].cast(pl.Boolean).to_numpy(), lists=frame["list_id"].rank("dense").to_numpy(),
        propensity=frame["propensity"].to_numpy() if "propensity" in frame.columns else np.ones(len(frame)),
    )  # fmt: skip
    _check(path, found)
    return found


def _check(path: Path, found: Impressions) -> None:
    faults = {
        "item_id is in no row of the items table": found.items < 0,
        "rank is below 1": found.ranks < 0,
        "propensity is not above 0 and at most 1": ~((found.propensity > 0) & (found.propensity <= 1)),
    }
    for fault, wrong in faults.items():
        if wrong.any():
            first = int(np.flatnonzero(wrong)[0]) + 1
            raise InputError(f"{path}: {fault} in {int(wrong.sum()):,} rows, row {first} first; mend or remove them.")


def learn(data: Prepared, ids: pl.Series, seen: Impressions, config: ExploreConfig) -> Learnt:
    """Fit the examination of places, and update what is believed of every item's click rate from `config`'s prior."""
    places, size = int(seen.ranks.max()) + 1, len(ids)
    examination = fit_examination(seen.items, seen.ranks, seen.clicked, places)
    error = examination_error(seen.items, seen.ranks, seen.clicked, seen.lists, places)
    looks = examination[seen.ranks]
    beliefs = Beliefs.before(config, size).learnt(seen.items, looks, seen.clicked)
    segments = popularity_segments(torch.from_numpy(data.popularity())).numpy()
    half = _NORMAL * beliefs.spread
    items = pl.DataFrame({
        "item_id": ids,
        "segment": np.array(SEGMENTS)[segments],
        "shown": np.bincount(seen.items, minlength=size),
        "drawn": np.bincount(seen.items, seen.propensity < 1, size).astype(np.int64),
        "looks": np.bincount(seen.items, looks, size),
        "clicks": np.bincount(seen.items, seen.clicked, size).astype(np.int64),
        "rate": beliefs.rate,
        "low": np.maximum(beliefs.rate - half, 0),
        "high": np.minimum(beliefs.rate + half, 1),
    })  # fmt: skip
    return Learnt(examination=examination, error=error, items=items)


def print_learnt(found: Learnt) -> str:
    """The examination of every place, and exposures and clicks by popularity segment, as aligned text."""
    lines = ["place     looked at   standard error"]
    for place, (look, error) in enumerate(zip(found.examination, found.error, strict=True), 1):
        lines.append(f"{place:<10}{look:>9.3f}{error:>17.3f}")
    lines += [
        "",
        f"{'segment':<10}{'items':>8}{'never shown':>13}{'shown':>10}{'drawn':>10}{'clicks':>9}{'per look':>10}",
    ]
    for name in SEGMENTS:
        rows = found.items.filter(pl.col("segment") == name)
        looks, clicks = float(rows["looks"].sum()), float(rows["clicks"].sum())
        rate = f"{clicks / looks:.3f}" if looks else "-"
        never = int((rows["shown"] == 0).sum())
        shown = f"{never:>13,}{rows['shown'].sum():>10,}{rows['drawn'].sum():>10,}{rows['clicks'].sum():>9,}"
        lines.append(f"{name:<10}{len(rows):>8,}{shown}{rate:>10}")
    return "\n".join(lines)
