"""What users do: when they come, what they look at, what they buy, all drawn from the weights of `causes`."""

from dataclasses import dataclass

import numpy as np

from recsys.data.sources.shop.causes import NO_CATEGORY, Causes, moment_state, profile_state
from recsys.data.sources.shop.world import DAY, DAYS, DEVICES, HOUR, PAGES, START, Bools, Floats, Ints, People

BOUGHT = 0.85  # probability that a visit ends in a purchase
LOOKED = 0.35  # probability that another item is looked at in a visit that ends in a purchase; in every other it is
LISTED = 0.1  # share of visits in which a list is shown
PLACES = 10  # items of such a list
PAGE_SHARES = np.array([0.3, 0.3, 0.2, 0.2])
DEVICE_SHARES = np.array([0.5, 0.4, 0.1])
HOUR_WEIGHTS = np.array([2, 1, 1, 1, 1, 2, 4, 6, 7, 7, 7, 8, 9, 8, 7, 7, 7, 8, 10, 12, 13, 12, 8, 4], float)
HOUR_SHARES = HOUR_WEIGHTS / HOUR_WEIGHTS.sum()
_BLOCK = 512  # users at one time, to keep memory small as the shop grows


@dataclass(frozen=True, kw_only=True)
class Moments:
    """The visits' moments, in order of user and time, as arrays over visits."""

    user: Ints
    time: Ints  # seconds since 1970, UTC, of the visit's end
    page: Ints  # into PAGES
    device: Ints  # into DEVICES

    def __len__(self) -> int:
        return len(self.user)

    @property
    def hour(self) -> Ints:
        return self.time // HOUR % 24

    @property
    def week(self) -> Ints:
        return (self.time - START) // (7 * DAY)

    @property
    def state(self) -> Ints:
        """Row of `Causes.moment`."""
        return moment_state(self.hour // 6, self.page, self.device)


@dataclass(frozen=True, kw_only=True)
class Visits:
    """What came of the visits, as arrays over visits."""

    moments: Moments
    bought: Ints  # the item, -1 for none
    looked: Ints  # another draw from the same weights, -1 for none
    listed: Ints  # [V, PLACES] the list that was shown, -1 for none
    propensity: Floats  # [V, PLACES] probability of the item at its place, given those above it
    lift: Floats  # [V, PLACES] the listed item's weight over the mean weight


def draw_moments(rng: np.random.Generator, *, users: int, items: int) -> Moments:
    """When and where everybody comes: on 8 to 60 days of the year, once a day, but too few to buy half of all."""
    count = np.clip(rng.lognormal(3.3, 0.35, users), 8, min(60, items // 2)).astype(np.int64)  # [U] about 28
    order = rng.random((users, DAYS)).argsort(axis=1, kind="stable").argsort(axis=1, kind="stable")
    user, day = np.nonzero(order < count[:, None])
    hour = rng.choice(24, size=len(user), p=HOUR_SHARES)
    # A visit ends 10 to 59 minutes past the hour, so that all that happens in it falls into the same hour.
    time = START + day * DAY + hour * HOUR + rng.integers(600, HOUR, len(user))
    page = rng.choice(len(PAGES), size=len(user), p=PAGE_SHARES)
    device = rng.choice(len(DEVICES), size=len(user), p=DEVICE_SHARES)
    return Moments(user=user, time=time, page=page, device=device)


@dataclass(frozen=True, kw_only=True)
class _Fate:
    """What chance has decided of the visits before any item is chosen, as arrays over visits."""

    buys: Bools
    looks: Bools
    lists: Bools
    luck: Floats  # [V, 2] in [0, 1), for what is bought and what is looked at

    @classmethod
    def draw(cls, rng: np.random.Generator, moments: Moments) -> "_Fate":
        size = len(moments)
        first = np.searchsorted(moments.user, moments.user)
        # The first three visits end in a purchase for certain: train, valid and test each need one of every user.
        buys = (rng.random(size) < BOUGHT) | (np.arange(size) - first < 3)
        looks = (rng.random(size) < LOOKED) | ~buys
        return cls(buys=buys, looks=looks, lists=rng.random(size) < LISTED, luck=rng.random((size, 2)))


def draw_visits(rng: np.random.Generator, causes: Causes, people: People, moments: Moments) -> Visits:
    """What is bought and looked at. Users go in blocks, to keep memory small as the shop grows."""
    size = len(moments)
    made = Visits(
        moments=moments,
        bought=np.full(size, -1),
        looked=np.full(size, -1),
        listed=np.full((size, PLACES), -1),
        propensity=np.zeros((size, PLACES)),
        lift=np.zeros((size, PLACES)),
    )
    fate = _Fate.draw(rng, moments)
    for users in np.array_split(np.arange(len(people)), -(-len(people) // _BLOCK)):
        _walk(rng, causes, people, users, fate, made)
    return made


def _walk(rng: np.random.Generator, causes: Causes, people: People, users: Ints, fate: _Fate, made: Visits) -> None:
    """The visits of some users, all of them one visit further at each step: what is owned is not bought again."""
    moments, state, week = made.moments, made.moments.state, made.moments.week
    free = causes.taste(people, users) * causes.profile[profile_state(people)[users]]  # [B, N]; 0 once it is owned
    last = np.full(len(users), NO_CATEGORY)
    first, end = (np.searchsorted(moments.user, users, side=side) for side in ("left", "right"))
    for step in range((end - first).max()):
        who = np.flatnonzero(first + step < end)
        row = first[who] + step
        weight = free[who] * causes.moment[state[row]]
        weight *= causes.news[week[row]]
        weight *= causes.follow[last[who]]
        total = weight.cumsum(axis=1)
        bought = pick(total, fate.luck[row, 0])
        made.bought[row] = np.where(fate.buys[row], bought, -1)
        made.looked[row] = np.where(fate.looks[row], pick(total, fate.luck[row, 1]), -1)
        _show(rng, causes, made, row[fate.lists[row]], weight[fate.lists[row]])
        buyer, item = who[fate.buys[row]], bought[fate.buys[row]]
        free[buyer, item] = 0
        last[buyer] = causes.stock.category[item]


def pick(total: Floats, luck: Floats) -> Ints:
    """[B] one column of each row with probability weight / sum of weights.

    Args:
        total: [B, N] running sums of the weights.
        luck: [B] in [0, 1).
    """
    sought = luck * total[:, -1]
    return np.array([row.searchsorted(value, side="right") for row, value in zip(total, sought, strict=True)], np.int64)


def _show(rng: np.random.Generator, causes: Causes, made: Visits, row: Ints, weight: Floats) -> None:
    """Lists of a policy that likes popular items: each place is drawn with probability popularity^0.7 of what is left,
    whatever the user owns."""
    liking = causes.stock.popularity**0.7
    left = np.tile(liking, (len(row), 1))
    here = np.arange(len(row))
    for place in range(PLACES):
        total = left.cumsum(axis=1)
        item = pick(total, rng.random(len(row)))
        made.listed[row, place] = item
        made.propensity[row, place] = left[here, item] / total[:, -1]
        made.lift[row, place] = weight[here, item] / weight.mean(axis=1)
        left[here, item] = 0
