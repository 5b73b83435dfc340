"""A folder (or a Hugging Face data set) -> tables. Rows are not looked at, but for the types of a CSV."""

from dataclasses import dataclass

import polars as pl

from recsys.errors import InputError
from recsys.tables.config import TABLES, DataConfig
from recsys.tables.formats import (
    Reading,
    Source,
    are_integers,
    as_plain,
    open_source,
    readable,
    what_is_there,
    with_types,
)
from recsys.tables.roles import RoleKind, missing_columns, roles


@dataclass(frozen=True, kw_only=True)
class Tables:
    """A data set as the user gave it: his column names, his ids, his row order."""

    items: pl.DataFrame
    users: pl.DataFrame
    """One row a user; without a users table: the distinct user ids of the interactions, sorted."""
    interactions: pl.LazyFrame | None
    """Never read whole, so that it may be larger than memory."""
    queries: pl.DataFrame | None
    relevance: pl.DataFrame | None
    reviews: pl.DataFrame | None = None
    ads: pl.DataFrame | None = None


def open_tables(config: DataConfig) -> tuple[dict[str, pl.LazyFrame], dict[str, str]]:
    """Every table that there is, unread, and for each that cannot be opened a sentence that says why."""
    sources: dict[str, Source] = {}
    problems: dict[str, str] = {}
    asked = {"reviews": config.reviews is not None, "ads": config.ads is not None}
    for table, names in ((table, names) for table, names in TABLES.items() if asked.get(table, True)):
        try:
            source = open_source(config.root, names, config.tables.get(table))
            if source is not None:
                sources[table] = _with_types(config, table, source)
        except InputError as error:
            if str(error) not in problems.values():  # a wrong root is one fault and not five
                problems[table] = str(error)
    if not problems:
        problems = _missing_tables(config, sources, asked)
    return _with_equal_ids(config, sources), problems


def _missing_tables(config: DataConfig, sources: dict[str, Source], asked: dict[str, bool]) -> dict[str, str]:
    missing: dict[str, str] = {}
    if "items" not in sources:
        missing["items"] = f"There is no items table: {what_is_there(config.root, TABLES['items'])}"
    for table in (table for table, wanted in asked.items() if wanted and table not in sources):
        missing[table] = f"data.{table} is set, and there is no such table: {what_is_there(config.root, TABLES[table])}"
    if "interactions" not in sources and "queries" not in sources:
        there = what_is_there(config.root, ("interactions", "queries"))
        missing["interactions"] = f"There is neither an interactions nor a queries table: {there}"
    return missing


def _with_types(config: DataConfig, table: str, source: Source) -> Source:
    """The table with a CSV's numbers and grades as numbers, and orders, words and pictures in one plain form."""
    schema = source.frame.collect_schema()
    known = [role for role in roles(config, table) if role.column in schema]

    def columns(*kinds: RoleKind) -> list[str]:
        return [role.column for role in known if role.kind in kinds]

    words, pictures, vectors = columns("event", "split"), columns("image"), columns("vector")
    frame = as_plain(source.frame, columns("key", "link"), words, pictures, vectors)
    ways: dict[str, Reading] = {name: "order" for name in columns("order") if schema[name] == pl.String}
    if not source.typed:
        ways |= {name: "number" for name in columns("number", "grade") if name not in ways}
    with readable(table):
        ids = [] if source.typed else columns("key", "link")
        whole = frozenset(name for name in ids if are_integers(frame, name))
        return Source(with_types(frame, ways), source.typed, whole)


def _with_equal_ids(config: DataConfig, sources: dict[str, Source]) -> dict[str, pl.LazyFrame]:
    """One type for all ids of a kind: integers of any width become Int64, a CSV's ids integers if all tables' are."""
    frames = {table: source.frame for table, source in sources.items()}
    schemas = {table: frame.collect_schema() for table, frame in frames.items()}
    owned = [(role.table, table, role.column) for table in frames for role in roles(config, table) if role.table]
    for kind in ("items", "users", "queries"):
        places = [(table, column) for owner, table, column in owned if owner == kind and column in schemas[table]]
        types = {schemas[table][column] for table, column in places}
        if len(types) == 1 and types.pop().is_integer():
            continue  # already equal: the user's own type stays
        if all(column in sources[table].whole or _fits_int64(schemas[table][column]) for table, column in places):
            for table, column in places:
                frames[table] = frames[table].with_columns(pl.col(column).cast(pl.Int64))
    return frames


def _fits_int64(dtype: pl.DataType) -> bool:
    return dtype.is_integer() and dtype != pl.UInt64


def read_tables(config: DataConfig) -> Tables:
    """The tables that `config` names, ids and column names untouched, interactions unread.

    Rows are not checked: `check` reads, checks and applies the policies.

    Raises:
        InputError: a table or a column that the config names is missing, or a file cannot be read; one line each.
    """
    frames, problems = open_tables(config)
    lines = [*problems.values()]
    for table, frame in frames.items():
        lines += [f"{table}.{role.column}: {message}" for role, message in missing_columns(config, table, frame)]
    if lines:
        raise InputError("\n".join(lines))
    return tables_of(config, frames)


def tables_of(config: DataConfig, frames: dict[str, pl.LazyFrame]) -> Tables:
    """The small tables read, the interactions not."""
    read: dict[str, pl.DataFrame] = {}
    for table in frames.keys() - {"interactions"}:
        with readable(table):
            read[table] = frames[table].collect()
    interactions = frames.get("interactions")
    users = read.get("users")
    return Tables(
        items=read["items"],
        users=users if users is not None else _users_of(config, interactions),
        interactions=interactions,
        queries=read.get("queries"),
        relevance=read.get("relevance"),
        reviews=read.get("reviews"),
        ads=read.get("ads"),
    )


def _users_of(config: DataConfig, interactions: pl.LazyFrame | None) -> pl.DataFrame:
    if interactions is None:
        return pl.DataFrame(schema={config.users.id: pl.String})
    ids = interactions.select(pl.col(config.interactions.user).alias(config.users.id)).drop_nulls()
    with readable("interactions"):
        return ids.unique().sort(config.users.id).collect(engine="streaming")
