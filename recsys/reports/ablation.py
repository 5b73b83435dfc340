"""What each source of data is worth to a cascade: of ablation.json, in the terminal and on the page."""

from dataclasses import dataclass
from typing import Any

from recsys.errors import InputError
from recsys.metrics.bootstrap import Interval
from recsys.reports.figures import is_finite

NOTHING = "nothing"
"""The row of the whole cascade."""


@dataclass(frozen=True, kw_only=True)
class Hidden:
    """One source hidden, for one set of requests."""

    source: str
    requests: int
    ndcg: float
    """nDCG@10 without it."""
    lost: Interval
    """Of nDCG@10."""
    log_loss: Interval | None
    """What a candidate's mean log-loss gains."""
    oracle: float | None
    """What the data set's oracle loses without it."""
    left: float = 0.0
    """Where the bar begins, and how wide it is, in percent of the widest of the set."""
    width: float = 0.0

    @property
    def share(self) -> float | None:
        """Of what the oracle loses."""
        return self.lost.mean / self.oracle if self.oracle else None


def read_ablation(raw: Any, where: str) -> dict[str, list[Hidden]]:
    """The rows of each set of requests, the whole cascade first; empty where nothing was hidden.

    Raises InputError where a row lacks a figure.
    """
    if raw is None:
        return {}
    rows = raw.get("rows") if isinstance(raw, dict) else None
    if not isinstance(rows, list) or not all(
        isinstance(row, dict) and isinstance(row.get("group"), str) for row in rows
    ):
        raise InputError(f"{where} holds no list of rows; run recsys ablate again.")
    groups = dict.fromkeys(row["group"] for row in rows)
    return {name: _with_bars([_hidden(row, where) for row in rows if row["group"] == name]) for name in groups}


def _hidden(row: dict[str, Any], where: str) -> Hidden:
    try:
        more, oracle = row.get("log_loss"), row.get("oracle_lost")
        return Hidden(
            source=str(row["source"]), requests=int(row["requests"]), ndcg=float(row["ndcg"]),
            lost=Interval(**row["lost"]), log_loss=None if more is None else Interval(**more),
            oracle=oracle if is_finite(oracle) else None,
        )  # fmt: skip
    except (KeyError, TypeError, ValueError) as error:
        raise InputError(f"{where}: a row lacks a figure ({error}); run recsys ablate again.") from error


def _with_bars(rows: list[Hidden]) -> list[Hidden]:
    """The same rows, with bars of what is lost on one scale that holds zero and every interval."""
    low = min([0.0, *(row.lost.low for row in rows)])
    spread = (max([0.0, *(row.lost.high for row in rows)]) - low) or 1.0
    return [
        Hidden(**{**vars(row), "left": 100 * (min(row.lost.mean, 0.0) - low) / spread,
                  "width": 100 * abs(row.lost.mean) / spread})
        for row in rows
    ]  # fmt: skip


def print_ablation(groups: dict[str, list[Hidden]]) -> str:
    """As aligned text, by set of requests."""
    lines: list[str] = []
    for group, rows in groups.items():
        told = any(row.oracle is not None for row in rows)
        head = f"{'hidden':<10}{'nDCG@10':>9}{'lost':>9}{'95 %':>20}{'log-loss':>11}{'95 %':>22}"
        lines += [f"{group}, {rows[0].requests:,} requests", head + (f"{'oracle':>9}{'share':>7}" if told else "")]
        lines += [*map(_line, rows), ""]
    return "\n".join(lines)


def _line(row: Hidden) -> str:
    if row.source == NOTHING:
        return f"{row.source:<10}{row.ndcg:>9.3f}"
    more = row.log_loss
    text = f"{row.source:<10}{row.ndcg:>9.3f}{row.lost.mean:>9.4f}{_ends(row.lost, 4):>20}"
    text += f"{more.mean:>11.5f}{_ends(more, 5):>22}" if more is not None else f"{'-':>11}{'-':>22}"
    return text if row.share is None else f"{text}{row.oracle:>9.4f}{row.share:>7.0%}"


def _ends(interval: Interval, digits: int) -> str:
    return f"[{interval.low:.{digits}f}, {interval.high:.{digits}f}]"
