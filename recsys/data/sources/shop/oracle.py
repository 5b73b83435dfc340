"""Where the item that was bought stands for who knows the shop, wholly or with some sources hidden.

The oracle knows the causes, their strengths, every item's labels and popularity, every user's tastes and profile, the
moment and the last purchase. A hidden source takes away its labels or its state: `docs/shop.md` shows that the scores
below then are the Bayes order of what remains.
"""

from collections.abc import Collection, Iterator
from dataclasses import dataclass

import numpy as np

from recsys.data.sources.shop.causes import NO_CATEGORY, TERMS, Causes, profile_state
from recsys.data.sources.shop.visits import DEVICE_SHARES, HOUR_SHARES, PAGE_SHARES, Visits
from recsys.data.sources.shop.world import AGES, REGIONS, Floats, Ints, People, Stock

LABELS = {
    "text": {"brand", "wording"},
    "image": {"colour", "pattern", "picture"},
    "reviews": {"review"},
    "ads": {"ad"},
    "three_way": {"picture", "wording"},
}
"""Terms that are lost with a source that tells labels of items. The category is told by text and image alike."""
STATES = ("profile", "context", "sequence")
"""Sources that tell the state of the user or the moment: hidden, the oracle averages over it."""
SOURCES = ("text", "image", "profile", "context", "reviews", "ads", "sequence")
AT_HAND = ("image", "reviews", "ads")
"""Hidden for what the shop's configs read: text, columns, profile, context and history."""
_BLOCK = 256


@dataclass(frozen=True, kw_only=True)
class Questions:
    """Purchases that are to be foretold, as arrays over them."""

    user: Ints
    item: Ints
    moment: Ints  # row of `Causes.moment`
    week: Ints
    last: Ints  # category of the purchase before, NO_CATEGORY for none
    before: list[Ints]  # items that the user owns


def questions(visits: Visits, stock: Stock, *, back: int = 2) -> Questions:
    """The purchase of every user that is the `back`-th from the end: by the split `last`, 1 is test and 2 is valid."""
    rows = np.flatnonzero(visits.bought >= 0)
    user = visits.moments.user[rows]
    first, end = np.unique(user, return_index=True)[1], np.append(np.flatnonzero(np.diff(user)) + 1, len(user))
    asked = rows[end - back]
    before = [visits.bought[rows[start : stop - back]] for start, stop in zip(first, end, strict=True)]
    return Questions(
        user=visits.moments.user[asked],
        item=visits.bought[asked],
        moment=visits.moments.state[asked],
        week=visits.moments.week[asked],
        last=np.array([stock.category[items[-1]] if len(items) else NO_CATEGORY for items in before]),
        before=before,
    )


def oracle_ranks(stock: Stock, people: People, asked: Questions, hidden: Collection[str] = ()) -> Ints:
    """[R] place, from 0, of the item that was bought among those that the user does not own; equal scores by index.

    Args:
        stock, people: of the shop.
        asked: R purchases.
        hidden: names of `LABELS` and `STATES`. Exact for any number of either; where both are hidden, the sum of
            weights is taken as if the hidden labels were at their mean.
    """
    ranks = np.empty(len(asked.user), np.int64)
    for rows, score in oracle_scores(stock, people, asked, hidden):
        item = asked.item[rows]
        own = score[np.arange(len(rows)), item][:, None]
        ahead = (score > own) | ((score == own) & (np.arange(len(stock)) < item[:, None]))
        ranks[rows] = ahead.sum(axis=1)
    return ranks


def oracle_scores(
    stock: Stock, people: People, asked: Questions, hidden: Collection[str] = ()
) -> Iterator[tuple[Ints, Floats]]:
    """Blocks of (rows of the questions, [B, N] scores); negative for what is not in the list."""
    lost = set[str]().union(*(LABELS[name] for name in hidden if name in LABELS))
    causes = Causes.of(stock, [term for term in TERMS if term not in lost])
    for start in range(0, len(asked.user), _BLOCK):
        rows = np.arange(start, min(start + _BLOCK, len(asked.user)))
        score = _scores(causes, people, asked, rows, [name for name in STATES if name in hidden])
        for row, at in enumerate(rows):
            score[row, asked.before[at]] = -1
        score[:, stock.new] = -1
        yield rows, score


def _scores(causes: Causes, people: People, asked: Questions, rows: Ints, hidden: list[str]) -> Floats:
    """[B, N]: the weights, or, with hidden states, the sum over states of P(state) * weight / sum of weights."""
    users = asked.user[rows]
    weight = causes.taste(people, users) * causes.news[asked.week[rows]]
    for row, at in enumerate(rows):
        weight[row, asked.before[at]] = 0
    known = {
        "profile": (causes.profile, profile_state(people)[users]),
        "context": (causes.moment, asked.moment[rows]),
        "sequence": (causes.follow, asked.last[rows]),
    }
    chance, factor = np.ones((len(rows), 1)), np.ones((1, len(causes.stock)))
    for name, (table, state) in known.items():
        if name in hidden:
            prior = _prior(name, causes.stock, [asked.before[at] for at in rows])
            chance = (chance[:, :, None] * prior[:, None, :]).reshape(len(rows), -1)
            factor = (factor[:, None] * table[None]).reshape(-1, len(causes.stock))
        else:
            weight *= table[state]
    return weight * ((chance / (weight @ factor.T)) @ factor)


def _prior(name: str, stock: Stock, before: list[Ints]) -> Floats:
    """[B, states] probability of each state for who does not know it."""
    match name:
        case "profile":
            return np.full((len(before), AGES * REGIONS), 1 / (AGES * REGIONS))
        case "context":
            dayparts = HOUR_SHARES.reshape(4, 6).sum(axis=1)
            one = np.einsum("h,p,d->hpd", dayparts, PAGE_SHARES, DEVICE_SHARES).ravel()
            return np.tile(one, (len(before), 1))
        case _:  # any of the user's purchases may have been the last
            counts = np.array([np.bincount(stock.category[items], minlength=NO_CATEGORY + 1) for items in before])
            counts[counts.sum(axis=1) == 0, NO_CATEGORY] = 1
            return counts / counts.sum(axis=1, keepdims=True)
