"""Faults that rows show only together: unknown ids, repeated rows, a split that leaks, events that never occur."""

from collections.abc import Iterable, Iterator
from dataclasses import replace

import numpy as np
import polars as pl

from recsys.errors import nearest
from recsys.tables.config import DataConfig
from recsys.tables.faults import FIRST, ROW, Fault, Inspection, accept, located, numbered, severity
from recsys.tables.roles import roles

_HASHES = 50_000_000  # hashes of rows, 8 bytes each, that are held at once when looking for duplicates
_KEYS = 4_000_000  # keys that are counted at once


def mark_unknown(frame: pl.LazyFrame, column: str, ids: pl.LazyFrame, mark: str) -> pl.LazyFrame:
    """`frame`, in its order, with a boolean column `mark`: the cell is filled and is not in the one column of `ids`."""
    key = ids.collect_schema().names()[0]
    known = ids.unique().with_columns(pl.lit(True).alias("__known"))
    joined = frame.join(known, left_on=column, right_on=key, how="left", maintain_order="left")
    return joined.with_columns((pl.col("__known").is_null() & pl.col(column).is_not_null()).alias(mark)).drop("__known")


def key_column(config: DataConfig, table: str) -> str:
    """The key column of items, users or queries."""
    return {"items": config.items.id, "users": config.users.id, "queries": config.queries.id}[table]


def link_faults(seen: Inspection, table: str) -> Iterable[Fault]:
    """Rows that name an item, user or query that its own table does not have."""
    for role in roles(seen.config, table):
        key = key_column(seen.config, role.table) if role.kind == "link" else ""
        if not key or not seen.has(table, role.column) or not seen.has(role.table, key):
            continue  # users may have no table: then there are no unknown ones
        ids = seen.frames[role.table].select(key)
        own, other = seen.frames[table].collect_schema()[role.column], ids.collect_schema()[key]
        if own != other:
            message = f"ids are {own} here and {other} in {role.table}.{key}"
            yield Fault(
                table=table, column=role.column, kind="wrong type", message=message, remedy="Give both one type."
            )
            continue
        bad = mark_unknown(numbered(seen, table), role.column, ids, "__bad").filter("__bad")
        count = bad.select(pl.len()).collect(engine="streaming").item()
        if count:
            policy, message = seen.config.policy.orphan, f"an id that {role.table}.{key} does not have"
            fault = Fault(table=table, column=role.column, kind="unknown id", message=message)
            fault = replace(fault, remedy=accept("orphan", policy), severity=severity(policy))
            yield located(seen, fault, bad, count)


def event_faults(seen: Inspection, table: str) -> Iterable[Fault]:
    """Target events that never occur: a warning, and an error where none of them does."""
    column, wanted = seen.config.interactions.event, seen.config.interactions.target_events
    if wanted is None:
        return
    if column is None:
        message = "target_events is set and no column is named that holds events"
        yield Fault(table=table, kind="no event column", message=message, remedy="Set data.interactions.event.")
    elif seen.has(table, column):
        words = seen.frames[table].select(pl.col(column).unique()).collect(engine="streaming")[column]
        there = sorted(words.cast(pl.String).drop_nulls())
        some = bool(set(wanted) & set(there))
        for event in (event for event in wanted if event not in there):
            message = f"no row has the target event {event!r}; the events are {', '.join(there[:12])}"
            fault = Fault(table=table, column=column, kind="no target event", message=message)
            yield replace(fault, remedy=nearest(event, there).strip(), severity="warning" if some else "error")


def duplicate_faults(seen: Inspection, table: str) -> Iterable[Fault]:
    """The same user, item, event and order again. Memory does not grow with the rows: of hashes, one part after the
    other is looked at, and only rows that share one are compared themselves.
    """
    names = seen.config.interactions
    columns = [name for name in (names.user, names.item, names.event, names.order) if name]
    if not seen.has(table, *columns):
        return
    frame = numbered(seen, table).with_columns(pl.struct(columns).hash(seed=1).alias("__hash"))
    found: list[pl.DataFrame] = []
    count = 0
    for shared in _shared_hashes(frame):
        for some in np.array_split(shared, 1 + len(shared) // _KEYS):
            part = frame.join(pl.LazyFrame({"__hash": some}), on="__hash", how="semi")
            again = part.group_by(columns).agg(pl.col(ROW).max(), pl.len().alias("__rows")).filter(pl.col("__rows") > 1)
            total, first = pl.collect_all(
                [again.select((pl.col("__rows") - 1).sum()), again.bottom_k(FIRST, by=ROW)], engine="streaming"
            )
            count += total.item()
            found.append(first)
    if count:
        fault = Fault(
            table=table, column=", ".join(columns), kind="duplicate row", severity="warning",
            message="a row that another one repeats", remedy="Remove it, unless it really happened twice.",
        )  # fmt: skip
        yield located(seen, fault, pl.concat(found).sort(ROW).lazy(), count)


def _shared_hashes(frame: pl.LazyFrame) -> Iterator[np.ndarray]:
    """The hashes that several rows have, each once; by parts of all hashes."""
    rows = frame.select(pl.len()).collect(engine="streaming").item()
    parts = max(-(-rows // _HASHES), 1)
    for number in range(parts):
        part = frame.select("__hash").filter(pl.col("__hash") % parts == number)
        hashes = np.sort(part.collect(engine="streaming")["__hash"].to_numpy())
        shared = np.unique(hashes[1:][hashes[1:] == hashes[:-1]])
        if len(shared):
            yield shared


def leak_faults(seen: Inspection, table: str) -> Iterable[Fault]:
    """Where the table says its own split: a user's earlier split must not reach past the start of a later one."""
    names, split = seen.config.interactions, seen.config.split.column
    if seen.config.split.by != "column" or names.judged or not seen.has(table, names.user, names.order, split):
        return
    word, order = pl.col(split), pl.col(names.order)
    held, test = order.filter(word.is_in(("valid", "test"))), order.filter(word == "test")
    starts = seen.frames[table].group_by(names.user).agg(held.min().alias("__held"), test.min().alias("__test"))
    late = ((word == "train") & (order > pl.col("__held"))) | ((word == "valid") & (order > pl.col("__test")))
    bad = numbered(seen, table).join(starts, on=names.user, how="left", maintain_order="left").filter(late)
    count = bad.select(pl.len()).collect(engine="streaming").item()
    if count:
        message = "the future leaks: a row of an earlier split (train, valid, test) stands after one of a later split,"
        remedy = "Mend the column, or set data.split.by to last or time."
        fault = Fault(table=table, column=f"{split}, {names.order}", kind="split leaks", message=message, remedy=remedy)
        yield located(seen, fault, bad, count)


def scale_faults(seen: Inspection, table: str) -> Iterable[Fault]:
    """The time of a query, a review or an ad must be on the interactions' scale."""
    roles_of = {"queries": seen.config.queries, "reviews": seen.config.reviews, "ads": seen.config.ads}[table]
    own, other = roles_of.order if roles_of else None, seen.config.interactions.order
    if own is None or not seen.has(table, own) or not seen.has("interactions", other):
        return
    types = seen.frames[table].collect_schema()[own], seen.frames["interactions"].collect_schema()[other]
    if types[0].is_numeric() != types[1].is_numeric():
        message = f"{types[0]} where interactions.{other} is {types[1]}: the two cannot be compared"
        yield Fault(table=table, column=own, kind="wrong type", message=message, remedy="Use one scale.")
