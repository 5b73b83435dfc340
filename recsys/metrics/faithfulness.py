"""Whether what is named as evidence carried a score: deletion and insertion curves, against evidence in random order.

Deletion takes pieces away, the most important first: a score that soon falls says that they were important. Insertion
starts with nothing and adds them in the same order (Petsiuk et al. 2018, arXiv:1806.07421; Samek et al. 2017,
arXiv:1509.06321). Letters: R recommendations, S + 1 points of a curve: after 0, 1/S, ..., S/S of the pieces.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from recsys.metrics.bootstrap import Interval, paired_bootstrap


def curve_sizes(pieces: int, steps: int) -> list[int]:
    """How many pieces are gone at each of the S + 1 points of a curve, from 0 to all; at least one more at each."""
    steps = min(steps, pieces)
    return [round(pieces * step / max(steps, 1)) for step in range(steps + 1)]


def area_under(curve: NDArray[np.float64]) -> float:
    """Mean height of a curve of S + 1 points at even distances, by trapezoids; in units of the score."""
    if len(curve) < 2:
        return float(curve.mean())
    return float(((curve[1:] + curve[:-1]) / 2).mean())


@dataclass(frozen=True, kw_only=True)
class Faithfulness:
    """Areas of named and of random evidence, mean over recommendations, and their paired difference."""

    recommendations: int
    named: float
    """Area under the curve of the named order."""
    random: float
    """Area under the mean curve of random orders of the same pieces."""
    gap: Interval
    """Deletion: random - named. Insertion: named - random. Above zero, what is named carried the score."""


def deletion(named: NDArray[np.float64], random: NDArray[np.float64]) -> Faithfulness:
    """Of areas [R] under deletion curves: the lower the named one, the better."""
    return _compared(named, random, random - named)


def insertion(named: NDArray[np.float64], random: NDArray[np.float64]) -> Faithfulness:
    """Of areas [R] under insertion curves: the higher the named one, the better."""
    return _compared(named, random, named - random)


def _compared(named: NDArray[np.float64], random: NDArray[np.float64], gap: NDArray[np.float64]) -> Faithfulness:
    return Faithfulness(
        recommendations=len(named), named=float(named.mean()), random=float(random.mean()), gap=paired_bootstrap(gap)
    )
