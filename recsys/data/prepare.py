"""Checked tables -> arrays that training and inference read: codes, catalogue, histories, relevance.

Row n of a table is index n everywhere after this file; ids come back only when results are written.
"""

import hashlib
import json
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np
import polars as pl

from recsys.data.split import STAGES, TRAIN, VALID, assign_stages, order_value
from recsys.data.text import join_columns
from recsys.errors import InputError
from recsys.shards import publish_folder
from recsys.tables import DataConfig, ItemsConfig, Tables, check

LAYOUT = 1
"""Version of the layout on disk; a change makes old caches unused."""


@dataclass(frozen=True, kw_only=True)
class Codes:
    """What turns values into numbers. Learnt from the training tables; travels with the model.

    Code 0 is missing or unknown; value n of a list has code n + 1. Numbers are scaled to (x - median) / iqr.
    """

    item_ids: list[int] | list[str] = field(default_factory=list)
    item_category: dict[str, list[str]] = field(default_factory=dict)
    item_number: dict[str, list[float]] = field(default_factory=dict)
    user_category: dict[str, list[str]] = field(default_factory=dict)
    user_number: dict[str, list[float]] = field(default_factory=dict)
    context: dict[str, list[str]] = field(default_factory=dict)
    event: list[str] = field(default_factory=list)

    def save(self, path: Path) -> None:
        """Write as JSON."""
        path.write_text(json.dumps(asdict(self), ensure_ascii=False))

    @classmethod
    def load(cls, path: Path) -> "Codes":
        """Read what `save` wrote."""
        try:
            return cls(**json.loads(path.read_text()))
        except (OSError, ValueError, TypeError) as error:
            raise InputError(f"{path} is not a readable codes file ({error}); export the model again.") from error


@dataclass(frozen=True, kw_only=True)
class Catalogue:
    """All items as arrays."""

    index: np.ndarray  # [N] int64, row in the model's own item list, -1 for an item it has not seen
    texts: list[str]
    category: np.ndarray  # [N, C, V] int64
    number: np.ndarray  # [N, M] float32, NaN is missing

    def __len__(self) -> int:
        return len(self.index)


@dataclass(frozen=True, kw_only=True)
class Histories:
    """All interactions, sorted by user and order, as memory-mapped arrays. User u owns rows offsets[u]:offsets[u + 1]."""

    offsets: np.ndarray  # [U + 1] int64
    item: np.ndarray  # [I] int32
    order: np.ndarray  # [I] float64
    position: np.ndarray  # [I] int64, number of the entry in its history; keeps gaps where the order is a position
    event: np.ndarray  # [I] int16 codes
    target: np.ndarray  # [I] bool
    stage: np.ndarray  # [I] int8
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


@dataclass(frozen=True, kw_only=True)
class Queries:
    """Queries and what is relevant for them."""

    texts: list[str]
    user: np.ndarray  # [Q] int64, -1 for nobody
    order: np.ndarray  # [Q] float64, NaN for unknown
    stage: np.ndarray  # [Q] int8
    offsets: np.ndarray  # [Q + 1] int64 into the two below
    item: np.ndarray  # [E] int64
    grade: np.ndarray  # [E] float32

    def __len__(self) -> int:
        return len(self.texts)

    def relevant(self, query: int) -> tuple[np.ndarray, np.ndarray]:
        """Items and grades of one query."""
        rows = slice(self.offsets[query], self.offsets[query + 1])
        return self.item[rows], self.grade[rows]


@dataclass(frozen=True, kw_only=True)
class Prepared:
    """A data set, ready for batches."""

    tables: Tables
    codes: Codes
    catalogue: Catalogue
    histories: Histories | None
    queries: Queries | None
    profile: np.ndarray  # [U, P, V] int64
    profile_number: np.ndarray  # [U, M] float32
    hash: str
    """Hash of the content of every table and of the roles."""

    def popularity(self) -> np.ndarray:
        """[N] int64: train interactions of each item (targets alone; the second selection's rows count as train)."""
        if self.histories is None:
            return self._query_popularity()
        rows = (self.histories.stage < VALID) & self.histories.target
        return np.bincount(self.histories.item[rows], minlength=len(self.catalogue))

    def _query_popularity(self) -> np.ndarray:
        counts = np.zeros(len(self.catalogue), dtype=np.int64)
        if self.queries is not None:
            query = np.repeat(np.arange(len(self.queries)), np.diff(self.queries.offsets))
            train = (self.queries.stage[query] == TRAIN) & (self.queries.grade > 0)
            counts += np.bincount(self.queries.item[train], minlength=len(counts))
        return counts


def prepare(config: DataConfig, codes: Codes | None = None) -> Prepared:
    """Read, check and lay out a data set. With `codes` of a trained model, values are coded as that model knows them."""
    tables = check(config)
    digest = content_hash(tables, config)
    folder = Path(config.cache) / f"layout-{digest[:20]}"
    known = codes or fit_codes(tables, config)
    histories = None if tables.interactions is None else _histories(tables, config, known, folder)
    return Prepared(
        tables=tables,
        codes=known,
        catalogue=_catalogue(tables.items, config.items, known),
        histories=histories,
        queries=_queries(tables, config),
        profile=_category_codes(tables.users, config.users.category, known.user_category, {}),
        profile_number=_numbers(tables.users, config.users.number, known.user_number),
        hash=digest,
    )


def content_hash(tables: Tables, config: DataConfig) -> str:
    """Hash of table contents and roles, the same on every machine."""
    digest = hashlib.blake2b(digest_size=16)
    roles = asdict(config)
    for ignored in ("root", "tables", "cache", "history"):
        roles.pop(ignored)
    digest.update(json.dumps([LAYOUT, roles], sort_keys=True, default=str).encode())
    frames = [tables.items, tables.users, tables.queries, tables.relevance]
    for frame in (one for one in frames if one is not None):
        digest.update(str(frame.schema).encode())
        digest.update(frame.hash_rows(seed=1).to_numpy().tobytes())
    if tables.interactions is not None:
        sums = tables.interactions.select(pl.struct(pl.all()).hash(seed=1).implode().hash(seed=2)).collect(engine="streaming")
        digest.update(str(sums.item()).encode())
    return digest.hexdigest()


def fit_codes(tables: Tables, config: DataConfig) -> Codes:
    """Learn the codes from the training tables."""
    context: dict[str, list[str]] = {column: [] for column in config.interactions.context}
    event: list[str] = []
    if tables.interactions is not None:
        wanted = [*context, *([config.interactions.event] if config.interactions.event else [])]
        found = {name: _values(tables.interactions.select(name).unique().collect(engine="streaming")[name]) for name in wanted}
        context = {name: found[name] for name in context}
        event = found[config.interactions.event] if config.interactions.event else []
    items, users = config.items, config.users
    return Codes(
        item_ids=tables.items[items.id].to_list(),
        item_category={name: _values(_split_cells(tables.items, name, items.separators)) for name in items.category},
        item_number={name: _scale(tables.items[name]) for name in items.number},
        user_category={name: _values(_split_cells(tables.users, name, {})) for name in users.category},
        user_number={name: _scale(tables.users[name]) for name in users.number},
        context=context,
        event=event,
    )


def _split_cells(frame: pl.DataFrame, name: str, separators: dict[str, str]) -> pl.Series:
    """A column as a list column of strings: split at its separator, or wrapped as lists of one."""
    column = frame[name]
    if column.dtype == pl.List:
        return column.cast(pl.List(pl.String))
    column = column.cast(pl.String)
    return column.str.split(separators[name]) if name in separators else column.reshape((-1, 1)).arr.to_list()


def _values(column: pl.Series) -> list[str]:
    flat = column.explode() if column.dtype == pl.List else column
    return flat.cast(pl.String).drop_nulls().unique().sort().to_list()


def _scale(column: pl.Series) -> list[float]:
    """Median and interquartile range (1 where the range is zero or nothing is known)."""
    low, mid, high = (column.cast(pl.Float64).quantile(q, "linear") for q in (0.25, 0.5, 0.75))
    if low is None or mid is None or high is None:
        return [0.0, 1.0]
    return [mid, (high - low) or 1.0]


def _catalogue(items: pl.DataFrame, config: ItemsConfig, codes: Codes) -> Catalogue:
    known = pl.DataFrame({config.id: codes.item_ids, "row": np.arange(len(codes.item_ids))})
    if len(codes.item_ids) and known[config.id].dtype.is_numeric() != items[config.id].dtype.is_numeric():
        known = known.clear()  # the model knows integers and this table holds strings: every item is new to it
    known = known.with_columns(pl.col(config.id).cast(items[config.id].dtype))
    index = items.select(config.id).join(known, on=config.id, how="left", maintain_order="left")["row"]
    return Catalogue(
        index=index.fill_null(-1).to_numpy().astype(np.int64),
        texts=join_columns(items, config.text),
        category=_category_codes(items, config.category, codes.item_category, config.separators),
        number=_numbers(items, config.number, codes.item_number),
    )


def _category_codes(frame: pl.DataFrame, names: list[str], values: dict[str, list[str]], separators: dict[str, str]) -> np.ndarray:
    """[rows, columns, widest cell] int64 codes, zero padded."""
    columns = []
    for name in names:
        table = pl.DataFrame({"value": pl.Series(values[name], dtype=pl.String), "code": np.arange(1, len(values[name]) + 1)})
        cells = pl.DataFrame({"row": np.arange(len(frame)), "value": _split_cells(frame, name, separators)}).explode("value")
        coded = cells.join(table, on="value", how="inner").sort("row")
        columns.append((coded["row"].to_numpy(), coded["code"].to_numpy()))
    width = max((int(np.bincount(rows).max(initial=0)) for rows, _ in columns if len(rows)), default=1)
    out = np.zeros((len(frame), len(names), width), dtype=np.int64)
    for number, (rows, found) in enumerate(columns):
        starts = np.searchsorted(rows, rows)
        out[rows, number, np.arange(len(rows)) - starts] = found
    return out


def _numbers(frame: pl.DataFrame, names: list[str], scale: dict[str, list[float]]) -> np.ndarray:
    out = np.full((len(frame), len(names)), np.nan, dtype=np.float32)
    for number, name in enumerate(names):
        middle, spread = scale[name]
        out[:, number] = (frame[name].cast(pl.Float64).fill_null(np.nan).to_numpy() - middle) / spread
    return out


def _histories(tables: Tables, config: DataConfig, codes: Codes, folder: Path) -> Histories:
    """Lay interactions out by user and order, once; afterwards they are only mapped."""
    coded = hashlib.blake2b(json.dumps([codes.context, codes.event]).encode(), digest_size=6).hexdigest()
    folder = folder.with_name(f"{folder.name}-{coded}")
    if not (folder / "offsets.npy").is_file():
        with publish_folder(folder) as made:
            for name, array in _lay_out(tables, config, codes).items():
                np.save(made / f"{name}.npy", array)
    names = ("offsets", "item", "order", "position", "event", "target", "stage", "context")
    return Histories(**{name: np.load(folder / f"{name}.npy", mmap_mode="r") for name in names})


def _lay_out(tables: Tables, config: DataConfig, codes: Codes) -> dict[str, np.ndarray]:
    roles = config.interactions
    assert tables.interactions is not None
    users = _index_frame(tables.users, config.users.id, roles.user, "user")
    items = _index_frame(tables.items, config.items.id, roles.item, "item")
    target = pl.lit(True) if roles.target_events is None or roles.event is None else pl.col(roles.event).is_in(roles.target_events)
    split = [pl.col(config.split.column).alias("split")] if config.split.by == "column" else []
    event = _code(pl.col(roles.event), codes.event) if roles.event else pl.lit(0)
    rows = (
        tables.interactions.join(users.lazy(), on=roles.user).join(items.lazy(), on=roles.item)
        .select(
            "user", "item", _order(tables.interactions, roles.order).alias("order"), target.alias("target"),
            event.cast(pl.Int16).alias("event"), *split,
            *[_code(pl.col(name), values).cast(pl.Int32).alias(f"context:{name}") for name, values in codes.context.items()],
        )
        .sort("user", "order", maintain_order=True)
    )
    frame = assign_stages(rows, config.split).collect(engine="streaming")
    offsets = np.zeros(len(tables.users) + 1, dtype=np.int64)
    np.cumsum(np.bincount(frame["user"].to_numpy(), minlength=len(tables.users)), out=offsets[1:])
    order = frame["order"].to_numpy()
    assert_no_leak(frame["stage"].to_numpy(), offsets)
    return {
        "offsets": offsets, "item": frame["item"].to_numpy().astype(np.int32), "order": order,
        "position": _positions(order, offsets, roles.order),
        "event": frame["event"].to_numpy(), "target": frame["target"].to_numpy(), "stage": frame["stage"].to_numpy(),
        "context": frame.select(f"context:{name}" for name in codes.context).to_numpy().reshape(len(frame), -1),
    }  # fmt: skip


def _index_frame(frame: pl.DataFrame, key: str, name: str, index: str) -> pl.DataFrame:
    return frame.select(pl.col(key).alias(name)).with_columns(pl.Series(index, np.arange(len(frame))))


def _code(column: pl.Expr, values: list[str]) -> pl.Expr:
    return column.cast(pl.String).replace_strict(values, list(range(1, len(values) + 1)), default=0, return_dtype=pl.Int32)


def _order(rows: pl.LazyFrame, name: str) -> pl.Expr:
    """The order column as float64: a date or datetime in seconds since 1970."""
    kind = rows.collect_schema()[name]
    column = pl.col(name)
    if kind == pl.String:
        column = column.str.to_datetime(time_zone="UTC")
    if kind.is_temporal() or kind == pl.String:
        return column.cast(pl.Datetime("us")).dt.epoch("us").cast(pl.Float64) / 1e6
    return column.cast(pl.Float64)


def _positions(order: np.ndarray, offsets: np.ndarray, name: str) -> np.ndarray:
    """Number of each entry in its user's history; where the order column is itself a position, its gaps are kept."""
    row = np.arange(len(order)) - np.repeat(offsets[:-1], np.diff(offsets))
    if name != "position":
        return row
    first = np.zeros(len(offsets) - 1)
    has = np.diff(offsets) > 0
    first[has] = order[offsets[:-1][has]]
    return (order - np.repeat(first, np.diff(offsets))).astype(np.int64)


def assert_no_leak(stage: np.ndarray, offsets: np.ndarray) -> None:
    """Raise when a row of an earlier stage stands after one of a later stage in the same user's history."""
    falls = np.diff(stage.astype(np.int16)) < 0
    inside = np.ones(len(falls), dtype=bool)
    borders = offsets[1:-1][(offsets[1:-1] > 0) & (offsets[1:-1] < len(stage))] - 1
    inside[borders] = False
    leaks = np.flatnonzero(falls & inside)
    if len(leaks):
        raise InputError(f"The split leaks the future: {len(leaks)} rows of an earlier split stand after a later one; use split.by: time or last.")


def _count_per_user(flags: np.ndarray, offsets: np.ndarray) -> np.ndarray:
    total = np.concatenate([[0], np.cumsum(flags)])
    return total[offsets[1:]] - total[offsets[:-1]]


def _queries(tables: Tables, config: DataConfig) -> Queries | None:
    if tables.queries is None:
        return None
    frame, roles = tables.queries, config.queries
    item, grade, offsets = _relevance(tables, config)
    user = np.full(len(frame), -1, dtype=np.int64)
    if roles.user:
        users = _index_frame(tables.users, config.users.id, roles.user, "row")
        user = frame.select(roles.user).join(users, on=roles.user, how="left", maintain_order="left")["row"].fill_null(-1).to_numpy()
    order = np.full(len(frame), np.nan)
    if roles.order:
        order = frame.lazy().select(_order(frame.lazy(), roles.order)).collect().to_series().fill_null(np.nan).to_numpy()
    return Queries(
        texts=frame[roles.text].fill_null("").to_list(), user=user, order=order, stage=_query_stage(frame, config),
        offsets=offsets, item=item, grade=grade,
    )  # fmt: skip


def _query_stage(frame: pl.DataFrame, config: DataConfig) -> np.ndarray:
    """The table's own split column, or a hash cut of the query id that no other row can move."""
    if config.split.column in frame.columns:
        words = {word: STAGES[word] for word in ("train", "valid", "test")}
        return frame[config.split.column].replace_strict(words, return_dtype=pl.Int8).to_numpy()
    cut = [hash_share(str(key)) < config.split.valid_queries for key in frame[config.queries.id].to_list()]
    return np.where(cut, VALID, TRAIN).astype(np.int8)


def hash_share(key: str) -> float:
    """A number in [0, 1) that depends on the key alone."""
    return int.from_bytes(hashlib.blake2b(key.encode(), digest_size=6).digest(), "big") / 2**48


def _relevance(tables: Tables, config: DataConfig) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    assert tables.queries is not None
    count = len(tables.queries)
    if tables.relevance is None:
        return np.zeros(0, np.int64), np.zeros(0, np.float32), np.zeros(count + 1, np.int64)
    roles = config.relevance
    queries = _index_frame(tables.queries, config.queries.id, roles.query, "q")
    items = _index_frame(tables.items, config.items.id, roles.item, "i")
    grade = pl.col(roles.grade).cast(pl.Float32) if roles.grade else pl.lit(1.0, dtype=pl.Float32)
    rows = tables.relevance.join(queries, on=roles.query).join(items, on=roles.item)
    rows = rows.select("q", "i", grade.alias("grade")).sort("q", "i")
    offsets = np.zeros(count + 1, dtype=np.int64)
    np.cumsum(np.bincount(rows["q"].to_numpy(), minlength=count), out=offsets[1:])
    return rows["i"].to_numpy(), rows["grade"].to_numpy(), offsets


def seen_order(histories: Histories, user: int, before: float) -> int:
    """Row where the history of `user` before the order value `before` ends."""
    first, last = histories.offsets[user], histories.offsets[user + 1]
    return int(first + np.searchsorted(histories.order[first:last], before, side="left"))

