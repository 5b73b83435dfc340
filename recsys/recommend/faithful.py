"""Is the named evidence what carried the scores? Curves of deletion and insertion on some recommendations."""

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from recsys.metrics.faithfulness import Faithfulness, area_under, curve_sizes, deletion, insertion
from recsys.recommend.attention import history_attention
from recsys.recommend.counterfactual import Counterfactuals
from recsys.recommend.deletions import Asked, Unit
from recsys.recommend.evidence import Explainer

_STEPS = 5
_RANDOM = 3
"""Random orders of the pieces of each recommendation."""
_MOST_WORDS = 40
_WHOLE = tuple(Unit.source(name) for name in ("text", "profile", "context", "history"))
"""Sources whose pieces are taken away one by one."""

Pair = tuple[int, int]
Order = Callable[[Unit], float]


@dataclass(frozen=True, kw_only=True)
class Tested:
    """Evidence of one kind, in one order, against random orders of the same pieces."""

    pieces: str
    """all; history; words (of the item)."""
    by: str
    """leave-one-out, attention, or gradients."""
    deletion: Faithfulness
    insertion: Faithfulness

    def row(self) -> dict[str, Any]:
        """As it stands in results.json."""
        return asdict(self)


def measure(explainer: Explainer, without: Counterfactuals, pairs: Sequence[Pair], seed: int = 0) -> list[Tested]:
    """Deletion and insertion of the evidence of (request, item) pairs."""
    base, parts = without.scores([Asked(*pair) for pair in pairs]), explainer.gradients(without, pairs)
    whole = [[unit for unit in own if unit not in _WHOLE] for own in explainer.units(without, pairs, parts)]
    had = [[unit for unit in own if unit.kind == "history"] for own in whole]
    words = [[Unit("word", at) for at in range(min(len(part), _MOST_WORDS))] for part in parts]
    looks = history_attention(without, [request for request, _ in pairs])

    def worth(units: list[list[Unit]]) -> list[Order]:
        return [found.__getitem__ for found in explainer.worths(without, pairs, units, base)]

    attention: list[Order] = [lambda unit, own=own: own.get(unit.at, 0.0) for own in looks]
    gradients: list[Order] = [lambda unit, part=part: float(part[unit.at]) for part in parts]
    plans = [
        ("all", "leave-one-out", whole, worth(whole)),
        ("history", "leave-one-out", had, worth(had)),
        ("history", "attention", had, attention if any(looks) else []),
        ("words", "leave-one-out", words, worth(words)),
        ("words", "gradients", words, gradients),
    ]
    found = [_tested(without, pairs, *plan, seed) for plan in plans if plan[3]]
    return [one for one in found if one is not None]


def _tested(
    without: Counterfactuals, pairs: Sequence[Pair], pieces: str, by: str, units: list[list[Unit]],
    orders: list[Order], seed: int,
) -> Tested | None:  # fmt: skip
    """None where fewer than two recommendations have at least two pieces."""
    rows = [row for row, own in enumerate(units) if len(own) > 1]
    if len(rows) < 2:
        return None
    rng = np.random.default_rng(seed)
    ranked: list[list[list[Unit]]] = []  # of each recommendation: the named order, then the random ones
    for row in rows:
        own = units[row]
        draws = [[own[at] for at in rng.permutation(len(own))] for _ in range(_RANDOM)]
        ranked.append([sorted(own, key=lambda unit, order=orders[row]: -order(unit)), *draws])
    asked = [pairs[row] for row in rows]
    gone, kept = (_areas(without, asked, ranked, inserts=inserts) for inserts in (False, True))
    return Tested(
        pieces=pieces, by=by, deletion=deletion(gone[:, 0], gone[:, 1:].mean(1)),
        insertion=insertion(kept[:, 0], kept[:, 1:].mean(1)),
    )  # fmt: skip


def _areas(
    without: Counterfactuals, pairs: Sequence[Pair], ranked: list[list[list[Unit]]], *, inserts: bool
) -> np.ndarray:
    """[R, orders] float64 areas under the curves of each order of each recommendation."""
    asked = [
        Asked(*pair, frozenset(order[size:] if inserts else order[:size]))
        for pair, orders in zip(pairs, ranked, strict=True)
        for order in orders
        for size in curve_sizes(len(order), _STEPS)
    ]
    scores = without.scores(asked).astype(np.float64)
    out, start = np.empty((len(pairs), 1 + _RANDOM)), 0
    for row, orders in enumerate(ranked):
        points = len(curve_sizes(len(orders[0]), _STEPS))
        curves = scores[start : start + points * len(orders)].reshape(len(orders), points)
        out[row] = [area_under(curve) for curve in curves]
        start += curves.size
    return out
