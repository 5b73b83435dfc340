"""The cascade of an inference run: what each stage hands on, what it costs, and what is left to win behind it."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from recsys.errors import InputError
from recsys.reports.figures import is_finite, number

FIGURES = ("answered", "requests", "in", "out", "recall", "ndcg@10", "ideal_ndcg@10", "seconds", "share")
"""What results.json holds of every stage, beside its name."""

TITLES = ("stage", "candidates", "recall ceiling", "nDCG@10", "perfect next", "to gain", "per request", "cost")
"""Columns of the table for the terminal."""


@dataclass(frozen=True, kw_only=True)
class Step:
    """A stage of the cascade; quality is of the requests whose answer is known."""

    name: str
    answered: int
    requests: int
    coming: float
    """Candidates that it is given, for each request."""
    out: float
    """Candidates that it hands on."""
    recall: float
    """Of all that it hands on: no stage behind it can have more."""
    ndcg: float
    ideal: float
    """nDCG@10 of a perfect next stage."""
    seconds: float
    """Of one request."""
    share: float
    """Of the cost of the whole cascade."""
    width: float
    """Of the funnel behind this stage, in percent: candidates on a logarithmic scale, all items are 100."""

    @property
    def gain(self) -> float:
        """What the next stage could still win."""
        return self.ideal - self.ndcg


def read_cascade(results: Mapping[str, Any], where: str) -> dict[str, list[Step]]:
    """The steps of each set of requests in results.json; empty where none were measured."""
    found = results.get("cascade") or {}
    if not isinstance(found, dict) or not all(isinstance(rows, list) for rows in found.values()):
        raise InputError(f"{where}: cascade is of type {type(found).__name__}; expected an object of lists of stages.")
    return {group: _steps(rows, f"{where}: cascade.{group}") for group, rows in found.items() if rows}


def _steps(rows: list[Any], where: str) -> list[Step]:
    for at, row in enumerate(rows):
        if not isinstance(row, dict) or not all(is_finite(row.get(name)) for name in FIGURES):
            raise InputError(f"{where}[{at}] lacks a figure; expected a name and {', '.join(FIGURES)}.")
    whole = math.log1p(rows[0]["in"]) or 1.0
    return [
        Step(
            name=str(row.get("name")), answered=int(row["answered"]), requests=int(row["requests"]), coming=row["in"],
            out=row["out"], recall=row["recall"], ndcg=row["ndcg@10"], ideal=row["ideal_ndcg@10"],
            seconds=row["seconds"], share=row["share"], width=round(100 * math.log1p(row["out"]) / whole, 1),
        )
        for row in rows
    ]  # fmt: skip


def describe_set(name: str) -> str:
    """A set of requests in words: valid -> users, valid; valid_query -> searches, valid."""
    split = name.removesuffix("_query")
    return f"{'users' if split == name else 'searches'}, {split}"


def count(value: float) -> str:
    """A number of candidates: whole ones as they are, means with a decimal."""
    return f"{value:,.0f}" if value == round(value) else f"{value:,.1f}"


def milliseconds(seconds: float) -> str:
    """The time of one request: 2.1 ms, <0.1 ms."""
    return f"{1000 * seconds:,.1f} ms" if seconds >= 1e-4 else "<0.1 ms"


def print_cascade(results: Mapping[str, Any]) -> str:
    """The cascade of each set as aligned text; empty where none was measured."""
    tables = [_table(group, steps) for group, steps in read_cascade(results, "results").items()]
    return "\n\n".join(tables)


def _table(group: str, steps: list[Step]) -> str:
    rows = [TITLES, *(_cells(step) for step in steps)]
    widths = [max(len(row[column]) for row in rows) for column in range(len(TITLES))]
    lines = ["  ".join([row[0].ljust(widths[0]), *map(str.rjust, row[1:], widths[1:])]) for row in rows]
    head = f"cascade ({describe_set(group)}): {steps[0].requests:,} requests with a known answer"
    return "\n".join([head, "-" * max(map(len, lines)), *lines])


def _cells(step: Step) -> tuple[str, ...]:
    handed = f"{count(step.coming)} -> {count(step.out)}"
    worth = (number(step.recall), number(step.ndcg), number(step.ideal), f"+{number(step.gain)}")
    return step.name, handed, *worth, milliseconds(step.seconds), f"{step.share:.0%}"
