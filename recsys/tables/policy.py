"""What the user said may be dropped is dropped, counted, and written beside the caches. Nothing goes in silence."""

import logging
import os
from contextlib import suppress
from pathlib import Path
from uuid import uuid4

import polars as pl

from recsys.errors import InputError
from recsys.tables.faults import ROW, Inspection
from recsys.tables.links import key_column, mark_unknown
from recsys.tables.roles import image_column, roles
from recsys.tables.rows import blank, empty_query
from recsys.tables.vectors import broken_vectors

BECAUSE = "dropped_because"
"""Column of the written rows that says why they were dropped."""

_log = logging.getLogger(__name__)


def apply_policies(seen: Inspection) -> dict[str, pl.LazyFrame]:
    """The tables without the rows that a policy drops, nor rows that name a dropped item or query.

    Dropped rows are written to `CACHE/dropped/NAME.parquet`. With `policy.image: keep` a broken image's
    cell becomes empty.

    Raises:
        InputError: a table would be left without rows, or the dropped ones cannot be written.
    """
    kept: dict[str, pl.LazyFrame] = {}
    gone: dict[str, pl.LazyFrame] = {}
    for table in seen.frames:  # items and users before what names them
        place = Path(seen.config.cache) / "dropped" / f"{table}.parquet"
        frame = _without_broken_images(seen, table)
        marked = _marked(seen, table, frame, kept, gone)
        if marked is None:
            kept[table] = frame
            _remove(place)  # rows that an earlier run dropped are not dropped now
            continue
        kept[table] = marked.filter(pl.col(BECAUSE).is_null()).drop(BECAUSE)
        gone[table] = _write(marked.filter(pl.col(BECAUSE).is_not_null()), place)
        _tell(table, kept[table], gone[table], place)
    return kept


def _marked(
    seen: Inspection, table: str, frame: pl.LazyFrame, kept: dict[str, pl.LazyFrame], gone: dict[str, pl.LazyFrame]
) -> pl.LazyFrame | None:
    """`frame` with a column that says why a row is dropped; None where no row can be."""
    reasons = _own_reasons(seen, table)
    columns = frame.collect_schema().names()
    frame = frame.with_row_index(ROW)
    for role in (role for role in roles(seen.config, table) if role.kind == "link"):
        unknown = any(
            (fault.table, fault.column, fault.kind) == (table, role.column, "unknown id") for fault in seen.faults
        )
        orphans = unknown and seen.config.policy.orphan == "drop"
        if not orphans and role.table not in gone:
            continue
        mark = f"__{role.column}"
        ids = (kept if orphans else gone)[role.table].select(key_column(seen.config, role.table))
        frame = mark_unknown(frame, role.column, ids, mark)
        bad = pl.col(mark) if orphans else ~pl.col(mark) & pl.col(role.column).is_not_null()
        reasons.append(pl.when(bad).then(pl.lit(f"unknown or dropped {role.column}")))
    return frame.with_columns(pl.coalesce(reasons).alias(BECAUSE)).select(*columns, BECAUSE) if reasons else None


def _own_reasons(seen: Inspection, table: str) -> list[pl.Expr]:
    """Why a row of this table is dropped, whatever stands in the others."""
    reasons: list[pl.Expr] = []
    broken = pl.col(ROW).is_in([one.row for one in seen.images.get(table, ())])
    if seen.config.policy.text == "drop" and any(
        fault.table == table and fault.kind == "empty text" for fault in seen.faults
    ):
        texts = [blank(name) for name in seen.config.items.text]
        empty = empty_query(seen, broken) if table == "queries" else pl.all_horizontal(texts)
        reasons.append(pl.when(empty).then(pl.lit("empty text")))
    if seen.images.get(table) and seen.config.policy.image == "drop":
        reasons.append(pl.when(broken).then(pl.lit("missing or unreadable image")))
    if table == "items" and seen.config.policy.vectors == "drop":
        for name in seen.config.items.vectors:
            rows = [row for found in broken_vectors(seen, name).values() for row in found.tolist()]
            reasons += [pl.when(pl.col(ROW).is_in(rows)).then(pl.lit(f"broken {name}"))] if rows else []
    return reasons


def _without_broken_images(seen: Inspection, table: str) -> pl.LazyFrame:
    frame, column = seen.frames[table], image_column(seen.config, table)
    if column is None or not seen.images.get(table) or seen.config.policy.image != "keep":
        return frame
    broken = pl.col(ROW).is_in([one.row for one in seen.images[table]])
    return frame.with_row_index(ROW).with_columns(pl.when(~broken).then(pl.col(column)).alias(column)).drop(ROW)


def _write(rows: pl.LazyFrame, place: Path) -> pl.LazyFrame:
    """Write beside the place and rename, so that no reader meets half a file."""
    made = place.with_name(f".{place.name}.{uuid4().hex}")
    try:
        place.parent.mkdir(parents=True, exist_ok=True)
        rows.sink_parquet(made)
        os.replace(made, place)
    except (OSError, pl.exceptions.PolarsError) as error:
        _remove(made)
        raise InputError(
            f"Cannot write dropped rows to {place}: {error}. Free some space or set data.cache."
        ) from error
    return pl.scan_parquet(place)


def _remove(place: Path) -> None:
    with suppress(FileNotFoundError, NotADirectoryError):
        place.unlink()


def _tell(table: str, kept: pl.LazyFrame, gone: pl.LazyFrame, place: Path) -> None:
    counted = gone.group_by(BECAUSE).len().sort(BECAUSE).collect().rows()
    if not kept.select(pl.len()).collect(engine="streaming").item():
        raise InputError(f"{table}: the policies drop every row; see {place} and data.policy.")
    if counted:
        why = ", ".join(f"{rows:,} for {reason}" for reason, rows in counted)
        _log.warning("%s: rows dropped: %s; they are kept in %s", table, why, place)
