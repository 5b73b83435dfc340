"""Why a user buys an item: the planted causes, as factors of the item's weight.

A purchase at a moment takes item i, of those that the user does not own, with probability weight(i) / sum of weights,
weight = popularity * exp(sum of TERMS). Each cause is a table of factors over items, with one row for each state of
what it depends on: who knows the state takes its row, who does not averages over rows.
"""

from collections.abc import Collection
from dataclasses import dataclass

import numpy as np

from recsys.data.sources.shop.kinds import KINDS, NEXT
from recsys.data.sources.shop.world import (
    AGES,
    DAYPARTS,
    DEVICES,
    PAGES,
    REGIONS,
    Bools,
    Floats,
    Ints,
    People,
    Stock,
)

# fmt: off
TERMS = {
    "category": 3.8,  # one of the user's two loved categories, of 16
    "brand": 2.0,     # the one loved brand, of 12
    "colour": 1.4,    # one of two loved colours, of 10
    "pattern": 1.0,   # the one loved pattern, of 4
    "age": 1.2,       # the style appeals to the user's age group, of 4
    "region": 1.8,    # the item comes from the user's region, of 8
    "daypart": 1.1,   # the item is for this quarter of the day
    "page": 1.0,      # the item is on display on this page, of 4
    "picture": 1.5,   # on a phone: a good picture
    "wording": 1.5,   # at a desk: a careful description
    "review": 1.2,    # times the newest review's tone, -1, 0 or 1
    "ad": 1.8,        # an advertisement runs this week
    "follow": 3.2,    # the item's category follows that of the user's last purchase
}
# fmt: on
"""Every cause and its strength: what it adds to the log of the weight."""

NO_CATEGORY = len(KINDS)
"""State of the last purchase before the first one."""


def moment_state(daypart: Ints, page: Ints, device: Ints) -> Ints:
    """The state of a moment as one number, a row of `Causes.moment`."""
    return (daypart * len(PAGES) + page) * len(DEVICES) + device


def profile_state(people: People) -> Ints:
    """[U] age group and region as one number, a row of `Causes.profile`."""
    return people.generation * REGIONS + people.region


@dataclass(frozen=True, kw_only=True)
class Causes:
    """Factors of the weight, with the terms of `terms` alone; what a hidden term would add is left out."""

    stock: Stock
    terms: frozenset[str]
    profile: Floats  # [AGES * REGIONS, N]
    moment: Floats  # [DAYPARTS * PAGES * DEVICES, N]
    news: Floats  # [WEEKS, N]
    follow: Floats  # [C + 1, N] by the last purchase's category

    @classmethod
    def of(cls, stock: Stock, terms: Collection[str] = tuple(TERMS)) -> "Causes":
        """The factors of a shop's items."""
        force = {term: strength if term in terms else 0.0 for term, strength in TERMS.items()}
        age, region = (part.ravel() for part in np.indices((AGES, REGIONS)))
        part, page, device = (part.ravel() for part in np.indices((DAYPARTS, len(PAGES), len(DEVICES))))
        after = np.append(NEXT, -1)
        profile = force["age"] * (age[:, None] == stock.style) + force["region"] * (region[:, None] == stock.region)
        moment = force["daypart"] * (part[:, None] == stock.daypart) + force["page"] * (page[:, None] == stock.section)
        moment += force["picture"] * np.outer(device == DEVICES.index("phone"), stock.picture)
        moment += force["wording"] * np.outer(device == DEVICES.index("desktop"), stock.wording)
        return cls(
            stock=stock,
            terms=frozenset(terms),
            profile=np.exp(profile),
            moment=np.exp(moment),
            news=np.exp(force["review"] * stock.tone + force["ad"] * stock.pushed),
            follow=np.exp(force["follow"] * (after[:, None] == stock.category)),
        )

    def taste(self, people: People, users: Ints) -> Floats:
        """[B, N] popularity times the factors of these users' tastes."""
        stock = self.stock
        loves = {
            "category": (people.categories, stock.category),
            "brand": (people.brands, stock.brand),
            "colour": (people.colours, stock.colour),
            "pattern": (people.patterns, stock.pattern),
        }
        weight = np.tile(stock.popularity, (len(users), 1))
        for term, (loved, label) in loves.items():
            if term in self.terms:
                weight *= _factors(loved[users], TERMS[term])[:, label]
        return weight


def _factors(loved: Bools, strength: float) -> Floats:
    return np.where(loved, np.exp(strength), 1.0)
