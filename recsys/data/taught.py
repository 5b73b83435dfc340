"""What a teacher (a pruner) thinks of the candidates of train queries, from a table."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import polars as pl

from recsys.data.prepare import Prepared
from recsys.data.sampling import uniform
from recsys.errors import InputError
from recsys.tables import DataConfig

_PLACE = 1_000_211  # of the draws


@dataclass(frozen=True, kw_only=True)
class Taught:
    """A list of items and the teacher's logits of them for each row of the queries table; empty where there is none."""

    offsets: np.ndarray  # [rows + 1] int64
    item: np.ndarray  # [items] int64
    logit: np.ndarray  # [items] float32
    count: int
    """Candidates of a query that are drawn for an epoch."""

    def draw(self, rows: np.ndarray, targets: np.ndarray, *, seed: int, epoch: int) -> tuple[np.ndarray, np.ndarray]:
        """[R, count] items and logits, by (seed, epoch, row) alone: the target first, and -1 where the teacher did not
        see it, then others; padded with -1.
        """
        items = np.full((len(rows), self.count), -1, dtype=np.int64)
        logits = np.zeros(items.shape, dtype=np.float32)
        for place, (row, target) in enumerate(zip(rows.tolist(), targets.tolist(), strict=True)):
            own = np.arange(int(self.offsets[row]), int(self.offsets[row + 1]))
            right = self.item[own] == target
            luck = uniform(seed + _PLACE, epoch, own)
            others = own[~right][np.argsort(luck[~right], kind="stable")][: self.count - 1]
            for column, found in ((0, own[right]), (1, others)):
                items[place, column : column + len(found)] = self.item[found]
                logits[place, column : column + len(found)] = self.logit[found]
        return items, logits


def read_taught(path: Path, count: int, data: Prepared, config: DataConfig) -> Taught:
    """A Parquet file or a folder of parts with query_id, item_id and logit, as `infer.py teach` writes them.

    Raises:
        InputError: there is no such file, nothing can be learnt from it, or the data set has no queries.
    """
    parts = sorted(path.glob("part-*.parquet")) if path.is_dir() else [path] * path.is_file()
    if not parts:
        raise InputError(f"teacher.logits {str(path)!r} is no Parquet file and no folder of part-*.parquet.")
    if data.queries is None or data.tables.queries is None:
        raise InputError("teacher.logits is for queries, and the data set has none.")
    try:
        found = pl.scan_parquet(parts)
        columns = found.collect_schema().names()
        if not {"query_id", "item_id", "logit"} <= set(columns):
            raise InputError(f"teacher.logits {path} has the columns {columns}; expected query_id, item_id and logit.")
        rows = data.tables.queries[config.queries.id].alias("query_id").to_frame().with_row_index("row")
        items = data.tables.items[config.items.id].alias("item_id").to_frame().with_row_index("item")
        table = (
            found.select("query_id", "item_id", "logit")
            .join(rows.lazy(), on="query_id")
            .join(items.lazy(), on="item_id")
            .select(pl.col("row", "item").cast(pl.Int64), pl.col("logit").cast(pl.Float32))
            .sort("row", "item")
            .collect()
        )
    except (pl.exceptions.PolarsError, OSError) as error:
        raise InputError(f"teacher.logits {path} cannot be read: {str(error).splitlines()[0]}.") from error
    if not table["logit"].is_finite().fill_null(value=False).all():
        raise InputError(f"teacher.logits {path} holds a logit that is no finite number; write it again.")
    if not len(table) or table.select("row", "item").is_duplicated().any():
        found = "no query and item of this data set" if not len(table) else "a query and an item twice"
        raise InputError(f"teacher.logits {path} holds {found}; write it again with: infer.py teach CONFIG")
    offsets = np.searchsorted(table["row"].to_numpy(), np.arange(len(data.queries) + 1)).astype(np.int64)
    return Taught(offsets=offsets, item=table["item"].to_numpy(), logit=table["logit"].to_numpy(), count=count)
