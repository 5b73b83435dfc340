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
    score: np.ndarray  # [items] float32
    count: int
    """Candidates of a query that are drawn for an epoch."""

    def draw(self, rows: np.ndarray, targets: np.ndarray, *, seed: int, epoch: int) -> tuple[np.ndarray, np.ndarray]:
        """[R, count] items and scores, by (seed, epoch, row) alone: the target first, and -1 where the teacher did not
        see it, then others; padded with -1.
        """
        items = np.full((len(rows), self.count), -1, dtype=np.int64)
        scores = np.zeros(items.shape, dtype=np.float32)
        for place, (row, target) in enumerate(zip(rows.tolist(), targets.tolist(), strict=True)):
            own = np.arange(self.offsets[row], self.offsets[row + 1])
            right = self.item[own] == target
            luck = uniform(seed + _PLACE, epoch, own)
            others = own[~right][np.argsort(luck[~right], kind="stable")][: self.count - 1]
            for column, found in ((0, own[right]), (1, others)):
                items[place, column : column + len(found)] = self.item[found]
                scores[place, column : column + len(found)] = self.score[found]
        return items, scores


def read_taught(path: Path, count: int, data: Prepared, config: DataConfig) -> Taught:
    """A Parquet file or a folder of parts with query_id, item_id and score, as `infer.py teach` writes them.

    Raises:
        InputError: there is no such file, it has other columns, or the data set has no queries.
    """
    parts = sorted(path.glob("part-*.parquet")) if path.is_dir() else [path] * path.is_file()
    if not parts:
        raise InputError(f"teacher.scores {str(path)!r} is no Parquet file and no folder of part-*.parquet.")
    if data.queries is None or data.tables.queries is None:
        raise InputError("teacher.scores is for queries, and the data set has none.")
    try:
        found = pl.scan_parquet(parts)
        columns = found.collect_schema().names()
        if not {"query_id", "item_id", "score"} <= set(columns):
            raise InputError(f"teacher.scores {path} has the columns {columns}; expected query_id, item_id and score.")
        rows = data.tables.queries[config.queries.id].alias("query_id").to_frame().with_row_index("row")
        items = data.tables.items[config.items.id].alias("item_id").to_frame().with_row_index("item")
        table = (
            found.select("query_id", "item_id", "score")
            .join(rows.lazy(), on="query_id")
            .join(items.lazy(), on="item_id")
            .select(pl.col("row", "item").cast(pl.Int64), pl.col("score").cast(pl.Float32))
            .unique(["row", "item"])
            .sort("row", "item")
            .collect()
        )
    except (pl.exceptions.PolarsError, OSError) as error:
        raise InputError(f"teacher.scores {path} cannot be read: {str(error).splitlines()[0]}.") from error
    if not table["score"].is_finite().all():
        raise InputError(f"teacher.scores {path} holds a score that is no finite number; write it again.")
    offsets = np.searchsorted(table["row"].to_numpy(), np.arange(len(data.queries) + 1)).astype(np.int64)
    return Taught(offsets=offsets, item=table["item"].to_numpy(), score=table["score"].to_numpy(), count=count)
