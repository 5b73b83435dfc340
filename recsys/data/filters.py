"""Which items may be listed for whom: in stock, sold in the user's region, and not above his age; columns by role."""

from dataclasses import dataclass, replace
from typing import Any, Self

import numpy as np
import polars as pl

from recsys.data.codes import split_cells
from recsys.tables import DataConfig, Tables


@dataclass(frozen=True, kw_only=True)
class Allowed:
    """The items that may be listed for each of R requests; those with one filter are a group."""

    group: np.ndarray  # [R] int64, row of `masks`
    masks: np.ndarray  # [G, N] bool

    def take(self, rows: np.ndarray | slice) -> "Allowed":
        """Of some of the requests."""
        return replace(self, group=self.group[rows])

    def groups(self) -> list[tuple[np.ndarray, np.ndarray]]:
        """The requests of each group, and its mask [N]."""
        found = [(np.flatnonzero(self.group == number), mask) for number, mask in enumerate(self.masks)]
        return [(rows, mask) for rows, mask in found if len(rows)]


@dataclass(frozen=True, kw_only=True)
class Filters:
    """What items ask for, and what is known of users. Region -1: not known."""

    stock: np.ndarray  # [N] bool, all True where no column says so
    everywhere: np.ndarray  # [N] bool, sold in every region
    regions: dict[str, np.ndarray]
    """Items that are sold in a region, beside those sold everywhere."""
    limit: np.ndarray  # [N] float64 least age, -inf for none
    region: np.ndarray  # [U] int64, place among `regions`; their number for a region where no item is sold but those
    age: np.ndarray  # [U] float64, NaN for not known

    @classmethod
    def read(cls, tables: Tables, config: DataConfig) -> "Filters | None":
        """From the columns with these roles; None where there are none."""
        items, users = config.items, config.users
        if items.stock is None and items.region is None and items.age_limit is None:
            return None
        everywhere, regions = _regions(tables.items, config)
        limit = _numbers(tables.items, items.age_limit)
        stock = _numbers(tables.items, items.stock) > 0 if items.stock else np.ones(len(tables.items), dtype=np.bool_)
        region = pl.Series([None] * len(tables.users), dtype=pl.String)
        if users.region is not None and users.region in tables.users.columns:
            region = tables.users[users.region].cast(pl.String)
        return cls(
            stock=stock, everywhere=everywhere, regions=regions, limit=np.where(np.isnan(limit), -np.inf, limit),
            region=_places(region, regions), age=_numbers(tables.users, users.age),
        )  # fmt: skip

    def about(self, region: Any, age: float | None) -> Self:
        """The same items, and one user alone, of whom this is known; None: it is not."""
        place = _places(pl.Series([region]).cast(pl.String), self.regions)
        return replace(self, region=place, age=np.array([np.nan if age is None else float(age)]))

    def of(self, users: np.ndarray) -> Allowed:
        """What may be listed for the users [R] int64 of some requests.

        Where nobody known asks (-1): what is in stock. A user whose region is not known is listed all regions' items;
        one whose age is not known, none with a limit.
        """
        known, limits = users >= 0, np.unique(self.limit)
        region, age = (np.append(values, 0)[users] for values in (self.region, self.age))
        region = np.where(known, region, -1)
        age = np.where(known, np.nan_to_num(age, nan=-np.inf), np.inf)
        old = np.searchsorted(limits, age, side="right")  # how many limits he has reached
        keys, group = np.unique(np.stack([region, old], axis=1), axis=0, return_inverse=True)
        ages = np.append(limits, np.inf)[np.maximum(keys[:, 1] - 1, 0)] if len(limits) else np.zeros(len(keys))
        masks = [self._mask(place, age) for place, age in zip(keys[:, 0].tolist(), ages.tolist(), strict=True)]
        return Allowed(group=group.reshape(-1), masks=np.array(masks, dtype=np.bool_).reshape(-1, len(self.stock)))

    def _mask(self, region: int, age: float) -> np.ndarray:
        """[N] bool for users of a region whose age has reached the limit `age`."""
        sold = np.ones_like(self.stock) if region < 0 else self.everywhere.copy()
        if 0 <= region < len(self.regions):
            sold[list(self.regions.values())[region]] = True
        return self.stock & sold & (self.limit <= age)


def _regions(items: pl.DataFrame, config: DataConfig) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """Items without a region, [N] bool, and those of each region."""
    name = config.items.region
    if name is None:
        return np.ones(len(items), dtype=np.bool_), {}
    cells = split_cells(items, name, config.items.separators).alias("region")
    pairs = pl.DataFrame({"item": np.arange(len(items)), "region": cells}).explode("region")
    pairs = pairs.filter(pl.col("region").is_not_null() & (pl.col("region") != ""))
    own = pairs.group_by("region", maintain_order=True).agg("item").sort("region")
    limited = np.isin(np.arange(len(items)), pairs["item"].to_numpy())
    return ~limited, {region: rows.to_numpy() for region, rows in zip(own["region"], own["item"], strict=True)}


def _places(region: pl.Series, regions: dict[str, np.ndarray]) -> np.ndarray:
    """[U] int64 place of each user's region among `regions`, -1 for none."""
    names, count = list(regions), len(regions)
    found = region.replace_strict(names, list(range(count)), default=count, return_dtype=pl.Int64)
    return found.set(region.is_null() | (region == ""), -1).to_numpy().copy()


def _numbers(frame: pl.DataFrame, column: str | None) -> np.ndarray:
    """[rows] float64, NaN where nothing stands."""
    if column is None or column not in frame.columns:
        return np.full(len(frame), np.nan)
    return frame[column].cast(pl.Float64).fill_null(np.nan).to_numpy()
