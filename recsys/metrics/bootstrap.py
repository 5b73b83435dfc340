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


def resample_weights(count: int, *, resamples: int = 1000, seed: int = 0) -> NDArray[np.float32]:
    """[S, R] how often each of R requests is drawn in each resample: one set of draws for many measures at once."""
    rng = np.random.default_rng(seed)
    return np.stack([np.bincount(rng.integers(0, count, count), minlength=count) for _ in range(resamples)]).astype(
        "f4"
    )


def mean_interval(values: NDArray[np.float64], weights: NDArray[np.float32], level: float = 0.95) -> Interval:
    """Percentile interval of the mean of [R] values over the resamples [S, R]; NaN, no value, is left out."""
    return _percentiles(_means(values, weights), float(np.nanmean(values)), level)


def ratio_interval(
    values: NDArray[np.float64], base: NDArray[np.float64], weights: NDArray[np.float32], level: float = 0.95
) -> Interval:
    """Of mean(values) / mean(base) - 1 over the same requests, [R] each; NaN where the mean of the base is 0."""
    below = _means(base, weights)
    found = np.divide(_means(values, weights), below, out=np.full_like(below, np.nan), where=below > 0) - 1
    whole = float(np.nanmean(values) / np.nanmean(base) - 1) if np.nanmean(base) > 0 else np.nan
    return _percentiles(found, whole, level)


def centred_interval(point: float, resampled: NDArray[np.float64], level: float = 0.95) -> Interval:
    """Of a measure that a resample always sees too low or too high (coverage: fewer distinct requests show fewer
    items): the spread of the resampled values [S] about their own mean, laid about the point.
    """
    return _percentiles(resampled - resampled.mean() + point, point, level)


def _means(values: NDArray[np.float64], weights: NDArray[np.float32]) -> NDArray[np.float64]:
    known = ~np.isnan(values)
    totals = weights @ np.stack([np.where(known, values, 0), known], axis=1).astype(np.float64)  # [S, 2]
    return totals[:, 0] / np.maximum(totals[:, 1], 1)


def _percentiles(resampled: NDArray[np.float64], point: float, level: float) -> Interval:
    known = resampled[~np.isnan(resampled)]
    low, high = np.quantile(known, [(1 - level) / 2, (1 + level) / 2]) if len(known) else (np.nan, np.nan)
    return Interval(mean=point, low=float(low), high=float(high))
