"""What there is in a data set: rows, coverage, ranges, popularity, interactions per user. Nothing private."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import date
from math import ceil

import polars as pl

from recsys.tables.faults import Fault, Inspection
from recsys.tables.roles import roles

UnknownShare = Callable[[Sequence[str]], float]
"""Texts -> share of their tokens that the tokenizer does not know."""

MOST_UNKNOWN = 0.05
"""Share of unknown tokens above which a column is told as strange to the tokenizer."""

_SAMPLE = 2000  # texts that are tokenised to tell the share of unknown tokens
_QUANTILES = (0.1, 0.5, 0.9)


@dataclass(frozen=True, kw_only=True)
class Fact:
    """One thing that is so."""

    table: str
    column: str = ""
    name: str
    """rows, coverage, lowest, highest, split NAME, event NAME, per user ..., popularity ..., unknown tokens."""
    value: int | float | str
    share: bool = False
    """Whether the value is a share, 0 to 1."""

    @property
    def text(self) -> str:
        """The value for a reader."""
        if isinstance(self.value, str):
            return self.value
        if self.share:
            return f"{self.value:.1%}"
        return f"{self.value:,}" if isinstance(self.value, int) else f"{self.value:,.6g}"


def find_facts(seen: Inspection, unknown_share: UnknownShare | None) -> list[Fact]:
    """What can be told of the tables that could be read."""
    facts: list[Fact] = []
    for table in seen.frames:
        facts += _cover(seen, table)
        facts += _ranges(seen, table)
    facts += _splits(seen)
    facts += _events(seen)
    facts += _per_user(seen)
    facts += _popularity(seen)
    return facts + (_unknown_tokens(seen, unknown_share) if unknown_share else [])


def _cover(seen: Inspection, table: str) -> list[Fact]:
    """Rows, and the share of rows in which each column holds something: neither null nor an empty text or list."""
    frame = seen.frames[table]
    filled = [_filled(name, dtype).sum().alias(name) for name, dtype in frame.collect_schema().items()]
    counts = frame.select(pl.len().alias("__rows"), *filled).collect(engine="streaming").row(0, named=True)
    rows = counts.pop("__rows")
    covered = [
        Fact(table=table, column=name, name="coverage", value=count / rows, share=True)
        for name, count in counts.items()
        if rows
    ]
    return [Fact(table=table, name="rows", value=rows), *covered]


def _filled(name: str, dtype: pl.DataType) -> pl.Expr:
    cell = pl.col(name)
    if dtype == pl.String:
        return (cell.str.strip_chars() != "").fill_null(False)
    if isinstance(dtype, pl.List):
        return (cell.list.len() > 0).fill_null(False)
    return cell.is_not_nan().fill_null(False) if dtype.is_float() else cell.is_not_null()


def _ranges(seen: Inspection, table: str) -> list[Fact]:
    kinds = ("number", "order", "grade")
    names = {
        role.column: None for role in roles(seen.config, table) if role.kind in kinds and seen.has(table, role.column)
    }
    if not names:
        return []
    schema = seen.frames[table].collect_schema()
    ends = [end(_real(name, schema[name])).alias(f"{name}/{word}") for name in names for word, end in _ENDS.items()]
    found = seen.frames[table].select(ends).collect(engine="streaming").row(0, named=True)
    return [
        Fact(table=table, column=name, name=word, value=_plain(found[f"{name}/{word}"]))
        for name in names
        for word in _ENDS
        if found[f"{name}/{word}"] is not None
    ]


_ENDS: dict[str, Callable[[pl.Expr], pl.Expr]] = {"lowest": pl.Expr.min, "highest": pl.Expr.max}


def _real(name: str, dtype: pl.DataType) -> pl.Expr:
    return pl.col(name).fill_nan(None) if dtype.is_float() else pl.col(name)


def _plain(value: object) -> int | float | str:
    if isinstance(value, bool):
        return int(value)
    if isinstance(value, int | float):
        return value
    return value.isoformat() if isinstance(value, date) else str(value)


def _counts(seen: Inspection, table: str, column: str) -> Iterable[tuple[str, int]]:
    """The words of a column with their rows, most frequent first."""
    counted = (
        seen.frames[table].group_by(pl.col(column).cast(pl.String)).len().sort("len", column, descending=[True, False])
    )
    return counted.head(12).collect(engine="streaming").drop_nulls().rows()


def _splits(seen: Inspection) -> list[Fact]:
    column = seen.config.split.column
    return [
        Fact(table=table, column=column, name=f"split {word}", value=rows)
        for table in ("interactions", "queries")
        if seen.has(table, column)
        for word, rows in _counts(seen, table, column)
    ]


def _events(seen: Inspection) -> list[Fact]:
    column = seen.config.interactions.event
    if column is None or not seen.has("interactions", column):
        return []
    counted = _counts(seen, "interactions", column)
    return [Fact(table="interactions", column=column, name=f"event {word}", value=rows) for word, rows in counted]


def _targets(seen: Inspection) -> pl.LazyFrame:
    names, frame = seen.config.interactions, seen.frames["interactions"]
    if names.event is None or names.target_events is None or not seen.has("interactions", names.event):
        return frame
    return frame.filter(pl.col(names.event).cast(pl.String).is_in(names.target_events))


def _per_user(seen: Inspection) -> list[Fact]:
    user = seen.config.interactions.user
    if not seen.has("interactions", user):
        return []
    counts = seen.frames["interactions"].group_by(user).len().select("len").collect(engine="streaming")["len"]
    if counts.is_empty():
        return []
    asked = {f"{share:.0%} of users at most": int(counts.quantile(share, "lower") or 0) for share in _QUANTILES}
    values = {"users": len(counts), "fewest": int(str(counts.min())), **asked, "most": int(str(counts.max()))}
    return [
        Fact(table="interactions", column=user, name=f"per user: {name}", value=value) for name, value in values.items()
    ]


def _popularity(seen: Inspection) -> list[Fact]:
    """How unequally the target events fall on the items of the catalogue."""
    item, key = seen.config.interactions.item, seen.config.items.id
    if not seen.has("interactions", item) or not seen.has("items", key):
        return []
    counts = _targets(seen).group_by(item).len().select("len").collect(engine="streaming")["len"].sort(descending=True)
    ids = seen.frames["items"].select(key).collect()[key]
    schema = seen.frames["interactions"].collect_schema()
    if not len(counts) or not len(ids) or schema[item] != ids.dtype:
        return []
    met = _targets(seen).select(pl.col(item).unique()).collect(engine="streaming")[item]
    total = int(counts.sum())
    facts = [
        Fact(
            table="interactions", column=item, name=f"popularity: top {part:.0%} of items hold", share=True,
            value=int(counts.head(ceil(part * len(ids))).sum()) / total,
        )
        for part in (0.01, 0.1)
    ]  # fmt: skip
    unseen = int((~ids.is_in(met.implode())).sum())
    return [*facts, Fact(table="interactions", column=item, name="popularity: items never met", value=unseen)]


def _unknown_tokens(seen: Inspection, unknown_share: UnknownShare) -> list[Fact]:
    columns = [("items", name) for name in seen.config.items.text] + [("queries", seen.config.queries.text)]
    notes = {"reviews": seen.config.reviews, "ads": seen.config.ads}
    columns += [(table, given.text) for table, given in notes.items() if given is not None]
    facts: list[Fact] = []
    for table, name in columns:
        if not seen.has(table, name):
            continue
        texts = seen.frames[table].select(pl.col(name).cast(pl.String)).drop_nulls().collect()[name]
        sample = texts.gather_every(max(1, len(texts) // _SAMPLE)).to_list()
        if sample:
            facts.append(Fact(table=table, column=name, name="unknown tokens", value=unknown_share(sample), share=True))
    return facts


def strange_texts(facts: Sequence[Fact]) -> list[Fault]:
    """A warning for each column of which the tokenizer does not know more than `MOST_UNKNOWN` of the tokens."""
    return [
        Fault(
            table=fact.table, column=fact.column, kind="unknown tokens", severity="warning",
            message=f"{fact.text} of the tokens are unknown to the tokenizer; expected at most {MOST_UNKNOWN:.0%}",
            remedy="Set model.text.model to a model of that language, or to config: for a tokenizer of your own texts.",
        )
        for fact in facts if fact.name == "unknown tokens" and float(fact.value) > MOST_UNKNOWN
    ]  # fmt: skip
