"""Every check of a data set, table by table. An unreadable table is one fault, and the others go on."""

from collections.abc import Callable, Iterable
from dataclasses import replace

import polars as pl

from recsys.errors import InputError
from recsys.tables.config import DataConfig
from recsys.tables.faults import FIRST, Fault, Inspection, accept, add, located, numbered, severity, short
from recsys.tables.formats import misfits, readable, what_is_there
from recsys.tables.images import broken_images
from recsys.tables.links import duplicate_faults, event_faults, leak_faults, link_faults, scale_faults
from recsys.tables.read import open_tables
from recsys.tables.roles import Role, image_column, missing_columns, roles
from recsys.tables.rows import row_faults
from recsys.tables.vectors import VECTOR, vector_faults

_EXPECTED = {
    "key": "integers or strings",
    "link": "integers or strings",
    "text": "one text or number a cell",
    "category": "one value a cell, or a list",
    "number": "numbers",
    "order": "numbers, dates or datetimes",
    "image": "paths or bytes",
    "vector": "lists of numbers",
    "event": "words",
    "split": "words",
    "grade": "numbers",
}


def inspect(config: DataConfig, show_ids: bool = False) -> Inspection:
    """Open a data set and look for every fault."""
    frames, problems = open_tables(config)
    kind = "missing or unreadable table"
    faults = tuple(Fault(table=table, kind=kind, message=said) for table, said in problems.items())
    seen = Inspection(config=config, frames={}, faults=faults, show_ids=show_ids)
    if not config.items.text and not config.items.image and not config.items.vectors:
        remedy = "Set data.items.text to the columns that say what an item is, or data.items.image or vectors."
        message = "neither a text column nor pictures or vectors are named"
        seen = add(seen, [Fault(table="items", kind="no text column", message=message, remedy=remedy)])
    seen = add(seen, _lonely_tables(config, set(frames)))
    for table, frame in frames.items():  # items and users before what names them
        try:
            with readable(table):
                seen = _look_at(seen, table, frame)
        except InputError as error:
            seen = add(seen, [Fault(table=table, kind="unreadable table", message=str(error))])
    return seen


def _lonely_tables(config: DataConfig, there: set[str]) -> Iterable[Fault]:
    """Tables that are of no use without another one."""
    if "relevance" in there and "queries" not in there:
        message = f"relevance without the queries that it is about: {what_is_there(config.root, ('queries',))}"
        yield Fault(table="relevance", kind="missing table", message=message, severity="warning")
    if "queries" in there and not there & {"relevance", "interactions"} and not config.relevance.match:
        message = "neither relevance nor interactions: there is nothing to learn from or to measure by"
        yield Fault(table="queries", kind="missing table", message=message, severity="warning")


def _look_at(seen: Inspection, table: str, frame: pl.LazyFrame) -> Inspection:
    held = frame if table == "interactions" else frame.collect().lazy()
    seen = _with_columns(replace(seen, frames=seen.frames | {table: held}), table)
    seen = _with_images(seen, table)  # before the rows: a query without words is empty if its picture is broken
    for find in (_empty_faults, row_faults, link_faults, *_OWN.get(table, ())):
        seen = add(seen, find(seen, table))
    return seen


_OWN: dict[str, tuple[Callable[[Inspection, str], Iterable[Fault]], ...]] = {
    "items": (vector_faults,),
    "interactions": (event_faults, duplicate_faults, leak_faults),
    "queries": (scale_faults,),
    "reviews": (scale_faults,),
    "ads": (scale_faults,),
}


def _with_columns(seen: Inspection, table: str) -> Inspection:
    """Missing columns and wrong types are faults, the rest are usable."""
    frame = seen.frames[table]
    faults = [
        Fault(table=table, column=role.column, kind="missing column", message=message)
        for role, message in missing_columns(seen.config, table, frame)
    ]
    schema = frame.collect_schema()
    there = [role for role in roles(seen.config, table) if role.column in schema]
    wrong = [role for role in there if not _fits(seen.config, role, schema[role.column])]
    faults += [_type_fault(seen, table, role, schema[role.column]) for role in wrong]
    usable = {role.column for role in there} - {role.column for role in wrong}
    return replace(add(seen, faults), usable=seen.usable | {(table, column) for column in usable})


def _fits(config: DataConfig, role: Role, dtype: pl.DataType) -> bool:
    if dtype == pl.Null:
        return True  # a column without any value is told as coverage, or as empty ids
    match role.kind:
        case "key" | "link":
            return dtype.is_integer() or dtype == pl.String
        case "number" | "grade":
            return dtype.is_numeric() or dtype == pl.Boolean
        case "order":
            return dtype.is_numeric() or isinstance(dtype, pl.Date | pl.Datetime)
        case "image":
            return isinstance(dtype, pl.String | pl.Binary)
        case "vector":
            return dtype == VECTOR
        case "category":
            flat = dtype.inner if isinstance(dtype, pl.List) else dtype
            cut = role.column in config.items.separators and role.setting == "items.category"
            return dtype == pl.String if cut else not isinstance(flat, pl.DataType) or _is_plain(flat)
        case _:
            return _is_plain(dtype)


def _is_plain(dtype: pl.DataType) -> bool:
    return not dtype.is_nested() and not isinstance(dtype, pl.Binary | pl.Object)


def _type_fault(seen: Inspection, table: str, role: Role, dtype: pl.DataType) -> Fault:
    message = f"{dtype} where {_EXPECTED[role.kind]} are expected (data.{role.setting})"
    remedy = "Convert the column."
    if role.kind == "vector":
        remedy = "Write the table as Parquet, with a list of numbers in each cell, or name another column."
    fault = Fault(table=table, column=role.column, kind="wrong type", message=message, remedy=remedy)
    if dtype != pl.String or role.kind not in ("number", "grade", "order"):
        return fault
    count, bad = misfits(seen.frames[table], role.column, "order" if role.kind == "order" else "number")
    if not count:
        return replace(fault, message=f"{message}, though every cell reads as a number")
    return located(seen, replace(fault, message=f"{message}; unreadable"), numbered(seen, table).filter(bad), count)


def _empty_faults(seen: Inspection, table: str) -> Iterable[Fault]:
    if not seen.frames[table].select(pl.len()).collect(engine="streaming").item():
        yield Fault(
            table=table, kind="empty table", message="the table has no rows", remedy="Give it rows, or leave it out."
        )


def _with_images(seen: Inspection, table: str) -> Inspection:
    column = image_column(seen.config, table)
    if column is None or not seen.has(table, column):
        return seen
    cells = seen.frames[table].select(column).collect()[column]
    broken = broken_images(seen.config.root, cells)
    policy = seen.config.policy.image
    for kind in sorted({one.kind for one in broken}):
        own = [one for one in broken if one.kind == kind]
        rows = tuple(one.row for one in own[:FIRST])
        fault = Fault(
            table=table,
            column=column,
            kind=kind,
            message=own[0].message,
            remedy=accept("image", policy),
            count=len(own),
            rows=rows,
            values=() if seen.hides(table, column) else tuple(short(cells[row]) for row in rows),
            severity=severity(policy),
        )
        seen = add(seen, [fault])
    return replace(seen, images={**seen.images, table: tuple(broken)})
