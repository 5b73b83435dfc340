"""Faults that one row shows by itself: all tests of a table run in one pass, however long it is."""

from collections.abc import Iterable
from dataclasses import dataclass, replace

import polars as pl

from recsys.tables.config import Policy
from recsys.tables.faults import Fault, Inspection, Severity, accept, located, numbered, severity
from recsys.tables.roles import Role, roles

SPLIT_WORDS = ("train", "valid", "test")


@dataclass(frozen=True)
class _RowTest:
    """A fault that one row shows by itself."""

    column: str
    kind: str
    message: str
    bad: pl.Expr
    remedy: str = ""
    severity: Severity = "error"


def row_faults(seen: Inspection, table: str) -> Iterable[Fault]:
    """All tests of single rows in one pass, and a second one for each test that fails."""
    schema = seen.frames[table].collect_schema()
    usable = [role for role in roles(seen.config, table) if (table, role.column) in seen.usable]
    tests = [test for role in usable for test in _tests(role, schema[role.column])]
    if table == "items":
        tests += _item_text_tests(seen)
    if table == "relevance":
        tests += _pair_tests(seen)
    if table == "queries":
        tests += _query_tests(seen)
    if not tests:
        return
    sums = (test.bad.sum().alias(str(number)) for number, test in enumerate(tests))
    counts = seen.frames[table].select(sums).collect(engine="streaming").row(0)
    for test, count in zip(tests, counts, strict=True):
        if count:
            found = Fault(table=table, column=test.column, kind=test.kind, message=test.message, remedy=test.remedy)
            bad = numbered(seen, table).filter(test.bad)
            yield located(seen, replace(found, severity=test.severity), bad, count)


def blank(column: str) -> pl.Expr:
    """Whether a cell is null or holds white space alone."""
    return pl.col(column).is_null() | (pl.col(column).cast(pl.String).str.strip_chars() == "").fill_null(False)


def _tests(role: Role, dtype: pl.DataType) -> list[_RowTest]:
    name = role.column
    match role.kind:
        case "key":
            return [_empty_id(name, dtype), _again(name)]
        case "link" if role.required:
            return [_empty_id(name, dtype)]
        case "number":
            return _finite_tests(name, dtype)
        case "order":
            return _order_tests(role, dtype)
        case "grade":
            return _grade_tests(name, dtype)
        case "split":
            unknown = ~pl.col(name).cast(pl.String).is_in(SPLIT_WORDS).fill_null(False)
            return [
                _RowTest(name, "unknown split", "a word other than train, valid, test", unknown, "Rename the split.")
            ]
        case _:
            return []


def _again(name: str) -> _RowTest:
    bad = ~pl.col(name).is_first_distinct() & pl.col(name).is_not_null()
    return _RowTest(name, "duplicate key", "an id that an earlier row has", bad, "Keep one row for each id.")


def _empty_text(name: str, message: str, bad: pl.Expr, policy: Policy) -> _RowTest:
    return _RowTest(name, "empty text", message, bad, accept("text", policy), severity(policy))


def _grade_tests(name: str, dtype: pl.DataType) -> list[_RowTest]:
    empty, below = pl.col(name).is_null(), pl.col(name).cast(pl.Float64) < 0
    remedy = "Grade 0 is irrelevant, more is better."
    tests = [_RowTest(name, "empty grade", "no grade", empty, remedy), *_finite_tests(name, dtype)]
    return [*tests, _RowTest(name, "negative grade", "a grade below 0", below, remedy)]


def _empty_id(name: str, dtype: pl.DataType) -> _RowTest:
    empty = pl.col(name).is_null() if dtype.is_integer() else blank(name)  # numbers as words would take their time
    return _RowTest(name, "empty id", "an empty id", empty, "Give every row its id.")


def _finite_tests(name: str, dtype: pl.DataType) -> list[_RowTest]:
    if not dtype.is_float():
        return []
    bad = pl.col(name).is_finite().not_().fill_null(False)
    return [_RowTest(name, "not finite", "NaN or an infinite number", bad, "Leave unknown cells empty.")]


def _order_tests(role: Role, dtype: pl.DataType) -> list[_RowTest]:
    name, cell = role.column, pl.col(role.column)
    tests = [_RowTest(name, "empty order", "no time or position", cell.is_null(), "Every row needs its place in time.")]
    if dtype.is_numeric():
        below = cell.is_not_nan() & (cell < 0) if dtype.is_float() else cell < 0
        tests += _finite_tests(name, dtype)
        tests.append(_RowTest(name, "negative order", "a time or position below 0", below, "Count it from 0 upwards."))
    return tests if role.required else tests[1:]


def _item_text_tests(seen: Inspection) -> list[_RowTest]:
    texts = seen.config.items.text
    if not texts or not seen.has("items", *texts):
        return []
    bad = pl.all_horizontal(blank(name) for name in texts)
    return [_empty_text(", ".join(texts), "an item without any text", bad, seen.config.policy.text)]


def _query_tests(seen: Inspection) -> list[_RowTest]:
    named = [name for name in (seen.config.queries.text, seen.config.queries.image) if name is not None]
    there = [name for name in named if seen.has("queries", name)]
    if not there:
        return []
    broken = pl.int_range(pl.len()).is_in([one.row for one in seen.images.get("queries", ())])
    return [_empty_text(", ".join(there), "an empty query", empty_query(seen, broken), seen.config.policy.text)]


def empty_query(seen: Inspection, broken: pl.Expr) -> pl.Expr:
    """Whether a row of the queries has neither words nor a picture; one that is `broken` is none."""
    text, image = seen.config.queries.text, seen.config.queries.image
    nothing = [blank(text)] if seen.has("queries", text) else []
    if image is not None and seen.has("queries", image):
        void = b"" if seen.frames["queries"].collect_schema()[image] == pl.Binary else ""
        nothing.append(pl.col(image).is_null() | (pl.col(image) == pl.lit(void)).fill_null(False) | broken)
    return pl.all_horizontal(nothing)


def _pair_tests(seen: Inspection) -> list[_RowTest]:
    query, item = seen.config.relevance.query, seen.config.relevance.item
    if not seen.has("relevance", query, item):
        return []
    again = ~pl.struct(query, item).is_first_distinct()
    return [
        _RowTest(f"{query}, {item}", "duplicate pair", "a pair that an earlier row has", again, "Keep one.", "warning")
    ]
