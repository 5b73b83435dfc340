"""Hard negatives: what an earlier retriever found for a query or a user, from a table, without what is relevant."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import polars as pl

from recsys.data.prepare import Prepared
from recsys.data.sampling import uniform
from recsys.errors import InputError
from recsys.tables import DataConfig

_PLACE = 1_000_121  # of the draws


@dataclass(frozen=True, kw_only=True)
class MineConfig:
    """Which items of the retriever's ranking are hard negatives."""

    first: int = 1
    """Rank, from 1, of the first wrong item that is taken: those above it may be right, though nobody says so."""
    last: int = 100
    """Rank of the last one."""
    margin: float = 0.1
    """How far below the best right item's score a negative's must be, in standard deviations of the list's scores."""

    def __post_init__(self) -> None:
        if not 1 <= self.first <= self.last:
            raise InputError(f"mine: expected 1 <= first <= last; found {self.first} and {self.last}.")
        if self.margin < 0:
            raise InputError(f"mine.margin is {self.margin}; expected 0 or more.")


@dataclass(frozen=True, kw_only=True)
class Mined:
    """A list of items for each row of a table (queries or users); empty where none was found."""

    offsets: np.ndarray  # [rows + 1] int64
    item: np.ndarray  # [items] int64

    def draw(
        self, rows: np.ndarray, count: int, *, seed: int, epoch: int, places: np.ndarray | None = None
    ) -> np.ndarray:
        """At most `count` items for each of these rows, by (seed, epoch, row) alone; one drawn twice counts once.

        `places` name the draws where a row stands more than once; None: the rows do.
        """
        size = self.offsets[rows + 1] - self.offsets[rows]
        keys = np.repeat(rows if places is None else places, count) * count + np.tile(np.arange(count), len(rows))
        share = uniform(seed + _PLACE, epoch, keys).reshape(len(rows), count)
        place = self.offsets[rows][:, None] + (share * size[:, None]).astype(np.int64)
        return np.unique(self.item[place[size > 0]])


@dataclass(frozen=True, kw_only=True)
class HardNegatives:
    """How many are drawn for each query and window, and from which lists."""

    count: int
    queries: Mined | None
    users: Mined | None


def read_mined(path: Path, count: int, data: Prepared, config: DataConfig) -> HardNegatives:
    """A Parquet file, or a folder of parts, with item_id and query_id or user_id (as `infer.py search` and `recommend`
    write them), or a folder of both kinds (query/ and user/, as `infer.py mine` writes it) -> hard negatives. Items
    that are relevant for their query are left out.

    Raises:
        InputError: there is no such file, or it has other columns.
    """
    kinds = [path / kind for kind in ("query", "user") if (path / kind).is_dir()]
    if kinds:
        found = [_read_one(one, count, data, config) for one in kinds]
        queries = next((one.queries for one in found if one.queries is not None), None)
        users = next((one.users for one in found if one.users is not None), None)
        return HardNegatives(count=count, queries=queries, users=users)
    return _read_one(path, count, data, config)


def _read_one(path: Path, count: int, data: Prepared, config: DataConfig) -> HardNegatives:
    parts = sorted(path.glob("part-*.parquet")) if path.is_dir() else [path] * path.is_file()
    if not parts:
        raise InputError(f"negatives.mined {str(path)!r} is no Parquet file and no folder of part-*.parquet.")
    try:
        columns = pl.scan_parquet(parts).collect_schema().names()
    except (pl.exceptions.PolarsError, OSError) as error:
        raise InputError(f"negatives.mined {path} is not readable Parquet: {str(error).splitlines()[0]}.") from error
    kinds = [kind for kind in ("query", "user") if f"{kind}_id" in columns]
    if "item_id" not in columns or not kinds:
        raise InputError(f"negatives.mined {path} has the columns {columns}; expected item_id and query_id or user_id.")
    if kinds[0] == "query":
        if data.queries is None or data.tables.queries is None:
            raise InputError(f"negatives.mined {path} names queries, and the data set has none.")
        found = _lists(parts, "query", data.tables.queries[config.queries.id], data, config)
        return HardNegatives(count=count, queries=_without_relevant(found, data), users=None)
    found = _lists(parts, "user", data.tables.users[config.users.id], data, config)
    return HardNegatives(count=count, queries=None, users=_grouped(found, len(data.tables.users)))


def _lists(parts: list[Path], kind: str, keys: pl.Series, data: Prepared, config: DataConfig) -> pl.DataFrame:
    """Distinct pairs (row, item) of rows of the tables, sorted; unknown ids are left out."""
    rows = keys.alias(f"{kind}_id").to_frame().with_row_index("row")
    items = data.tables.items[config.items.id].alias("item_id").to_frame().with_row_index("item")
    try:
        return (
            pl.scan_parquet(parts)
            .select(f"{kind}_id", "item_id")
            .join(rows.lazy(), on=f"{kind}_id")
            .join(items.lazy(), on="item_id")
            .select(pl.col("row", "item").cast(pl.Int64))
            .unique()
            .sort("row", "item")
            .collect()
        )
    except pl.exceptions.PolarsError as error:
        reason = str(error).splitlines()[0]
        raise InputError(f"negatives.mined: the ids are of another type than the tables' own ({reason}).") from error


def _without_relevant(found: pl.DataFrame, data: Prepared) -> Mined:
    assert data.queries is not None
    right = data.queries.grade > 0
    relevant = pl.DataFrame({"row": data.queries.owner()[right], "item": data.queries.item[right]})
    relevant = relevant.with_columns(pl.all().cast(pl.Int64))
    return _grouped(found.join(relevant, on=["row", "item"], how="anti").sort("row", "item"), len(data.queries))


def _grouped(found: pl.DataFrame, rows: int) -> Mined:
    offsets = np.searchsorted(found["row"].to_numpy(), np.arange(rows + 1))
    return Mined(offsets=offsets.astype(np.int64), item=found["item"].to_numpy())
