"""The shop's tables of items, users and what they do, as frames."""

import numpy as np
import polars as pl

from recsys.data.sources.shop.visits import PLACES, Moments, Visits
from recsys.data.sources.shop.words import FIELDS, Group, Words
from recsys.data.sources.shop.world import (
    CAMPAIGN,
    DAY,
    DAYS,
    DEVICES,
    PAGES,
    START,
    Bools,
    Ints,
    People,
    Stock,
)

CLICKED, CARTED = 0.3, 0.1  # shares of what is looked at
ADS_SEEN, AD_RATE = 400, 0.03  # median impressions and clicks per impression of an advertisement
POSITION_BIAS = 0.8  # a list's place is looked at with probability rank^-POSITION_BIAS


def ids(letter: str, count: int) -> np.ndarray:
    """Ids that sort as their numbers: i00000, i00001, ..."""
    width = max(5, len(str(count - 1)))
    return np.array([f"{letter}{n:0{width}d}" for n in range(count)])


def item_table(rng: np.random.Generator, stock: Stock, words: Words) -> pl.DataFrame:
    """Items."""
    size = len(stock)
    texts = [_texts(rng, words, stock, item) for item in range(size)]
    age = np.where(stock.new, -rng.integers(DAYS - 7, DAYS, size), rng.integers(1, 730, size))  # days at the opening
    names = ids("i", size)
    told = [[field[a][0] for field, a in zip(words.fields[1:], row[1:], strict=True)] for row in stock.attributes]
    return pl.DataFrame({
        "item_id": names,
        "title": [title for title, _ in texts],
        "description": [description for _, description in texts],
        "category": [words.nouns[c][0] for c in stock.category],
        "brand": [words.brands[b][0] for b in stock.brand],
        "price": stock.price,
        "attributes": told,
        "style": np.array(words.styles)[stock.style],
        "region": np.array(words.regions)[stock.region],
        "daypart": np.array(words.dayparts)[stock.daypart],
        "section": np.array(PAGES)[stock.section],
        "image": [f"images/{name}.png" for name in names],
        "stock": rng.integers(1, 200, size),
        "created_at": START - age * DAY,
    })  # fmt: skip


def _texts(rng: np.random.Generator, words: Words, stock: Stock, item: int) -> tuple[str, str]:
    """Title and description. Each picks its own synonyms; the title may leave the feature to the description."""
    title, told = ({"noun": say(rng, words.nouns[stock.category[item]]), **said(rng, words, stock, item)} for _ in "12")
    model = f"{any_of(rng, words.series)}{words.space}{rng.integers(2, 30)}"
    feature = [title["feature"]] if rng.random() < 0.8 else []
    template = any_of(rng, words.careful if stock.wording[item] else words.careless)
    return words.space.join([title["brand"], model, *feature, title["noun"]]), template.format(**told)


def said(rng: np.random.Generator, words: Words, stock: Stock, item: int) -> dict[str, str]:
    """A word for each attribute of an item."""
    labels = zip(FIELDS, words.fields, stock.attributes[item], strict=True)
    return {name: say(rng, field[label]) for name, field, label in labels}


def say(rng: np.random.Generator, group: Group) -> str:
    """The canonical word six times in ten or more, else any of the group."""
    return group[0] if rng.random() < 0.6 else any_of(rng, group)


def any_of(rng: np.random.Generator, group: Group) -> str:
    """One of the group, evenly."""
    return group[rng.integers(len(group))]


def user_table(rng: np.random.Generator, people: People, words: Words) -> pl.DataFrame:
    """Users. They say two of the categories that they love."""
    luck = np.where(people.categories, rng.random(people.categories.shape), 2.0)
    nouns = np.array([group[0] for group in words.nouns])
    return pl.DataFrame({
        "user_id": ids("u", len(people)),
        "age": people.age,
        "gender": np.array(words.genders)[people.gender],
        "region": np.array(words.regions)[people.region],
        "interests": nouns[np.sort(luck.argsort(axis=1, kind="stable")[:, :2])].tolist(),
    })  # fmt: skip


def interaction_table(rng: np.random.Generator, visits: Visits, *, items: int, users: int) -> pl.DataFrame:
    """A purchase at a visit's end; before it a view, sometimes a click, sometimes a cart, of the item looked at."""
    size, looked = len(visits.moments), visits.looked >= 0
    lead = rng.integers(240, 481, size)  # seconds from the view to the end of the visit
    clicked, carted = rng.random(size) < CLICKED, rng.random(size) < CARTED
    parts = [
        _events(visits.moments, "view", visits.looked, looked, lead),
        _events(visits.moments, "click", visits.looked, looked & clicked, lead - rng.integers(10, 61, size)),
        _events(visits.moments, "cart", visits.looked, looked & carted, lead - rng.integers(70, 121, size)),
        _events(visits.moments, "purchase", visits.bought, visits.bought >= 0, np.zeros_like(lead)),
    ]
    rows = pl.concat(parts).sort("timestamp", "user_id", maintain_order=True)
    user, item = (rows[column].to_numpy() for column in ("user_id", "item_id"))
    return rows.with_columns(
        user_id=pl.Series(ids("u", users)[user]),
        item_id=pl.Series(ids("i", items)[item]),
        page=pl.Series(np.array(PAGES)[rows["page"].to_numpy()]),
        device=pl.Series(np.array(DEVICES)[rows["device"].to_numpy()]),
    )


def _events(moments: Moments, event: str, item: Ints, happened: Bools, ahead: Ints) -> pl.DataFrame:
    """The visits where the event happened, `ahead` seconds before their end."""
    return pl.DataFrame({
        "user_id": moments.user,
        "item_id": item,
        "timestamp": moments.time - ahead,
        "event": event,
        "page": moments.page,
        "device": moments.device,
        "hour": moments.hour,
    }).filter(pl.Series(happened))  # fmt: skip


def review_table(rng: np.random.Generator, stock: Stock, words: Words, visits: Visits, *, users: int) -> pl.DataFrame:
    """Reviews: of the first week before the opening, later ones on Mondays before the first visit."""
    week, item = np.nonzero(stock.written & ~stock.new)
    early = START - rng.integers(1, 60 * DAY, len(week))
    time = np.where(week == 0, early, START + 7 * DAY * week + rng.integers(0, 100, len(week)))
    tone = stock.tone[week, item]
    texts = [
        any_of(rng, words.reviews[int(t)]).format(noun=say(rng, words.nouns[stock.category[i]]))
        for t, i in zip(tone, item, strict=True)
    ]
    author = _authors(rng, visits, item, time, users)
    return pl.DataFrame({
        "item_id": ids("i", len(stock))[item],
        "user_id": ids("u", users)[author],
        "text": texts,
        "rating": 3 + tone * rng.integers(1, 3, len(week)),
        "timestamp": time,
    }).sort("timestamp", "item_id")  # fmt: skip


def _authors(rng: np.random.Generator, visits: Visits, item: Ints, time: Ints, users: int) -> Ints:
    """For each review one of those who have bought the item before; who reviews what nobody has bought got it free."""
    rows = np.flatnonzero(visits.bought >= 0)
    rows = rows[np.lexsort((visits.moments.time[rows], visits.bought[rows]))]
    key = visits.bought[rows] * (1 << 40) + visits.moments.time[rows]
    first, end = np.searchsorted(key, item * (1 << 40)), np.searchsorted(key, item * (1 << 40) + time)
    chosen = first + (rng.random(len(item)) * (end - first)).astype(np.int64)
    buyer = visits.moments.user[rows[np.minimum(chosen, len(rows) - 1)]]
    return np.where(end > first, buyer, rng.integers(users, size=len(item)))


def ad_table(rng: np.random.Generator, stock: Stock, words: Words) -> pl.DataFrame:
    """Advertisements: one row an item and campaign; clicks are binomial around the item's own rate."""
    rate = np.minimum(AD_RATE * np.exp(0.5 * rng.normal(size=len(stock))), 1.0)
    campaign, item = np.nonzero(stock.pushed[::CAMPAIGN] & ~stock.new)
    shown = np.ceil(ADS_SEEN * np.exp(0.5 * rng.normal(size=len(item)))).astype(np.int64)
    texts = [
        any_of(rng, words.ads).format(brand=words.brands[stock.brand[i]][0], noun=words.nouns[stock.category[i]][0])
        for i in item
    ]
    return pl.DataFrame({
        "item_id": ids("i", len(stock))[item],
        "text": texts,
        "timestamp": START + 7 * DAY * CAMPAIGN * campaign,
        "impressions": shown,
        "clicks": rng.binomial(shown, rate[item]),
    })  # fmt: skip


def impression_table(rng: np.random.Generator, visits: Visits, *, items: int, users: int) -> pl.DataFrame:
    """Lists that were shown, a row for each place. A place is looked at by its rank, and clicked by the item's lift."""
    rows = np.flatnonzero(visits.listed[:, 0] >= 0)
    rank = np.tile(np.arange(1, PLACES + 1), len(rows))
    lift = visits.lift[rows].ravel()
    chance = rank**-POSITION_BIAS * lift / (lift + 5)  # HALF in `answers`
    time = visits.moments.time[rows] - rng.integers(481, 500, len(rows))
    table = {
        "user_id": ids("u", users)[visits.moments.user[rows]].repeat(PLACES),
        "list_id": ids("l", max(len(rows), 1))[: len(rows)].repeat(PLACES),
        "item_id": ids("i", items)[visits.listed[rows].ravel()],
        "rank": rank,
        "propensity": visits.propensity[rows].ravel(),
        "clicked": rng.random(len(rank)) < chance,
        "timestamp": time.repeat(PLACES),
        "page": np.array(PAGES)[visits.moments.page[rows]].repeat(PLACES),
        "device": np.array(DEVICES)[visits.moments.device[rows]].repeat(PLACES),
    }
    return pl.DataFrame(table).sort("timestamp", "list_id", "rank")
