"""Values by groups of people or items, with intervals and the gap between the extremes; small groups are withheld.

Letters: R requests (people); S resamples. Nothing is told of fewer than `LEAST` people, nor of what could be had by
subtracting: what is withheld holds at least as many people together.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from recsys.metrics.bootstrap import Interval

LEAST = 10
"""People of a group that is told of."""


@dataclass(frozen=True, kw_only=True)
class GroupValue:
    """One group and its mean."""

    name: str
    people: int
    value: Interval


@dataclass(frozen=True, kw_only=True)
class Groups:
    """The groups that are told, the largest first."""

    told: list[GroupValue]
    withheld: int
    """Groups that are not told; of how many people is not said."""
    gap: Interval | None
    """Greatest mean less the least; None for fewer than two groups."""


def told_groups(groups: Sequence[str]) -> list[str]:
    """Names of the groups that may be told, the largest first, equal ones by name.

    Groups under `LEAST` people are withheld and, while all that is withheld together is fewer, the next smallest too.
    """
    names, counts = np.unique(np.asarray(groups, dtype=np.str_), return_counts=True)
    order = np.lexsort((names, -counts))
    told = [(str(names[at]), int(counts[at])) for at in order if counts[at] >= LEAST]
    hidden = int(counts[counts < LEAST].sum())
    while told and 0 < hidden < LEAST:
        hidden += told.pop()[1]
    return [name for name, _ in told]


def compare_groups(values: np.ndarray, groups: Sequence[str], weights: np.ndarray, most: int = 40) -> Groups:
    """The mean of each group and the gap, with percentile intervals over resamples of all people.

    The gap is between the groups whose means are the extremes. Having been picked for that, they lie further apart than
    the same two would in new data, the more so the smaller the groups: read it beside its interval.

    Args:
        values: [R] float64, without NaN.
        groups: [R] name of each one's group.
        weights: [S, R] from `resample_weights`.
        most: groups that are told of, the largest.
    """
    names, member = told_groups(groups), np.asarray(groups, dtype=np.str_)
    found: list[GroupValue] = []
    means: list[np.ndarray] = []
    for name in names[:most]:
        rows = np.flatnonzero(member == name)
        drawn = weights[:, rows].astype(np.float64)
        means.append(drawn @ values[rows] / np.maximum(drawn.sum(1), 1))
        value = _interval(float(values[rows].mean()), means[-1])
        found.append(GroupValue(name=name, people=len(rows), value=value))
    return Groups(told=found, withheld=len(np.unique(member)) - len(names), gap=_gap(found, means))


def _gap(found: list[GroupValue], means: list[np.ndarray]) -> Interval | None:
    if len(found) < 2:
        return None
    points = [group.value.mean for group in found]
    high, low = int(np.argmax(points)), int(np.argmin(points))
    return _interval(points[high] - points[low], means[high] - means[low])


def _interval(point: float, resampled: np.ndarray) -> Interval:
    low, high = np.quantile(resampled, [0.025, 0.975])
    return Interval(mean=point, low=float(low), high=float(high))
