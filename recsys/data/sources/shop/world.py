"""What the shop is: its items, its customers, and what is said of the items week by week.

Every label of an item is drawn independently of its other labels, of its popularity and of all other items. This is
what makes the oracle exact (`docs/shop.md`).
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from recsys.data.sources.shop.kinds import KINDS, allowed
from recsys.data.sources.shop.words import Words

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]
Bools = npt.NDArray[np.bool_]

START, DAYS, DAY, HOUR = 1_704_067_200, 364, 86_400, 3_600  # the shop opens on Monday 2024-01-01 UTC; the rest seconds
WEEKS, CAMPAIGN = DAYS // 7, 4  # weeks of the year; weeks that an advertisement runs
ZIPF = 0.65  # exponent of the popularity
NEW_ITEMS = 0.05  # share of items that nobody has met yet
ADVERTISED = 0.2  # chance of an item to be advertised in a campaign
REVIEWED = 1 / 8  # chance of an item to get a review in a week
PAGES = ("home", "search", "category", "deals")
DEVICES = ("phone", "desktop", "tablet")
COLOURS = ((205, 40, 45), (45, 85, 190), (50, 140, 70), (235, 200, 50), (35, 35, 40), (250, 250, 245),
           (135, 140, 148), (240, 130, 30), (130, 70, 170), (120, 80, 50))  # fmt: skip
PATTERNS = ("plain", "striped", "dotted", "checked")
YOUNGEST = (16, 30, 45, 60, 80)
"""First year of age of each of the four groups, which are equally large, and the end of the last."""
AGES, REGIONS, DAYPARTS = len(YOUNGEST) - 1, 8, 4
LOVED = {"category": 2, "brand": 1, "colour": 2, "pattern": 1}
"""How many of each a user loves."""


@dataclass(frozen=True, kw_only=True)
class Stock:
    """The items, as arrays over items: labels as numbers from 0."""

    category: Ints  # [N] into KINDS
    attributes: Ints  # [N, 4] into Words.fields
    wording: Ints  # [N] 1: the description is written with care
    colour: Ints  # [N] into COLOURS; the picture alone shows it
    pattern: Ints  # [N] into PATTERNS; the picture alone shows it
    picture: Ints  # [N] 1: a good picture
    style: Ints  # [N] age group that it appeals to
    region: Ints  # [N] where it comes from
    daypart: Ints  # [N] quarter of the day that it is for
    section: Ints  # [N] into PAGES: where it is on display
    level: Floats  # [N] price level within its category, mean 0, about 1 wide; sways nobody
    popularity: Floats  # [N] weight, (place + 1)^-ZIPF; 0 for an item that nobody has met
    tone: npt.NDArray[np.int8]  # [WEEKS, N] the newest review warns (-1), says little (0) or praises (1)
    written: Bools  # [WEEKS, N] whether a review is written at the beginning of the week
    pushed: Bools  # [WEEKS, N] whether an advertisement runs

    def __len__(self) -> int:
        return len(self.category)

    @property
    def brand(self) -> Ints:
        return self.attributes[:, 0]

    @property
    def new(self) -> Bools:
        """[N] which items nobody has met."""
        return self.popularity == 0

    @property
    def price(self) -> Floats:
        usual = np.array([kind.price for kind in KINDS], np.float64)
        return (usual[self.category] * np.exp(0.4 * self.level)).round(2)


@dataclass(frozen=True, kw_only=True)
class People:
    """The users, as arrays over users."""

    age: Ints  # [U] years
    gender: Ints  # [U] into Words.genders; sways nothing
    region: Ints  # [U] into Words.regions
    categories: Bools  # [U, C] loved ones
    brands: Bools  # [U, B]
    colours: Bools  # [U, colours]
    patterns: Bools  # [U, patterns] the one loved

    def __len__(self) -> int:
        return len(self.age)

    @property
    def generation(self) -> Ints:
        """[U] age group."""
        return np.searchsorted(YOUNGEST, self.age, side="right") - 1


def draw_stock(rng: np.random.Generator, size: int, words: Words) -> Stock:
    """The items of a shop."""
    category = rng.integers(len(KINDS), size=size)
    choices = [allowed(kind) for kind in KINDS]
    said = [_some_of(rng, category, [one[field] for one in choices]) for field in range(3)]
    place = rng.permutation(size)
    new = rng.permutation(np.flatnonzero(place > 0))[: round(NEW_ITEMS * size)]
    written = rng.random((WEEKS, size)) < REVIEWED
    written[0] = True  # every item has been reviewed when the shop opens
    told = rng.integers(-1, 2, size=(WEEKS, size), dtype=np.int8)
    newest = np.maximum.accumulate(np.where(written, np.arange(WEEKS)[:, None], 0), axis=0)
    return Stock(
        category=category,
        attributes=np.stack([rng.integers(len(words.brands), size=size), *said], axis=1),
        wording=rng.integers(2, size=size),
        colour=rng.integers(len(COLOURS), size=size),
        pattern=rng.integers(len(PATTERNS), size=size),
        picture=rng.integers(2, size=size),
        style=rng.integers(AGES, size=size),
        region=rng.integers(REGIONS, size=size),
        daypart=rng.integers(DAYPARTS, size=size),
        section=rng.integers(len(PAGES), size=size),
        level=rng.normal(size=size),
        popularity=np.where(np.isin(np.arange(size), new), 0.0, (place + 1.0) ** -ZIPF),
        tone=np.take_along_axis(told, newest, axis=0),
        written=written,
        pushed=np.repeat(rng.random((WEEKS // CAMPAIGN, size)) < ADVERTISED, CAMPAIGN, axis=0),
    )


def _some_of(rng: np.random.Generator, category: Ints, choices: list[list[int]]) -> Ints:
    """For each item one of the words that its category allows, evenly."""
    luck = rng.random(len(category))
    return np.array([choices[c][int(p * len(choices[c]))] for c, p in zip(category, luck, strict=True)])


def draw_people(rng: np.random.Generator, count: int, words: Words) -> People:
    """The users of a shop."""
    generation = rng.integers(AGES, size=count)
    youngest, oldest = np.array(YOUNGEST[:-1]), np.array(YOUNGEST[1:])
    return People(
        age=rng.integers(youngest[generation], oldest[generation]),
        gender=rng.choice(len(words.genders), size=count, p=(0.49, 0.48, 0.03)),
        region=rng.integers(REGIONS, size=count),
        categories=_loves(rng, count, len(KINDS), LOVED["category"]),
        brands=_loves(rng, count, len(words.brands), LOVED["brand"]),
        colours=_loves(rng, count, len(COLOURS), LOVED["colour"]),
        patterns=_loves(rng, count, len(PATTERNS), LOVED["pattern"]),
    )


def _loves(rng: np.random.Generator, count: int, choices: int, loved: int) -> Bools:
    """[count, choices]: `loved` of the choices for each user, evenly."""
    return rng.random((count, choices)).argsort(axis=1, kind="stable").argsort(axis=1, kind="stable") < loved
