"""How sure a mean difference is: the paired bootstrap over requests."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

_BLOCK = 1 << 22  # draws held at one time


@dataclass(frozen=True, kw_only=True)
class Interval:
    """A mean difference and the ends of its interval."""

    mean: float
    low: float
    high: float

    @property
    def sign(self) -> int:
        """1: all of the interval is above zero; -1: all is below; 0: neither can be said."""
        return int(self.low > 0) - int(self.high < 0)


def paired_bootstrap(
    differences: NDArray[np.float64], *, resamples: int = 2000, level: float = 0.95, seed: int = 0
) -> Interval:
    """Percentile interval of the mean of R paired differences (Efron and Tibshirani 1993, chapter 13).

    Each resample draws R requests with replacement; the interval lies between the (1 - level) / 2 and (1 + level) / 2
    quantiles of their means. The same seed and R draw the same requests. Without a difference, all three are NaN.

    Args:
        differences: [R] value of B minus value of A on the same request.
        resamples: how many times to draw.
        level: share of the resampled means that the interval holds.
        seed: of the draws.
    """
    count = len(differences)
    if not count:
        return Interval(mean=np.nan, low=np.nan, high=np.nan)
    rng, means = np.random.default_rng(seed), np.empty(resamples)
    for rows in np.array_split(np.arange(resamples), min(1 + resamples * count // _BLOCK, resamples)):
        means[rows] = differences[rng.integers(0, count, size=(len(rows), count))].mean(1)
    low, high = np.quantile(means, [(1 - level) / 2, (1 + level) / 2])
    return Interval(mean=float(differences.mean()), low=float(low), high=float(high))
