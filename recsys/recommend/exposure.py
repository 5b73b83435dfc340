"""Exposure targets over a whole run: each group gets at least its share of all places, at the least loss of chance.

One running price a group is added to the chance of its items, and every list takes the best of the sums. A group that
lacks places bids until it has exactly as many as it should; others that lose by it bid again. What no bid settles
(groups that fight for the same lists, or quotas that cannot all be met) is settled by shortest augmenting paths.
Letters: R lists of the run, K candidates, L places, G groups. A candidate belongs to one group.
"""

from dataclasses import dataclass, field
from itertools import pairwise

import numpy as np

from recsys.errors import InputError

POPULARITY = "popularity"
"""Groups of `recsys.metrics.long_tail.SEGMENTS`."""
BAND = ", band "
"""Between the name of a group that is cut into bands and the number of the band."""


@dataclass(frozen=True, kw_only=True)
class ExposureConfig:
    """Least shares of the places of all lists of a run. No share above 0: no change."""

    by: str = POPULARITY
    """popularity (groups head, torso, tail, unseen), or one of data.items.category with one value an item, such as
    brand or seller."""
    least: dict[str, float] = field(default_factory=dict)
    """Share of all places that a group gets at least, 0 to 1."""
    each: float = 0.0
    """Share that every group gets at least which `least` does not name."""
    bands: int = 1
    """By popularity: the tail is cut into so many groups of equally many items, and its share is dealt out evenly among
    them, so that not the most popular of the tail have all of it."""

    def __post_init__(self) -> None:
        wrong = [f"{name}: {share}" for name, share in self.least.items() if not 0 <= share <= 1]
        if wrong or not 0 <= self.each <= 1:
            found = wrong[0] if wrong else f"each: {self.each}"
            raise InputError(f"rerank.exposure has {found}; expected shares from 0 to 1.")
        if self.bands < 1 or (self.bands > 1 and self.by != POPULARITY):
            raise InputError(f"rerank.exposure.bands is {self.bands} with by {self.by}; expected 1, or popularity.")
        if sum(self.least.values()) > 1 + 1e-9:
            raise InputError(f"rerank.exposure.least adds up to {sum(self.least.values()):g}; expected at most 1.")

    def quotas(self, names: list[str], places: int) -> np.ndarray:
        """[G] int64 places of each group, rounded up. Raises InputError for a group that there is not, or too much."""
        whole = [name.partition(BAND)[0] for name in names]
        unknown = [name for name in self.least if name not in whole]
        if unknown:
            known = ", ".join(dict.fromkeys(whole[:20]))
            raise InputError(f"rerank.exposure.least names {unknown[0]!r}; the groups of {self.by} are {known}.")
        shares = np.array([self.least.get(name, self.each) / whole.count(name) for name in whole])
        if shares.sum() > 1 + 1e-9:
            raise InputError(f"rerank.exposure asks for {shares.sum():g} of all places; expected at most 1.")
        return np.ceil(shares * places - 1e-9).astype(np.int64)


@dataclass(frozen=True, kw_only=True)
class Exposure:
    """Lists in which the groups have their places."""

    chosen: np.ndarray  # [R, K] bool, min(L, candidates of the row) in each row
    prices: np.ndarray  # [G] float64, what a place of the group costs in chance; 0 where nothing was asked or lacking
    counts: np.ndarray  # [G] int64 places of each group
    missing: np.ndarray  # [G] int64 places that no choice could give


def solve(chance: np.ndarray, groups: np.ndarray, places: int, quotas: np.ndarray) -> Exposure:
    """The lists of the greatest sum of chances among those that give each group its quota.

    Exact: a quota is missed only if no choice meets all of them, and then by as few places as can be. (An auction for
    the dual prices, Demange, Gale and Sotomayor 1986, then successive shortest paths over the groups.) Equal sums go by
    row and column. Without a quota it is the first L columns.

    Args:
        chance: [R, K] float64, never rising along a row.
        groups: [R, K] int64, 0..G-1, -1 at padding, which ends a row.
        places: L.
        quotas: [G] int64.
    """
    state = _State(chance, groups, places, len(quotas))
    _auction(state, quotas)
    while _augment(state, quotas):
        pass
    missing = np.maximum(quotas - state.counts(), 0)
    return Exposure(chosen=state.chosen, prices=state.prices, counts=state.counts(), missing=missing)


def priced_order(chance: np.ndarray, groups: np.ndarray, places: int, prices: np.ndarray) -> np.ndarray:
    """[B, P] columns of the lists that the prices of a run make, in their order: for requests that came later."""
    width = min(places, chance.shape[1])
    value = np.where(groups >= 0, chance + np.append(prices, 0)[groups], -np.inf)
    return np.sort(np.argsort(-value, axis=1, kind="stable")[:, :width], axis=1)


class _State:
    """The choice at a moment: the best L of each row by chance + price of the group."""

    def __init__(self, chance: np.ndarray, groups: np.ndarray, places: int, size: int) -> None:
        self.chance, self.groups, self.size = chance, groups, size
        self.prices = np.zeros(size)
        self.chosen = (groups >= 0) & (np.arange(chance.shape[1]) < places)
        held = np.sort(np.where(self.chosen, np.arange(chance.shape[1]), -1), axis=1)[:, ::-1]
        self.held = held[:, :places].copy()  # [R, L] columns that are chosen, -1 where a row is short

    def counts(self) -> np.ndarray:
        """[G] places of each group."""
        return np.bincount(self.groups[self.chosen], minlength=self.size)

    def held_values(self) -> tuple[np.ndarray, np.ndarray]:
        """Groups [R, L], -1 where a row is short, and values [R, L] with the price of what is chosen."""
        groups = np.where(self.held >= 0, np.take_along_axis(self.groups, np.maximum(self.held, 0), 1), -1)
        value = np.take_along_axis(self.chance, np.maximum(self.held, 0), 1)
        return groups, value + np.append(self.prices, 0)[groups]

    def swap(self, rows: np.ndarray, out: np.ndarray, into: np.ndarray) -> None:
        """In each of the rows, the place in `held` that is given up, and the column that gets it."""
        self.chosen[rows, self.held[rows, out]] = False
        self.chosen[rows, into], self.held[rows, out] = True, into


def _auction(state: _State, quotas: np.ndarray) -> None:
    """Groups that lack places bid in turn, for as long as a round of bids leaves less lacking than the one before.

    No price passes what the best chance could be worth on a path of swaps: a group with a higher one is past help.
    """
    limit = state.size * float(np.ptp(state.chance[state.groups >= 0])) if state.chosen.any() else 0.0
    least, idle = np.inf, 0
    while idle <= state.size:
        lacking = np.maximum(quotas - state.counts(), 0)
        lacking[state.prices > limit] = 0
        if not lacking.any():
            return
        least, idle = (lacking.sum(), 0) if lacking.sum() < least else (least, idle + 1)
        group = int(lacking.argmax())
        if not _bid(state, group, int(lacking.max())):
            state.prices[group] = 2 * limit  # it has all that it can have


def _bid(state: _State, group: int, lacking: int) -> bool:
    """Raise a group's price until it has so many places more; False where there are not as many to have."""
    rows, columns, nth = _spare(state, group)
    held, value = state.held_values()
    value[(held == group) | (held < 0)] = np.inf
    order = np.argsort(value, axis=1, kind="stable")
    needs = np.take_along_axis(value, order, 1)[rows, nth] - state.chance[rows, columns] - state.prices[group]
    best = np.argsort(needs, kind="stable")[:lacking]  # the n-th of a row never stands before the one ahead of it
    best = best[needs[best] < np.inf]
    if len(best):
        state.swap(rows[best], order[rows[best], nth[best]], columns[best])
        state.prices[group] += max(float(needs[best[-1]]), 0.0)
    return len(best) == lacking


def _spare(state: _State, group: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Candidates of a group that are not chosen, at most L a row, the best first: rows, columns, number in the row."""
    rows, columns = np.nonzero((state.groups == group) & ~state.chosen)
    first = np.searchsorted(rows, rows)
    nth = np.arange(len(rows)) - first
    some = nth < state.held.shape[1]
    return rows[some], columns[some], nth[some]


def _augment(state: _State, quotas: np.ndarray) -> bool:
    """One place from a group with too many to one with too few, by the cheapest chain of swaps; False: there is none.

    Prices rise by the distances, as in the successive shortest path algorithm for flows, so that they stay right.
    """
    spare = state.counts() - quotas
    if not (spare < 0).any():
        return False
    cost, row = _exchange(state)
    away, before = _shortest(cost, spare > 0)
    dearer = away - state.prices  # than now
    goal = int(np.where(spare < 0, dearer, np.inf).argmin())
    if not np.isfinite(away[goal]) or spare[goal] >= 0:
        return False
    chain = [goal]
    while before[chain[-1]] >= 0:
        chain.append(int(before[chain[-1]]))
    for taken, gives in pairwise(chain):
        _exchange_one(state, int(row[gives, taken]), gives, taken)
    state.prices = state.prices + np.minimum(dearer, dearer[goal])
    return True


def _exchange(state: _State) -> tuple[np.ndarray, np.ndarray]:
    """[G, G] least chance that a place of g costs when it goes to h, and the row where that is."""
    low = np.full((len(state.chance), state.size), np.inf)  # the worst that is chosen of each group
    best = np.full(low.shape, -np.inf)  # the best that is not
    for values, (rows, columns) in ((low, np.nonzero(state.chosen)), (best, _reversed(state))):
        values[rows, state.groups[rows, columns]] = state.chance[rows, columns]  # where it repeats, the last one stays
    cost, row = np.full((state.size, state.size), np.inf), np.zeros((state.size, state.size), dtype=np.int64)
    for group in range(state.size):
        loss = low[:, [group]] - best  # [R, G]
        row[group] = loss.argmin(0)
        cost[group] = loss[row[group], np.arange(state.size)]
    np.fill_diagonal(cost, np.inf)
    return cost, row


def _reversed(state: _State) -> tuple[np.ndarray, np.ndarray]:
    """Rows and columns of what is not chosen, the best last."""
    rows, columns = np.nonzero((state.groups >= 0) & ~state.chosen)
    return rows[::-1], columns[::-1]


def _shortest(cost: np.ndarray, sources: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Distances [G] from the nearest source, and the group before each (-1 at a source), by Bellman and Ford."""
    away, before = np.where(sources, 0.0, np.inf), np.full(len(cost), -1)
    for _ in range(len(cost) - 1):
        through = away[:, None] + cost
        last = through.argmin(0)
        shorter = through[last, np.arange(len(cost))] < away - 1e-12
        if not shorter.any():
            break
        away = np.where(shorter, through[last, np.arange(len(cost))], away)
        before = np.where(shorter, last, before)
    return away, before


def _exchange_one(state: _State, row: int, gives: int, takes: int) -> None:
    """In one row, the worst chosen of one group makes room for the best of another that is not."""
    held = state.groups[row, state.held[row]]
    mine = np.flatnonzero((held == gives) & (state.held[row] >= 0))
    out = mine[state.held[row, mine].argmax()]
    into = np.flatnonzero((state.groups[row] == takes) & ~state.chosen[row])[0]
    state.swap(np.array([row]), np.array([out]), np.array([into]))
