"""Interactions -> memory-mapped arrays, each user's rows in time order. Memory does not grow with the rows."""

import hashlib
import json
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np
import polars as pl

from recsys.data.codes import Codes, code_of
from recsys.data.split import STAGES, assign_stages, order_value
from recsys.errors import InputError
from recsys.shards import publish_folder
from recsys.tables import DataConfig, InteractionsConfig, Tables

BUCKET_ROWS = 4_000_000
"""Rows that are sorted in memory at one time."""

COLUMNS = {
    "item": np.int32, "order": np.float64, "position": np.int64, "event": np.int16, "target": np.bool_,
    "stage": np.int8, "context": np.int32,
}  # fmt: skip
"""Arrays of the layout, one entry for each row."""


@dataclass(frozen=True, kw_only=True)
class Histories:
    """All interactions, sorted by user and order. User u owns rows offsets[u]:offsets[u + 1]."""

    offsets: np.ndarray  # [U + 1] int64
    item: np.ndarray  # [I] int32
    order: np.ndarray  # [I] float64
    position: np.ndarray  # [I] int64, number of the entry in its history; keeps gaps where the order is a position
    event: np.ndarray  # [I] int16 codes
    target: np.ndarray  # [I] bool
    stage: np.ndarray  # [I] int8, never falls in a user's history, unless rows are judged
    context: np.ndarray  # [I, X] int32 codes

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def until(self, end: str | float | None) -> np.ndarray:
        """[U] int64: the row where each user's visible history ends, for `history.until`."""
        if end is None:
            return self.offsets[1:]
        hidden = self.stage >= STAGES[end] if end in STAGES else self.order >= order_value(end)
        return self.offsets[1:] - _count_per_user(hidden, self.offsets)

    def stage_end(self, stage: int) -> np.ndarray:
        """[U] int64: the row after each user's last one of a stage up to and including `stage`."""
        return self.offsets[1:] - _count_per_user(self.stage > stage, self.offsets)

    def row_at(self, user: int, order: float) -> int:
        """The row where the history of `user` before the order value `order` ends."""
        first, last = self.offsets[user], self.offsets[user + 1]
        return int(first + np.searchsorted(self.order[first:last], order, side="left"))

    def item_counts(self, items: int, wanted: Callable[[slice], np.ndarray]) -> np.ndarray:
        """[items] int64: the rows of each item among those that `wanted` picks, which is asked a span of rows at a time
        and answers [rows] bool.
        """
        counts = np.zeros(items, dtype=np.int64)
        for first in range(0, len(self.item), BUCKET_ROWS):
            span = slice(first, first + BUCKET_ROWS)
            counts += np.bincount(self.item[span][wanted(span)], minlength=items)
        return counts


def _count_per_user(flags: np.ndarray, offsets: np.ndarray) -> np.ndarray:
    return np.diff(np.searchsorted(np.flatnonzero(flags), offsets))


def open_histories(tables: Tables, config: DataConfig, codes: Codes, folder: Path) -> Histories:
    """Lay interactions out by user and order, once; afterwards they are only mapped.

    The arrays lie in a folder beside `folder`, named by it and by the codes.
    """
    coded = hashlib.blake2b(json.dumps([codes.context, codes.event]).encode(), digest_size=6).hexdigest()
    home = folder.with_name(f"{folder.name}-{coded}")
    if not (home / "offsets.npy").is_file():
        with publish_folder(home) as made:
            _lay_out(tables, config, codes, made)
    arrays = {name: np.load(home / f"{name}.npy", mmap_mode="r", allow_pickle=False) for name in ("offsets", *COLUMNS)}
    return Histories(**arrays)


def _lay_out(tables: Tables, config: DataConfig, codes: Codes, made: Path) -> None:
    """Write every array: one pass deals the rows to buckets of whole users, and each bucket is sorted in memory."""
    spans = list(_buckets(np.concatenate([[0], np.cumsum(_rows_of_users(tables, config))])))
    sizes = np.zeros(len(tables.users), dtype=np.int64)
    with ExitStack() as stack:
        files = {name: stack.enter_context((made / f"{name}.npy").open("wb")) for name in COLUMNS}
        _write_headers(files, 0, codes)
        dealt = _deal(_coded_rows(tables, config, codes, spans), made / "buckets", len(spans))
        for (first, last), bucket in zip(spans, dealt, strict=True):
            frame = assign_stages(bucket, config.split).collect(engine="streaming")
            sizes[first:last] = np.bincount(frame["user"].to_numpy() - first, minlength=last - first)
            own = np.concatenate([[0], np.cumsum(sizes[first:last])])
            if not config.interactions.judged:
                assert_no_leak(frame["stage"].to_numpy(), own)
            for name, array in _arrays(frame, own, codes, gaps=_has_gaps(tables, config.interactions)).items():
                files[name].write(np.ascontiguousarray(array, dtype=COLUMNS[name]).tobytes())
        _write_headers(files, int(sizes.sum()), codes)
    np.save(made / "offsets.npy", np.concatenate([[0], np.cumsum(sizes)]))


def _write_headers(files: Mapping[str, BinaryIO], rows: int, codes: Codes) -> None:
    """At the start of each file; numpy leaves room in a header for its array to grow, so that it can be put anew."""
    for name, file in files.items():
        shape = (rows, *([len(codes.context)] if name == "context" else []))
        file.seek(0)
        descr = np.lib.format.dtype_to_descr(np.dtype(COLUMNS[name]))
        np.lib.format.write_array_header_1_0(file, {"descr": descr, "fortran_order": False, "shape": shape})


def _rows_of_users(tables: Tables, config: DataConfig) -> np.ndarray:
    """[U] int64: the rows that name each user, those of unknown items included."""
    assert tables.interactions is not None
    counts = tables.interactions.group_by(pl.col(config.interactions.user).alias("user_id")).len()
    users = numbered(tables.users[config.users.id], "user").lazy()
    found = users.join(counts, on="user_id", how="left", maintain_order="left").select(pl.col("len").fill_null(0))
    return found.collect(engine="streaming")["len"].to_numpy().astype(np.int64)


def _deal(rows: pl.LazyFrame, folder: Path, count: int) -> Iterator[pl.LazyFrame]:
    """Write the rows to a folder for each bucket, in one pass; then the buckets in turn, each removed after its use."""
    nothing = pl.LazyFrame(schema=rows.drop("bucket").collect_schema())
    rows.sink_parquet(
        pl.PartitionBy(folder, key="bucket", include_key=False),
        compression="uncompressed",
        statistics=False,
        mkdir=True,
    )
    for number in range(count):
        place = folder / f"bucket={number}"
        yield pl.scan_parquet(place / "*.parquet") if place.is_dir() else nothing
        shutil.rmtree(place, ignore_errors=True)
    shutil.rmtree(folder, ignore_errors=True)


def _buckets(offsets: np.ndarray) -> Iterator[tuple[int, int]]:
    """Spans of users, each of at most BUCKET_ROWS rows or of one user."""
    first = 0
    while first < len(offsets) - 1:
        last = int(np.searchsorted(offsets, offsets[first] + BUCKET_ROWS, side="right")) - 1
        last = max(last, first + 1)
        yield first, last
        first = last


def _coded_rows(tables: Tables, config: DataConfig, codes: Codes, spans: list[tuple[int, int]]) -> pl.LazyFrame:
    """The interactions in this file's own words: bucket, row, user, item, order, target, event, split, context:NAME.

    `spans` are the users of each bucket; `split` is there where the table says so itself.
    """
    roles, split = config.interactions, config.split
    assert tables.interactions is not None
    rows = tables.interactions.select(
        pl.col(roles.user).alias("user_id"),
        pl.col(roles.item).alias("item_id"),
        order_column(tables.interactions, roles.order).alias("order"),
        _is_target(roles).alias("target"),
        (code_of(pl.col(roles.event), codes.event) if roles.event else pl.lit(0)).cast(pl.Int16).alias("event"),
        *([pl.col(split.column).alias("split")] if split.by == "column" else []),
        *[code_of(pl.col(name), values).alias(f"context:{name}") for name, values in codes.context.items()],
    )
    bucket = np.repeat(np.arange(len(spans), dtype=np.int32), [last - first for first, last in spans])
    users = numbered(tables.users[config.users.id], "user").with_columns(
        pl.col("user").cast(pl.Int32), pl.Series("bucket", bucket)
    )
    items = numbered(tables.items[config.items.id], "item").with_columns(pl.col("item").cast(pl.Int32))
    rows = rows.with_row_index("row").join(users.lazy(), on="user_id").join(items.lazy(), on="item_id")
    return rows.drop("user_id", "item_id")


def numbered(ids: pl.Series, name: str) -> pl.DataFrame:
    """The columns NAME_id and NAME: every id and its row."""
    return pl.DataFrame({f"{name}_id": ids, name: np.arange(len(ids))})


def _is_target(roles: InteractionsConfig) -> pl.Expr:
    if roles.target_events is None or roles.event is None:
        return pl.lit(True)
    return pl.col(roles.event).is_in(roles.target_events).fill_null(False)


def order_column(rows: pl.LazyFrame, name: str) -> pl.Expr:
    """The order column as float64: a date or datetime in seconds since 1970 (UTC)."""
    column = pl.col(name)
    if rows.collect_schema()[name].is_temporal():
        return column.dt.epoch("us").cast(pl.Float64) / 1e6
    return column.cast(pl.Float64)


def _has_gaps(tables: Tables, roles: InteractionsConfig) -> bool:
    """Whether the order column is itself a position, whose gaps say that entries are missing."""
    assert tables.interactions is not None
    return roles.order == "position" and tables.interactions.collect_schema()[roles.order].is_integer()


def _arrays(frame: pl.DataFrame, offsets: np.ndarray, codes: Codes, *, gaps: bool) -> dict[str, np.ndarray]:
    """Every array of whole users; `offsets` are theirs alone."""
    stage, order = frame["stage"].to_numpy(), frame["order"].to_numpy()
    first = np.repeat(offsets[:-1], np.diff(offsets))
    names = [f"context:{name}" for name in codes.context]
    return {
        "item": frame["item"].to_numpy(), "order": order, "stage": stage,
        "position": order - order[first] if gaps else np.arange(len(frame)) - first,
        "event": frame["event"].to_numpy(), "target": frame["target"].to_numpy(),
        "context": frame.select(names).to_numpy().reshape(len(frame), len(names)),
    }  # fmt: skip


def assert_no_leak(stage: np.ndarray, offsets: np.ndarray) -> None:
    """Raise InputError when a row of an earlier stage stands after one of a later stage in the same user's history."""
    falls = np.flatnonzero(np.diff(stage.astype(np.int16)) < 0) + 1
    leaks = falls[~np.isin(falls, offsets)]  # a user's first row follows nobody
    if len(leaks):
        raise InputError(
            f"The split leaks the future: {len(leaks)} rows of an earlier split stand after a later one; "
            "use split.by: time or last."
        )
