"""The shop's users answer lists, as often as somebody shows them one: what closes the loop in a simulation."""

from dataclasses import dataclass, replace
from typing import Self

import numpy as np

from recsys.data.sources.shop.causes import NO_CATEGORY, Causes, moment_state, profile_state
from recsys.data.sources.shop.tables import POSITION_BIAS
from recsys.data.sources.shop.visits import DEVICE_SHARES, HOUR_SHARES, PAGE_SHARES, Visits
from recsys.data.sources.shop.world import DEVICES, PAGES, WEEKS, Bools, Floats, Ints, People, Stock

HALF = 5
"""Times the mean weight at which an item that is looked at is clicked half of the time."""


@dataclass(frozen=True, kw_only=True)
class Audience:
    """Everybody in the last week of the year, with what he owns.

    An item that nobody has met appeals as much as the middle one of the others, once somebody sees it.
    """

    causes: Causes
    people: People
    owned: Bools  # [U, N]
    last: Ints  # [U] category of the last purchase

    @classmethod
    def of(cls, stock: Stock, people: People, visits: Visits) -> Self:
        """After all visits of the year."""
        rows = np.flatnonzero(visits.bought >= 0)
        user, item = visits.moments.user[rows], visits.bought[rows]
        owned, last = np.zeros((len(people), len(stock)), dtype=np.bool_), np.full(len(people), NO_CATEGORY)
        owned[user, item] = True
        last[user] = stock.category[item]  # visits are in order of time: the last one stays
        appeal = np.where(stock.new, np.median(stock.popularity[~stock.new]), stock.popularity)
        return cls(causes=Causes.of(replace(stock, popularity=appeal)), people=people, owned=owned, last=last)

    def attractions(self, rng: np.random.Generator) -> Floats:
        """[U, N] chance of a click on each item that a user looks at, at a moment drawn for each: lift / (lift + 5), as
        in the shop's own impressions.
        """
        users = np.arange(len(self.people))
        hour = rng.choice(len(HOUR_SHARES), size=len(users), p=HOUR_SHARES)
        page = rng.choice(len(PAGES), size=len(users), p=PAGE_SHARES)
        device = rng.choice(len(DEVICES), size=len(users), p=DEVICE_SHARES)
        weight = self.causes.taste(self.people, users) * self.causes.profile[profile_state(self.people)]
        weight *= self.causes.moment[moment_state(hour // 6, page, device)]
        weight *= self.causes.news[WEEKS - 1] * self.causes.follow[self.last]
        lift = weight / weight.mean(axis=1, keepdims=True)
        return lift / (lift + HALF)


def answer(rng: np.random.Generator, attractions: Floats, lists: Ints) -> Bools:
    """[U, L] clicks on lists [U, L]: a place is looked at with probability rank^-0.8, and what is seen may be liked."""
    seen = np.arange(1, lists.shape[1] + 1) ** -POSITION_BIAS
    liked = np.take_along_axis(attractions, lists, 1)
    return rng.random(lists.shape) < seen * liked
