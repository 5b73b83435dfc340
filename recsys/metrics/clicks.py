"""What clicks say of items, corrected for where and how often they were shown.

Letters: n impressions; K places of a list; N items. The position-based model: an item at rank k is clicked with chance
examination[k] * attraction, and examination[0], of the first place, is 1.
"""

from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from recsys.metrics.bootstrap import Interval

_STEPS, _ENOUGH = 500, 1e-6  # rounds of the fit, and the change of examination at which it ends
_NORMAL = 1.959963984540054  # 97.5 % of the normal distribution lie below


@dataclass(frozen=True, kw_only=True)
class Rate:
    """A click rate that was estimated from the lists of another policy."""

    interval: Interval
    """95 %, by the normal approximation."""
    variance: float
    """Of the estimate."""
    clipped: float
    """Share of the impressions whose weight was cut: where it is not 0 the estimate is too low by what was cut."""
    effective: float
    """Impressions of equal weight that would be as sure: (sum of w)^2 / sum of w^2."""


def fit_examination(items: np.ndarray, ranks: np.ndarray, clicked: np.ndarray, places: int) -> np.ndarray:
    """[K] chance that each place is looked at, relative to the first, by expectation maximisation.

    Position-based model (Craswell et al. 2008), with one attraction an item (Chuklin, Markov and de Rijke 2015, 4.3).
    It is identified by items that were shown at more than one rank; where what an item is worth to the user decides
    its rank, as in any list that is any good, it is not, and lists have to be shuffled in part.

    Args:
        items: [n] int64.
        ranks: [n] int64, from 0.
        clicked: [n] bool.
        places: K. A place that was never shown has NaN.
    """
    _, item = np.unique(items, return_inverse=True)
    shown = np.bincount(ranks, minlength=places).astype(np.float64)
    times = np.bincount(item)
    clicks = np.bincount(ranks, clicked, places), np.bincount(item, clicked)
    look, pull = np.full(places, 0.5), np.full(len(times), 0.5)
    for _ in range(_STEPS):
        missed = np.where(clicked, 0, 1 / np.maximum(1 - look[ranks] * pull[item], 1e-12))
        seen = look[ranks] * (1 - pull[item]) * missed  # looked at and not liked
        liked = (1 - look[ranks]) * pull[item] * missed  # not looked at, and would have been liked
        before = look / look[0]
        look = (clicks[0] + np.bincount(ranks, seen, places)) / np.maximum(shown, 1)
        pull = (clicks[1] + np.bincount(item, liked)) / times
        look, pull = np.clip(look, 1e-9, 1), np.clip(pull, 1e-9, 1)
        if np.abs(look / look[0] - before).max() < _ENOUGH:
            break
    return np.where(shown > 0, look / look[0], np.nan)


def examination_error(
    items: np.ndarray, ranks: np.ndarray, clicked: np.ndarray, lists: np.ndarray, places: int, *, resamples: int = 20,
    seed: int = 0,
) -> np.ndarray:  # fmt: skip
    """[K] standard error of `fit_examination`, by a bootstrap over whole lists (their numbers [n])."""
    rng, order = np.random.default_rng(seed), np.argsort(lists, kind="stable")
    ends = np.append(np.unique(lists[order], return_index=True)[1], len(order))
    each: list[np.ndarray] = [order[start:end] for start, end in pairwise(ends.tolist())]  # rows of each list
    fits: list[np.ndarray] = []
    for _ in range(resamples):
        drawn: list[int] = rng.integers(0, len(each), len(each)).tolist()
        rows = np.concatenate([each[at] for at in drawn])
        fits.append(fit_examination(items[rows], ranks[rows], clicked[rows], places))
    return np.std(np.stack(fits), axis=0, ddof=1)


def click_rate(
    clicked: np.ndarray, examined: np.ndarray, wanted: np.ndarray, logged: np.ndarray, *, clip: float = 20.0,
    error: np.ndarray | None = None,
) -> Rate:  # fmt: skip
    """Clicks for each look, had a place been filled by another policy than the one that was logged.

    Clipped inverse propensity scoring (Horvitz and Thompson 1952; Ionides 2008): the mean of click * min(w, clip), with
    w = wanted / (logged * examined). Unclipped it is without bias where logged > 0 wherever wanted > 0.

    Args:
        clicked: [n] bool, of independent impressions (one for each list, say).
        examined: [n] chance that the place was looked at.
        wanted: [n] probability with which the other policy would have shown this item here.
        logged: [n] probability with which it was shown.
        clip: greatest weight.
        error: [n] standard error of `examined`, all of one fit: adds to the variance as if it erred alike everywhere.
    """
    weight = wanted / (logged * examined)
    cut = np.minimum(weight, clip)
    values = clicked * cut
    count, mean = len(values), float(values.mean())
    variance = float(values.var(ddof=1)) / count
    if error is not None:
        variance += float((values * error / examined).mean()) ** 2
    half = _NORMAL * variance**0.5
    return Rate(
        interval=Interval(mean=mean, low=mean - half, high=mean + half), variance=variance,
        clipped=float((weight > clip).mean()), effective=float(cut.sum() ** 2 / (cut**2).sum()),
    )  # fmt: skip
