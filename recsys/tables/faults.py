"""A fault and how its rows are shown. What is private (user ids, query texts) never gets into one, unless asked for."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Literal

import polars as pl

from recsys.tables.config import DataConfig, Policy
from recsys.tables.images import BrokenImage
from recsys.tables.roles import roles

FIRST = 5  # rows and values shown of each fault
ROW = "__row"

Severity = Literal["error", "warning"]


@dataclass(frozen=True, kw_only=True)
class Fault:
    """One thing that is wrong, with the rows where it shows."""

    table: str
    column: str = ""
    """The column, several joined by ", ", or empty where the whole table is at fault."""
    kind: str
    """Short name of the fault, e.g. "unknown id"."""
    message: str
    """What was found and what was expected."""
    remedy: str = ""
    count: int = 0
    """Rows at fault; 0 where it is no matter of rows."""
    rows: tuple[int, ...] = ()
    """The first few of these rows, counted from 0."""
    values: tuple[str, ...] = ()
    """Their values; none where the column holds user ids or query texts."""
    severity: Severity = "error"

    def line(self) -> str:
        """The fault in one line."""
        place = f"{self.table}.{self.column}" if self.column else self.table
        rows = f" in {self.count:,} row{'s' * (self.count != 1)}" if self.count else ""
        first = f" ({'first ' * (self.count > len(self.rows))}{self._rows()})" if self.rows else ""
        found = f"{place}: {self.message.removeprefix(f'{self.table}: ')}{rows}{first}"
        return f"{found if found.endswith(('.', '?')) else found + '.'} {self.remedy}".rstrip()

    def _rows(self) -> str:
        numbers = ", ".join(map(str, self.rows))
        return f"row{'s' * (len(self.rows) != 1)} {numbers}" + (f": {', '.join(self.values)}" if self.values else "")


@dataclass(frozen=True, kw_only=True)
class Inspection:
    """A data set that was opened and looked at."""

    config: DataConfig
    frames: dict[str, pl.LazyFrame]
    """Every table but the interactions is already in memory."""
    faults: tuple[Fault, ...] = ()
    usable: frozenset[tuple[str, str]] = frozenset()
    """(table, column) that are there with a type that fits their roles."""
    images: Mapping[str, tuple[BrokenImage, ...]] = field(default_factory=dict[str, tuple[BrokenImage, ...]])
    """By table, pictures that are missing or cannot be read."""
    show_ids: bool = False

    def has(self, table: str, *columns: str | None) -> bool:
        """Whether the table is there and these columns of it can be used."""
        return table in self.frames and all(column is None or (table, column) in self.usable for column in columns)

    def hides(self, table: str, column: str) -> bool:
        """Whether values of the column are kept out of reports: user ids, and the texts and pictures of queries."""
        if self.show_ids:
            return False
        users = any(role.column == column and role.table == "users" for role in roles(self.config, table))
        return users or (table == "queries" and column in (self.config.queries.text, self.config.queries.image))


def located(seen: Inspection, fault: Fault, bad: pl.LazyFrame, count: int) -> Fault:
    """`fault` with its first rows and, unless they are private, values. `bad` holds the rows at fault, numbered."""
    columns = [name for name in fault.column.split(", ") if name in bad.collect_schema()]
    first = bad.select(ROW, *columns).head(FIRST).collect(engine="streaming")
    shown = [name for name in columns if not seen.hides(fault.table, name)]
    values = [" ".join(short(value) for value in row) for row in first.select(shown).rows()] if shown else []
    return replace(fault, count=count, rows=tuple(first[ROW].to_list()), values=tuple(values))


def short(value: object) -> str:
    """A cell's value for a report, at most 40 characters."""
    text = "(bytes)" if isinstance(value, bytes) else "empty" if value is None else repr(value)
    return text if len(text) <= 40 else f"{text[:37]}..."


def numbered(seen: Inspection, table: str) -> pl.LazyFrame:
    """The table with a column `ROW` of row numbers."""
    return seen.frames[table].with_row_index(ROW)


def add(seen: Inspection, faults: Iterable[Fault]) -> Inspection:
    """The inspection with more faults."""
    return replace(seen, faults=(*seen.faults, *faults))


def severity(policy: Policy) -> Severity:
    """How grave a fault is that the user may accept."""
    return "error" if policy == "error" else "warning"


def accept(name: str, policy: Policy) -> str:
    """The remedy where the user may accept a fault, or the word that he did."""
    mend = f"Mend the rows, or set data.policy.{name} to drop or keep."
    return mend if policy == "error" else f"Accepted: data.policy.{name} is {policy}."
