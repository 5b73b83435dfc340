"""The loop: a share of the places goes to items of which little is known, and what their clicks say comes back in.

Thompson sampling on each item's click rate when looked at: an item is drawn as often as it may be the best. Places are
drawn at random and the probability of what was drawn is logged, so that the rounds can be judged afterwards.
Letters: B lists, L places, M explorable candidates of a list, N items.
"""

from dataclasses import dataclass, replace
from typing import Self

import numpy as np

from recsys.errors import InputError


@dataclass(frozen=True, kw_only=True)
class ExploreConfig:
    """How much is explored."""

    budget: float = 0.1
    """Share of the places, 0 to 1, over all lists; 0: none."""
    first: int = 2
    """The first rank, from 1, that may be given away."""
    even: float = 0.2
    """Share of the explored places that is filled evenly from the candidates, above 0: without it what was never drawn
    cannot be judged."""
    draws: int = 64
    """Samples of the click rates for each place; the probability that is logged is a count among them."""
    clicks: float = 1.0
    """Of the prior, a beta distribution: clicks that are believed before any was seen."""
    misses: float = 4.0
    """Of the prior: looks without a click."""

    def __post_init__(self) -> None:
        if not 0 <= self.budget <= 1:
            raise InputError(f"explore.budget is {self.budget}; expected a share from 0 to 1.")
        if not 0 < self.even <= 1:
            raise InputError(f"explore.even is {self.even}; expected a share above 0, at most 1.")
        if min(self.first, self.draws) < 1 or min(self.clicks, self.misses) <= 0:
            raise InputError(f"explore: expected first and draws from 1, clicks and misses above 0; found {self}.")


@dataclass(frozen=True, kw_only=True)
class Beliefs:
    """What is known of each item's click rate when it is looked at: a beta distribution."""

    clicks: np.ndarray  # [N] float64, with the prior's
    misses: np.ndarray  # [N] float64, with the prior's

    @classmethod
    def before(cls, config: ExploreConfig, items: int) -> Self:
        """Nothing but the prior."""
        return cls(clicks=np.full(items, config.clicks), misses=np.full(items, config.misses))

    def learnt(self, items: np.ndarray, examined: np.ndarray, clicked: np.ndarray) -> Self:
        """After n more impressions: a place that is looked at half of the time counts as half a look."""
        size = len(self.clicks)
        clicks, looks = np.bincount(items, clicked, size), np.bincount(items, examined, size)
        return replace(self, clicks=self.clicks + clicks, misses=self.misses + np.maximum(looks - clicks, 0))

    @property
    def rate(self) -> np.ndarray:
        """[N] mean click rate."""
        return self.clicks / (self.clicks + self.misses)

    @property
    def spread(self) -> np.ndarray:
        """[N] standard deviation of the click rate."""
        total = self.clicks + self.misses
        return np.sqrt(self.clicks * self.misses / (total**2 * (total + 1)))


@dataclass(frozen=True, kw_only=True)
class Explored:
    """Lists with some places given away."""

    items: np.ndarray  # [B, L] int64
    propensity: np.ndarray  # [B, L] float64 of each item, given the places and what was drawn before; 1: not drawn
    choices: np.ndarray  # [B, L] int64 candidates that a place was drawn from, 0 where nothing was

    @property
    def drawn(self) -> np.ndarray:
        """[B, L] bool, the places that were given away."""
        return self.choices > 0


def explore(
    lists: np.ndarray, candidates: np.ndarray, fit: np.ndarray, beliefs: Beliefs, config: ExploreConfig,
    rng: np.random.Generator,
) -> Explored:  # fmt: skip
    """Give budget * B * L places away, as evenly over the lists as can be, to candidates that are not in the list.

    The item is the best of one sample of click rate * fit, or, in a share `even`, any candidate that is left. The
    samples are drawn first and the item is one of them: so its probability is a count, and exact.

    Args:
        lists: [B, L] int64, without padding.
        candidates: [B, M] int64 explorable items of each list, -1 padded, none of which stands in it.
        fit: [B, M] how well a candidate suits the request, above 0, on any scale.
        beliefs: of all items.
        config: how much.
        rng: of all draws.
    """
    found = Explored(items=lists.copy(), propensity=np.ones(lists.shape), choices=np.zeros(lists.shape, dtype=np.int64))
    left, count = candidates.copy(), int(config.budget * lists.size)
    while count > 0:
        able = np.flatnonzero((left >= 0).any(1) & ~found.drawn[:, config.first - 1 :].all(1))
        rows = np.sort(rng.permutation(able)[:count])
        if not len(rows):
            break
        _fill_one(found, rows, left, fit, beliefs, config, rng)
        count -= len(rows)
    return found


def _fill_one(
    found: Explored, rows: np.ndarray, left: np.ndarray, fit: np.ndarray, beliefs: Beliefs, config: ExploreConfig,
    rng: np.random.Generator,
) -> None:  # fmt: skip
    """Give away one place more of each of some lists; what is taken leaves the candidates."""
    here, some = np.arange(len(rows)), left[rows]
    there = some >= 0
    shares = _best_shares(some, fit[rows], beliefs, config.draws, rng)
    chance = (1 - config.even) * shares + config.even * there / there.sum(1, keepdims=True)
    total = chance.cumsum(1)
    taken = (total > rng.random((len(rows), 1)) * total[:, -1:]).argmax(1)
    luck = np.where(found.drawn[rows], -1.0, rng.random((len(rows), found.items.shape[1])))
    places = config.first - 1 + luck[:, config.first - 1 :].argmax(1)
    found.items[rows, places], found.propensity[rows, places] = some[here, taken], chance[here, taken]
    found.choices[rows, places] = there.sum(1)
    left[rows, taken] = -1


def _best_shares(
    candidates: np.ndarray, fit: np.ndarray, beliefs: Beliefs, draws: int, rng: np.random.Generator
) -> np.ndarray:
    """[B, M] share of the samples in which each candidate is the best."""
    index, counts = np.maximum(candidates, 0), np.zeros(candidates.shape)
    rows = np.arange(len(candidates))
    for _ in range(draws):
        rate = rng.beta(beliefs.clicks[index], beliefs.misses[index])
        counts[rows, np.where(candidates >= 0, rate * fit, -1).argmax(1)] += 1
    return counts / draws
