"""Checked tables -> arrays that training and inference read: codes, catalogue, histories, relevance.

Row n of a table is index n everywhere after this file; ids come back only when results are written.
"""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from recsys.data.checked import Checked, checked_path
from recsys.data.codes import (
    Codes,
    category_codes,
    check_columns,
    fit_codes,
    in_bands,
    scale,
    scaled_numbers,
    split_cells,
)
from recsys.data.filters import Filters
from recsys.data.histories import Histories, numbered, open_histories, order_column
from recsys.data.neighbours import USERS, ByCategory, ByNumber, Likeness, Neighbours, event_values
from recsys.data.notes import Notes, note_scales, read_notes
from recsys.data.ready import ReadyVectors, ready_vectors
from recsys.data.split import SECOND, TRAIN, VALID, stage_of
from recsys.data.text import join_columns
from recsys.shards import one_at_a_time
from recsys.tables import DataConfig, Tables
from recsys.tables.config import ItemsConfig
from recsys.tables.door import admit
from recsys.tables.images import picture_digests, pictures_digest
from recsys.tables.inspection import inspect

LAYOUT = 3
"""Version of the layout on disk; a change makes old caches unused."""

_FILTERS = [("items", "stock"), ("items", "region"), ("items", "age_limit"), ("users", "region"), ("users", "age")]

_USUAL = 10.0
"""Interactions that are as usual, which every item is taken to have had (`items.events`)."""


@dataclass(frozen=True, kw_only=True)
class Catalogue:
    """All items as arrays."""

    index: np.ndarray  # [N] int64, row in the model's own item list, -1 for an item it has not seen
    texts: list[str]
    category: np.ndarray  # [N, C, V] int64
    number: np.ndarray  # [N, M] float32, NaN is missing
    vectors: dict[str, ReadyVectors] = field(default_factory=dict)
    """By column, those that were made elsewhere."""
    stage: np.ndarray | None = None  # [N] int8 of an item-side split, None where all items are known

    def __len__(self) -> int:
        return len(self.index)


@dataclass(frozen=True, kw_only=True)
class Queries:
    """Queries and what is relevant for them."""

    texts: list[str]
    pictures: list[str] | None = None
    """Of what each query shows, a hash, "" for no picture; None: queries are words alone."""
    user: np.ndarray  # [Q] int64, -1 for nobody
    order: np.ndarray  # [Q] float64, NaN for unknown
    stage: np.ndarray  # [Q] int8
    offsets: np.ndarray  # [Q + 1] int64 into the two below
    item: np.ndarray  # [E] int64
    grade: np.ndarray  # [E] float32

    def __len__(self) -> int:
        return len(self.texts)

    def owner(self) -> np.ndarray:
        """[E] int64: the query of each relevant item."""
        return np.repeat(np.arange(len(self)), np.diff(self.offsets))

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
    notes: dict[str, Notes]
    """By name: reviews, ads."""
    hash: str
    """Hash of the content of every table and of the roles."""
    filters: Filters | None = None
    """Which items may be listed for whom; None: all for all."""
    neighbours: Neighbours | None = None
    """What items have in common (`items.neighbours`); None: nobody asks."""
    judged: bool = False
    """Whether every interaction is a right or a wrong answer, and splits lie as they like (`interactions.judged`)."""

    def words(self) -> list[str]:
        """Every text that there is, for who learns a vocabulary: of items, queries, reviews and ads."""
        queries = [] if self.queries is None else self.queries.texts
        return [*self.catalogue.texts, *queries, *(text for one in self.notes.values() for text in one.texts)]

    def popularity(self) -> np.ndarray:
        """[N] int64: train interactions of each item (targets alone; the second selection's rows count as train).

        Without interactions: the train queries that an item is relevant for.
        """
        if self.histories is not None:
            stage, target = self.histories.stage, self.histories.target
            return self.histories.item_counts(len(self.catalogue), lambda rows: (stage[rows] < VALID) & target[rows])
        if self.queries is None:
            return np.zeros(len(self.catalogue), dtype=np.int64)
        train = self.pairs(TRAIN) | self.pairs(SECOND)
        return np.bincount(self.queries.item[train], minlength=len(self.catalogue))

    def pairs(self, stage: int) -> np.ndarray:
        """[E] bool: which relevant (query, item) pairs are of a stage, that of the query or, by `split.items`, of the
        item.
        """
        assert self.queries is not None
        held, queries = self.catalogue.stage, self.queries
        own = queries.stage[queries.owner()] if held is None else held[queries.item]
        return (own == stage) & (queries.grade > 0)


def prepare(config: DataConfig, codes: Codes | None = None) -> Prepared:
    """Read, check and lay out a data set. With `codes` of a trained model, values are coded as that model knows them.

    What was found and made is kept below `config.cache`: a later start on the same files only opens it. Processes of a
    machine that start together take turns, so that one of them makes it.

    Raises:
        InputError: the tables have faults, or `config` names other columns than the model was trained with.
    """
    if Checked.read(checked_path(config)) is not None:
        return _prepare(config, codes)
    with one_at_a_time(Path(config.cache)):  # who waited finds the record of the one before
        return _prepare(config, codes)


def _prepare(config: DataConfig, codes: Codes | None) -> Prepared:
    place = checked_path(config)  # before the files are read: who changes them meanwhile changes it
    checked = Checked.read(place)
    seen = inspect(config) if checked is None else checked.inspection(config)
    tables = admit(seen)
    if codes is not None:
        check_columns(codes, config)
    digest = content_hash(tables, config) if checked is None else checked.hash
    known = codes or replace(fit_codes(tables, config), notes=note_scales(tables, config))
    layout = Path(config.cache) / f"layout-{digest[:20]}"
    histories = None if tables.interactions is None else open_histories(tables, config, known, layout)
    items = tables.items.with_columns(_counted(len(tables.items), config.items, histories, known.event))
    if codes is None:
        own = {name: scale(items[name]) for name in config.items.numbers(known.event)}
        known = replace(known, item_number=own)
    if checked is None:
        Checked.of(seen, digest).write(place)
    catalogue = _catalogue(items, config, known)
    return Prepared(
        tables=tables,
        codes=known,
        catalogue=catalogue,
        histories=histories,
        queries=_queries(tables, config, histories),
        profile=category_codes(in_bands(tables.users, known.user_bands), known.user_category, {}),
        profile_number=scaled_numbers(tables.users, known.user_number),
        notes=read_notes(tables, config, known),
        hash=digest,
        filters=Filters.read(tables, config),
        neighbours=_neighbours(catalogue, config, histories, known.event),
        judged=config.interactions.judged,
    )


def content_hash(tables: Tables, config: DataConfig) -> str:
    """Hash of table contents (rows in their order) and roles, the same on every machine with this version of polars."""
    digest = _digest(tables, config, ["items", "users", "queries", "relevance", "reviews", "ads"])
    if tables.interactions is not None:
        digest.update(f"interactions {tables.interactions.collect_schema()}".encode())
        row = pl.struct(pl.col("row number").cast(pl.Int64), pl.exclude("row number"))
        rows = tables.interactions.with_row_index("row number")
        sums = rows.select(row.hash(seed=1).sum())  # modulo 2^64; never held whole
        digest.update(str(sums.collect(engine="streaming").item()).encode())
    return digest.hexdigest()


def catalogue_hash(tables: Tables, config: DataConfig) -> str:
    """The same of what all requests share: items, what is said of them, and roles."""
    return _digest(tables, config, ["items", "reviews", "ads"]).hexdigest()


def _digest(tables: Tables, config: DataConfig, names: list[str]) -> Any:
    digest = hashlib.blake2b(digest_size=16)
    roles = asdict(config)
    for ignored in ("root", "tables", "cache", "history", "policy"):
        roles.pop(ignored)
    for name in ("popularity", "events", "neighbours", "vectors"):
        if not roles["items"][name]:
            roles["items"].pop(name)
    for table, name in _FILTERS:  # a data set without filters has the hash that it always had
        if roles[table][name] is None:
            roles[table].pop(name)
    if roles["queries"]["image"] is None:
        roles["queries"].pop("image")
    digest.update(json.dumps([LAYOUT, roles], sort_keys=True).encode())
    for name in names:
        frame: pl.DataFrame | None = getattr(tables, name)
        if frame is not None:
            digest.update(f"{name} {frame.schema}".encode())
            digest.update(frame.hash_rows(seed=1).to_numpy().tobytes())
    if config.items.image is not None:
        digest.update(pictures_digest(config.root, tables.items[config.items.image]))
    if config.queries.image is not None and tables.queries is not None and "queries" in names:
        digest.update(pictures_digest(config.root, tables.queries[config.queries.image]))
    return digest


def _counted(items: int, roles: ItemsConfig, histories: Histories | None, events: Sequence[str]) -> list[pl.Series]:
    """Numbers of each item that the train interactions tell; null without interactions.

    The share of a kind of event is that of a multinomial whose prior is the shares among all items.
    """
    names = roles.numbers(events)[len(roles.number) :]
    if histories is None:
        return [pl.Series(name, [None] * items, dtype=pl.Float64) for name in names]
    stage, target, event = histories.stage, histories.target, histories.event
    found = list[np.ndarray]()
    if roles.popularity:
        found.append(np.log1p(histories.item_counts(items, lambda rows: (stage[rows] == TRAIN) & target[rows])))
    if roles.events:
        kinds = [
            histories.item_counts(items, lambda rows, code=code: (stage[rows] == TRAIN) & (event[rows] == code))
            for code in range(1, len(events) + 1)
        ]
        counts = np.stack(kinds, axis=1) if kinds else np.zeros((items, 0))
        usual = (counts.sum(0) + 1) / (counts.sum() + max(len(kinds), 1))
        shares = (counts + _USUAL * usual) / (counts.sum(1, keepdims=True) + _USUAL)
        found += list(np.log(shares / usual).T)
    return [pl.Series(name, values) for name, values in zip(names, found, strict=True)]


def _neighbours(
    catalogue: Catalogue, config: DataConfig, histories: Histories | None, events: Sequence[str]
) -> Neighbours | None:
    roles = config.items
    if not roles.neighbours or histories is None:
        return None

    def way(name: str) -> Likeness | None:
        if name == USERS:
            return None
        if name in roles.category:
            return ByCategory(codes=catalogue.category[:, roles.category.index(name)])
        return ByNumber(values=catalogue.number[:, roles.number.index(name)])

    values = event_values(events, config.interactions.target_events)
    return Neighbours.of(histories, values, len(catalogue), {name: way(name) for name in roles.neighbours})


def _catalogue(items: pl.DataFrame, config: DataConfig, codes: Codes) -> Catalogue:
    roles, held = config.items, config.split.items
    ids = items[roles.id].alias("item_id")
    known = numbered(pl.Series(codes.item_ids), "item")
    if known["item_id"].dtype.is_numeric() != ids.dtype.is_numeric():
        known = known.clear()  # the model knows integers and this table holds strings: every item is new to it
    known = known.with_columns(pl.col("item_id").cast(ids.dtype, strict=False))
    index = ids.to_frame().join(known, on="item_id", how="left", maintain_order="left")["item"]
    return Catalogue(
        index=index.fill_null(-1).to_numpy().astype(np.int64),
        texts=join_columns(items, roles.text),
        category=category_codes(items, codes.item_category, roles.separators),
        number=scaled_numbers(items, codes.item_number),
        vectors=ready_vectors(items, codes.item_vectors),
        stage=None if held is None else items.select(stage_of(held)).to_series().to_numpy(),
    )


def _queries(tables: Tables, config: DataConfig, histories: Histories | None) -> Queries | None:
    if tables.queries is None:
        return None
    frame, roles = tables.queries, config.queries
    item, grade, offsets = _relevance(tables, config)
    user = np.full(len(frame), -1, dtype=np.int64)
    if roles.user and len(tables.users):
        user = _rows_of(frame[roles.user], tables.users[config.users.id], "user")
    order = np.full(len(frame), np.nan)
    if roles.order:
        order = frame.select(order_column(frame.lazy(), roles.order)).to_series().fill_null(np.nan).to_numpy()
    return Queries(
        texts=join_columns(frame, [roles.text] if roles.text in frame.columns else []),
        pictures=None if roles.image is None else picture_digests(config.root, frame[roles.image]),
        user=user, order=order, offsets=offsets, item=item, grade=grade,
        stage=_query_stage(frame, config, user, order, histories),
    )  # fmt: skip


def _rows_of(ids: pl.Series, keys: pl.Series, name: str) -> np.ndarray:
    """[len(ids)] int64 row of each id among the keys, -1 for a missing or unknown one."""
    cells = ids.alias(f"{name}_id").to_frame()
    found = cells.join(numbered(keys, name), on=f"{name}_id", how="left", maintain_order="left")
    return found[name].fill_null(-1).to_numpy()


def _query_stage(
    frame: pl.DataFrame, config: DataConfig, user: np.ndarray, order: np.ndarray, histories: Histories | None
) -> np.ndarray:
    """The table's own split column or a hash cut; of the train queries, another hash cut is the second selection's."""
    stage = _dealt_stage(frame, config, user, order, histories)
    keys = frame[config.queries.id].to_list()
    second = np.array([hash_share(f"second {key}") < config.split.second_queries for key in keys], dtype=np.bool_)
    return np.where(second & (stage == TRAIN), SECOND, stage).astype(np.int8)


def _dealt_stage(
    frame: pl.DataFrame, config: DataConfig, user: np.ndarray, order: np.ndarray, histories: Histories | None
) -> np.ndarray:
    """The table's own split column; or a hash cut of the query id, and what leads to a held-out row is held out."""
    if config.split.column in frame.columns:
        return frame.select(stage_of(config.split.column)).to_series().to_numpy()
    cut = [hash_share(str(key)) < config.split.valid_queries for key in frame[config.queries.id].to_list()]
    stage = np.where(cut, VALID, TRAIN).astype(np.int8)
    if histories is not None:
        for query in np.flatnonzero((user >= 0) & ~np.isnan(order)):
            led_to = _next_stage(histories, int(user[query]), float(order[query]))
            stage[query] = max(stage[query], led_to) if led_to >= VALID else stage[query]
    return stage


def _next_stage(histories: Histories, user: int, order: float) -> int:
    """Stage of the user's first row from this order value on; past the end, of the last row."""
    last = int(histories.offsets[user + 1])
    if last == histories.offsets[user]:
        return TRAIN
    return int(histories.stage[min(histories.row_at(user, order), last - 1)])


def hash_share(key: str) -> float:
    """A number in [0, 1) that depends on the key alone."""
    return int.from_bytes(hashlib.blake2b(key.encode(), digest_size=6).digest(), "big") / 2**48


def _relevance(tables: Tables, config: DataConfig) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Items and grades, sorted by query and item, and the offsets of each query; the first row of a pair counts."""
    assert tables.queries is not None
    count = len(tables.queries)
    if tables.relevance is None and config.relevance.match is not None:
        pairs = _matched_pairs(tables, config)
    elif tables.relevance is None:
        return np.zeros(0, np.int64), np.zeros(0, np.float32), np.zeros(count + 1, np.int64)
    else:
        roles = config.relevance
        grade = pl.col(roles.grade).cast(pl.Float32) if roles.grade else pl.lit(1.0, dtype=pl.Float32)
        pairs = tables.relevance.select(
            pl.col(roles.query).alias("query_id"), pl.col(roles.item).alias("item_id"), grade.alias("grade")
        )
    rows = (
        pairs.unique(["query_id", "item_id"], keep="first", maintain_order=True)
        .join(numbered(tables.queries[config.queries.id], "query"), on="query_id")
        .join(numbered(tables.items[config.items.id], "item"), on="item_id")
        .sort("query", "item")
    )
    offsets = np.searchsorted(rows["query"].to_numpy(), np.arange(count + 1))
    return rows["item"].to_numpy(), rows["grade"].to_numpy(), offsets


def _matched_pairs(tables: Tables, config: DataConfig) -> pl.DataFrame:
    """query_id, item_id and grade 1 of all queries and items with one value in the column `relevance.match`; a cell may
    hold several.
    """
    assert tables.queries is not None
    match, cuts = config.relevance.match or "", config.items.separators

    def values(frame: pl.DataFrame, key: str, name: str) -> pl.DataFrame:
        return pl.DataFrame({name: frame[key], "match": split_cells(frame, match, cuts)}).explode("match").drop_nulls()

    queries = values(tables.queries, config.queries.id, "query_id")
    found = queries.join(values(tables.items, config.items.id, "item_id"), on="match")
    return found.select("query_id", "item_id", pl.lit(1.0, dtype=pl.Float32).alias("grade"))
