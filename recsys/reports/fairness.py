"""Groups of users and of items in a run's results: what each is given, and the gap between the extremes."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from recsys.errors import InputError
from recsys.metrics.bootstrap import Interval

TITLES = {"ndcg@10": "nDCG@10", "non_head@10": "shown beyond the head"}


@dataclass(frozen=True, kw_only=True)
class Member:
    """One group of users."""

    name: str
    people: int
    values: Mapping[str, Interval]


@dataclass(frozen=True, kw_only=True)
class Column:
    """The groups of one column of the users."""

    name: str
    groups: list[Member]
    withheld: int
    gaps: Mapping[str, Interval | None]


@dataclass(frozen=True, kw_only=True)
class ItemGroup:
    """One popularity group of items."""

    name: str
    items: int
    exposure: Interval
    """Share of all places."""
    answers: Interval | None
    """Share of all right answers; None: withheld."""
    ndcg: Interval | None
    """Of who looks for one of them."""


@dataclass(frozen=True, kw_only=True)
class Fairness:
    """Of one set of requests."""

    requests: int
    columns: list[Column]
    items: list[ItemGroup]
    gap: Interval | None
    """Of nDCG@10 between groups of items."""


def read_fairness(results: Mapping[str, Any], where: str) -> dict[str, Fairness]:
    """What results.json holds, by set of requests; empty where nothing was measured. InputError for a broken row."""
    try:
        return {group: _read(told) for group, told in (results.get("fairness") or {}).items()}
    except (KeyError, TypeError, ValueError, AttributeError, IndexError) as error:
        raise InputError(f"{where}: fairness lacks a figure ({error}); run infer.py recommend again.") from error


def _read(told: dict[str, Any]) -> Fairness:
    items = told["items"][0]
    groups = [
        ItemGroup(
            name=str(one["group"]), items=int(one["items"]), exposure=Interval(**one["exposure"]),
            answers=_interval(one["answers"]), ndcg=_interval(one["ndcg@10"]),
        )
        for one in items["groups"]
    ]  # fmt: skip
    return Fairness(
        requests=int(told["requests"]), columns=[_column(one) for one in told["users"]], items=groups,
        gap=_interval(items["gap"]),
    )  # fmt: skip


def _column(raw: dict[str, Any]) -> Column:
    measures: dict[str, Any] = raw["measures"]
    first = measures["ndcg@10"]
    groups = [
        Member(
            name=str(group["name"]), people=int(group["people"]),
            values={name: Interval(**one["told"][at]["value"]) for name, one in measures.items()},
        )
        for at, group in enumerate(first["told"])
    ]  # fmt: skip
    gaps = {name: _interval(one["gap"]) for name, one in measures.items()}
    return Column(name=str(raw["column"]), groups=groups, withheld=int(first["withheld"]), gaps=gaps)


def _interval(raw: dict[str, float] | None) -> Interval | None:
    return None if raw is None else Interval(**raw)


def print_fairness(results: Mapping[str, Any]) -> str:
    """The gaps alone, a line for each column of the users and one for the items; empty where nothing was measured."""
    lines = []
    for group, found in read_fairness(results, "results").items():
        lines.append(f"gaps between groups, {group}, {found.requests:,} requests")
        for column in found.columns:
            said = [f"{TITLES.get(name, name)} {_ends(gap)}" for name, gap in column.gaps.items() if gap is not None]
            lines.append(f"  {column.name:<16}{len(column.groups):>3} groups  {'  '.join(said) or 'one group alone'}")
        if found.gap is not None:
            lines.append(f"  {'items':<16}{len(found.items):>3} groups  nDCG@10 {_ends(found.gap)}")
    return "\n".join(lines)


def _ends(gap: Interval) -> str:
    return f"{gap.mean:.4f} [{gap.low:.4f}, {gap.high:.4f}]"
