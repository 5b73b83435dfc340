"""The demo shop: a small catalogue, its customers, their visits and their searches, all drawn from one seed.

Unlike a log of real sales, every cause is planted and can be learnt: each user's taste for categories and brands, a
price level that rises with age, regions that lean to some categories, the hour, page and device of a visit, and above
all order: a purchase is often followed by the accessory that goes with it, of the same brand (`docs/shop.md`).
"""

import io
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import numpy.typing as npt
import polars as pl

from recsys.errors import InputError

if TYPE_CHECKING:
    from PIL import ImageDraw

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]
Bools = npt.NDArray[np.bool_]
Groups = tuple[tuple[str, ...], ...]

FOLLOW_UP = 0.35  # probability that a visit after a purchase goes to the category that follows it
SAME_BRAND = 2.5  # logit gained by an accessory of the brand it goes with
BOUGHT = 0.65  # probability that a visit ends in a purchase
NEW_ITEMS = 0.05  # share of items that nobody has met yet
SMALLEST = 50  # items; with fewer, some categories would be sold out or empty
START, DAYS, DAY, HOUR = 1_704_067_200, 364, 86_400, 3_600  # the shop opens on 2024-01-01 UTC; the rest in seconds
PICTURE = 64  # pixels, width and height


class _Kind(NamedTuple):
    """A category: its names (the first is the canonical one), what its items can be, and what is bought after it."""

    nouns: str
    price: float
    next: str
    materials: str
    features: str
    uses: str
    shape: tuple[tuple[str, int, int, int, int], ...]


# fmt: off
KINDS = (
    _Kind("phone,smartphone,mobile", 420, "phone case", "glass,aluminium,plastic",
          "waterproof,compact,fast,durable", "travel,office,school,gifts",
          (("box", 21, 6, 43, 58),)),
    _Kind("phone case,phone cover,phone sleeve", 18, "charger", "leather,silicone,plastic,bamboo",
          "waterproof,padded,light,durable", "travel,office,hiking,gifts",
          (("box", 17, 6, 47, 58), ("oval", 12, 10, 26, 24))),
    _Kind("charger,power adapter,power supply", 25, "headphones", "plastic,aluminium",
          "fast,compact,wireless,foldable", "travel,office,home,school",
          (("box", 16, 26, 48, 58), ("box", 22, 8, 27, 28), ("box", 37, 8, 42, 28))),
    _Kind("headphones,headset,earphones", 85, "phone", "leather,plastic,aluminium",
          "wireless,quiet,foldable,padded", "travel,office,running,home",
          (("ring", 12, 10, 52, 56), ("box", 6, 32, 20, 56), ("box", 44, 32, 58, 56))),
    _Kind("laptop,notebook,computer", 900, "backpack", "aluminium,plastic",
          "light,quiet,fast,durable", "office,school,travel,home",
          (("box", 12, 10, 52, 42), ("box", 4, 44, 60, 52))),
    _Kind("backpack,rucksack,daypack", 70, "water bottle", "nylon,leather,cotton",
          "waterproof,light,padded,foldable", "travel,hiking,school,office",
          (("ring", 24, 4, 40, 20), ("box", 14, 12, 50, 58), ("box", 8, 34, 56, 52))),
    _Kind("water bottle,drinking flask,canteen", 22, "backpack", "steel,glass,plastic",
          "insulated,light,durable,compact", "hiking,running,office,camping",
          (("box", 22, 18, 42, 60), ("box", 28, 4, 36, 20))),
    _Kind("tent,shelter,dome", 180, "sleeping bag", "nylon,cotton,polyester",
          "waterproof,light,breathable,durable", "camping,hiking,travel,winter",
          (("roof", 4, 10, 60, 54),)),
    _Kind("sleeping bag,sleep sack,bedroll", 95, "lamp", "nylon,cotton,polyester,wool",
          "insulated,light,compact,breathable", "camping,hiking,winter,travel",
          (("oval", 18, 2, 46, 34), ("box", 20, 16, 44, 62))),
    _Kind("lamp,lantern,light", 35, "mug", "steel,glass,bamboo,aluminium",
          "foldable,wireless,durable,compact", "camping,home,office,school",
          (("roof", 12, 6, 52, 34), ("box", 29, 30, 35, 54), ("oval", 18, 50, 46, 60))),
    _Kind("running shoes,sneakers,trainers", 110, "socks", "leather,nylon,cotton,polyester",
          "breathable,padded,light,waterproof", "running,hiking,school,travel",
          (("roof", 4, 14, 40, 54), ("oval", 20, 34, 62, 56))),
    _Kind("socks,stockings,anklets", 12, "jacket", "wool,cotton,nylon",
          "breathable,padded,insulated,durable", "running,hiking,winter,gifts",
          (("box", 20, 4, 38, 46), ("oval", 20, 36, 56, 58))),
    _Kind("jacket,coat,parka", 150, "scarf", "leather,wool,nylon,polyester",
          "waterproof,insulated,breathable,light", "winter,hiking,travel,running",
          (("box", 18, 8, 46, 58), ("box", 6, 12, 16, 48), ("box", 48, 12, 58, 48))),
    _Kind("scarf,shawl,neck wrap", 28, "running shoes", "wool,cotton,polyester",
          "insulated,light,breathable,compact", "winter,gifts,office,travel",
          (("ring", 14, 4, 50, 30), ("box", 24, 24, 36, 62))),
    _Kind("coffee machine,coffee maker,espresso brewer", 240, "mug", "steel,plastic,glass",
          "fast,quiet,compact,durable", "home,office,gifts,camping",
          (("box", 12, 6, 52, 20), ("box", 12, 6, 26, 58), ("box", 12, 50, 52, 58), ("oval", 30, 30, 48, 50))),
    _Kind("mug,cup,beaker", 14, "coffee machine", "ceramic,steel,glass,bamboo",
          "insulated,light,durable,foldable", "home,office,gifts,camping",
          (("box", 10, 16, 42, 56), ("ring", 34, 22, 58, 48))),
)


def _groups(words: str) -> Groups:
    """Words that mean the same stand in one group, the canonical word first: "red,crimson|blue,navy"."""
    return tuple(tuple(group.split(",")) for group in words.split("|"))


COLOURS = _groups("red,crimson,scarlet|blue,navy,azure|green,olive,emerald|yellow,golden,mustard|black,jet,ebony"
                  "|white,ivory,snow|grey,silver,slate|orange,amber,tangerine|purple,violet,lilac|brown,tan,chestnut")
PAINTS = ((205, 40, 45), (45, 85, 190), (50, 140, 70), (235, 200, 50), (35, 35, 40), (250, 250, 245),
          (135, 140, 148), (240, 130, 30), (130, 70, 170), (120, 80, 50))  # RGB, in the order of COLOURS
PATTERNS = ("plain", "striped", "dotted", "checked")  # told by the picture only
MATERIALS = _groups("leather,hide|cotton,canvas|nylon,polyamide|steel,stainless metal|aluminium,alloy|wool,merino"
                    "|silicone,rubber|glass,crystal|ceramic,stoneware|plastic,polycarbonate|bamboo,wood"
                    "|polyester,fleece")
FEATURES = _groups("waterproof,rainproof,water-resistant|light,lightweight,featherweight|foldable,collapsible,folding"
                   "|wireless,cordless|fast,quick,rapid|insulated,thermal|padded,cushioned|breathable,airy,ventilated"
                   "|compact,small,pocket-sized|durable,sturdy,rugged|quiet,silent,noiseless")
USES = _groups("travel,trips,journeys|office,work|school,campus,students|hiking,trekking,mountain trails"
               "|running,jogging|home,living room|camping,outdoors|winter,cold days|gifts,presents")
BRANDS = _groups("Norvik|Alderon|Tesoro|Kumano|Brightley|Ostara|Veldt|Marrow|Quillon|Sundby|Farrow|Ixora")
SERIES = ("Sola", "Terra", "Nimbus", "Pico", "Vega", "Luma", "Orbit", "Delta", "Fjord", "Mira", "Atlas", "Echo")
TEMPLATES = ("{Feature} {noun} in {colour}, made of {material}, for {use}.",
             "Made for {use}: {colour} {noun} of {material}, {feature} and easy to care for.",
             "All {material}, {feature}, in {colour}: chosen for {use}.",
             "From our own workshop, {colour} {noun} of {material}, ready for {use} and {feature} every day.")
PAGES, PAGE_SHARES = ("home", "search", "category", "deals"), (0.35, 0.3, 0.2, 0.15)
DEVICES = ("phone", "desktop", "tablet")
GENDERS, GENDER_SHARES = ("female", "male", "other"), (0.49, 0.48, 0.03)
REGIONS = ("north", "south", "east", "west", "coast", "mountains", "capital", "islands")
HOUR_WEIGHTS = np.array([2, 1, 1, 1, 1, 2, 4, 6, 7, 7, 7, 8, 9, 8, 7, 7, 7, 8, 10, 12, 13, 12, 8, 4], float)
# fmt: on

NOUNS = tuple(tuple(kind.nouns.split(",")) for kind in KINDS)
NEXT = np.array([[nouns[0] for nouns in NOUNS].index(kind.next) for kind in KINDS])  # [C] category bought afterwards
FIELDS = (BRANDS, COLOURS, MATERIALS, FEATURES, USES)  # the attributes that texts and searches speak of
FIELD_NAMES = ("brand", "colour", "material", "feature", "use")


@dataclass(frozen=True, kw_only=True)
class _Stock:
    """The items, as arrays over items."""

    category: Ints  # [N] into KINDS
    attributes: Ints  # [N, 5] into FIELDS
    pattern: Ints  # [N] into PATTERNS
    level: Floats  # [N] price level within its category, mean 0, about 1 wide
    appeal: Floats  # [N] log of the Zipf popularity within its category
    new: Bools  # [N] nobody meets it

    @property
    def brand(self) -> Ints:
        return self.attributes[:, 0]

    @cached_property
    def shelves(self) -> list[Ints]:
        """The items of each category that can be met."""
        return [np.flatnonzero((self.category == c) & ~self.new) for c in range(len(KINDS))]

    @property
    def price(self) -> Floats:
        usual = np.array([kind.price for kind in KINDS], np.float64)
        return (usual[self.category] * np.exp(0.4 * self.level)).round(2)


@dataclass(frozen=True, kw_only=True)
class _People:
    """The users, as arrays over users."""

    age: Ints  # [U] years
    gender: Ints  # [U] into GENDERS
    region: Ints  # [U] into REGIONS
    categories: Floats  # [U, C] taste, as logits
    brands: Floats  # [U, B] taste, as logits
    level: Floats  # [U] price level sought


@dataclass(frozen=True, kw_only=True)
class _Visits:
    """The visits, in order of user and time, as arrays over visits. One visit is about one item."""

    user: Ints
    time: Ints  # seconds since 1970, UTC
    page: Ints  # into PAGES
    device: Ints  # into DEVICES
    item: Ints
    bought: Bools

    @property
    def hour(self) -> Ints:
        return self.time // HOUR % 24


def write_shop(folder: Path, *, size: int = 1000, seed: int = 0) -> None:
    """Write items, users, interactions, queries and relevance as Parquet, and a picture of each item below `images/`.

    The same size and seed give the same bytes (with the same versions of polars and Pillow). A shop that is not whole
    never stands in `folder`: it is written beside it and then renamed.

    Args:
        folder: Where the shop goes: a path that does not exist yet, or an empty folder.
        size: Number of items. There are twice as many users, about 26 interactions a user, and as many queries.
        seed: Any integer from 0.

    Raises:
        InputError: The folder holds files, the size is under 50, the seed is negative, or Pillow is not installed.
    """
    _check(folder, size, seed)
    streams = [np.random.default_rng(child) for child in np.random.SeedSequence(seed).spawn(6)]
    for_items, for_texts, for_users, for_visits, for_events, for_queries = streams
    stock = _stock(for_items, size)
    people = _people(for_users, 2 * size)
    visits = _visits(for_visits, stock, people)
    queries, relevance = _searches(for_queries, stock, visits, users=2 * size)
    tables = {
        "items": _item_table(for_texts, stock),
        "users": _user_table(people),
        "interactions": _interaction_table(for_events, visits, items=size, users=2 * size),
        "queries": queries,
        "relevance": relevance,
    }
    folder.parent.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(dir=folder.parent, prefix=f".{folder.name}.") as part:
        whole = Path(part) / "shop"
        _write_pictures(whole / "images", stock)
        for name, table in tables.items():
            table.write_parquet(whole / f"{name}.parquet")
        whole.replace(folder)


def _check(folder: Path, size: int, seed: int) -> None:
    if size < SMALLEST:
        raise InputError(f"The demo shop was asked for {size} items; it needs at least {SMALLEST}. Give a larger size.")
    if seed < 0:
        raise InputError(f"The demo shop's seed is {seed}; it must be 0 or more.")
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise InputError(f"{folder} already holds files and is not overwritten. Remove it or name another folder.")


# --- the catalogue


def _stock(rng: np.random.Generator, size: int) -> _Stock:
    category = rng.permutation(np.arange(size) % len(KINDS))
    attributes = [
        rng.integers(len(BRANDS), size=size),
        rng.integers(len(COLOURS), size=size),
        _some_of(rng, category, MATERIALS, [kind.materials for kind in KINDS]),
        _some_of(rng, category, FEATURES, [kind.features for kind in KINDS]),
        _some_of(rng, category, USES, [kind.uses for kind in KINDS]),
    ]
    rank = _rank_within(category, rng.random(size))
    unsold = rng.permutation(np.flatnonzero(rank > 0))[: round(NEW_ITEMS * size)]
    return _Stock(
        category=category,
        attributes=np.stack(attributes, axis=1),
        pattern=rng.integers(len(PATTERNS), size=size),
        level=rng.normal(size=size),
        appeal=-0.7 * np.log(rank + 1),
        new=np.isin(np.arange(size), unsold),
    )


def _some_of(rng: np.random.Generator, category: Ints, groups: Groups, allowed: list[str]) -> Ints:
    """For each item one of the words allowed in its category, evenly, as an index into `groups`."""
    names = [group[0] for group in groups]
    choices = [[names.index(word) for word in words.split(",")] for words in allowed]
    luck = rng.random(len(category))
    return np.array([choices[c][int(p * len(choices[c]))] for c, p in zip(category, luck, strict=True)])


def _rank_within(category: Ints, key: Floats) -> Ints:
    """Each item's place, from 0, among the items of its category when sorted by `key`."""
    order = np.lexsort((key, category))
    first = np.searchsorted(category[order], np.arange(len(KINDS)))
    rank = np.empty(len(category), np.int64)
    rank[order] = np.arange(len(category)) - first[category[order]]
    return rank


def _item_table(rng: np.random.Generator, stock: _Stock) -> pl.DataFrame:
    size = len(stock.category)
    ids = _ids("i", size)
    texts = [_texts(rng, NOUNS[c], a) for c, a in zip(stock.category, stock.attributes, strict=True)]
    age = np.where(stock.new, -rng.integers(DAYS - 7, DAYS, size), rng.integers(1, 730, size))  # days at the opening
    return pl.DataFrame({
        "item_id": ids,
        "title": [title for title, _ in texts],
        "description": [description for _, description in texts],
        "category": [NOUNS[c][0] for c in stock.category],
        "brand": [BRANDS[b][0] for b in stock.brand],
        "price": stock.price,
        "image": [f"images/{item}.png" for item in ids],
        "created_at": START - age * DAY,
    })  # fmt: skip


def _texts(rng: np.random.Generator, nouns: tuple[str, ...], attributes: Ints) -> tuple[str, str]:
    """Title and description. Each picks its own synonyms; the title may leave feature or colour to the description."""
    title, words = ({"noun": _say(rng, nouns), **_said(rng, attributes)} for _ in range(2))
    told = [title[field] for field in ("feature", "colour") if rng.random() < 0.8]
    model = f"{SERIES[rng.integers(len(SERIES))]} {rng.integers(2, 30)}"
    template = TEMPLATES[rng.integers(len(TEMPLATES))]
    description = template.format(**words, Feature=words["feature"].capitalize())
    return " ".join([title["brand"], model, *told, title["noun"]]), f"{description} By {words['brand']}."


def _said(rng: np.random.Generator, attributes: Ints) -> dict[str, str]:
    return {name: _say(rng, field[a]) for name, field, a in zip(FIELD_NAMES, FIELDS, attributes, strict=True)}


def _say(rng: np.random.Generator, group: tuple[str, ...]) -> str:
    """The canonical word six times in ten or more, else any of the group."""
    return group[0] if rng.random() < 0.6 else group[rng.integers(len(group))]


def _ids(letter: str, count: int) -> list[str]:
    width = max(5, len(str(count - 1)))
    return [f"{letter}{n:0{width}d}" for n in range(count)]


# --- the users and what they do


def _people(rng: np.random.Generator, count: int) -> _People:
    by_gender, by_region = rng.normal(size=(len(GENDERS), len(KINDS))), rng.normal(size=(len(REGIONS), len(KINDS)))
    fashion = rng.normal(size=len(KINDS))  # what everybody likes
    age = np.clip(rng.normal(40, 14, count), 16, 80).astype(np.int64)
    gender = rng.choice(len(GENDERS), size=count, p=GENDER_SHARES)
    region = rng.integers(len(REGIONS), size=count)
    own = rng.normal(size=(count, len(KINDS)))
    return _People(
        age=age,
        gender=gender,
        region=region,
        categories=1.1 * own + 0.5 * by_gender[gender] + 0.6 * by_region[region] + 0.2 * fashion,
        brands=1.2 * rng.normal(size=(count, len(BRANDS))),
        level=(age - 40) / 16 + 0.4 * rng.normal(size=count),
    )


def _user_table(people: _People) -> pl.DataFrame:
    return pl.DataFrame({
        "user_id": _ids("u", len(people.age)),
        "age": people.age,
        "gender": [GENDERS[g] for g in people.gender],
        "region": [REGIONS[r] for r in people.region],
    })  # fmt: skip


def _visits(rng: np.random.Generator, stock: _Stock, people: _People) -> _Visits:
    """When, where and how first; then what, step by step, since what was bought sways what comes next."""
    count = np.clip(rng.lognormal(2.9, 0.4, len(people.age)), 6, 60).astype(np.int64)  # [U] visits, about 19
    order = rng.random((len(count), DAYS)).argsort(axis=1, kind="stable").argsort(axis=1, kind="stable")
    user, day = np.nonzero(order < count[:, None])  # that many days of the year, sorted; one visit a day
    hour = rng.choice(24, size=len(user), p=HOUR_WEIGHTS / HOUR_WEIGHTS.sum())
    page = rng.choice(len(PAGES), size=len(user), p=PAGE_SHARES)
    young = np.clip((60 - people.age[user]) / 40, 0.1, 0.9)
    device = np.where(rng.random(len(user)) < young, 0, rng.integers(1, len(DEVICES), len(user)))
    by_hour, by_page, by_device = (rng.normal(size=(n, len(KINDS))) for n in (4, len(PAGES), len(DEVICES)))
    sway = 0.6 * (by_hour[hour // 6] + by_page[page] + by_device[device])
    item, bought = _choices(rng, stock, people, user, sway)
    # A visit ends 10 to 59 minutes past the hour, so that its search, view and cart fall into the same hour.
    time = START + day * DAY + hour * HOUR + rng.integers(600, HOUR, len(user))
    return _Visits(user=user, time=time, page=page, device=device, item=item, bought=bought)


def _choices(rng: np.random.Generator, stock: _Stock, people: _People, user: Ints, sway: Floats) -> tuple[Ints, Bools]:
    """Item of each visit and whether it was bought. Users go in blocks, to keep memory small as the shop grows."""
    count = len(people.age)
    first = np.searchsorted(user, np.arange(count + 1))  # [U + 1] a user's visits are first[u] : first[u + 1]
    blocks = np.array_split(np.arange(count), -(-count // 1024))
    walks = [_walk(rng, stock, people, block, first, sway) for block in blocks]
    return np.concatenate([item for item, _ in walks]), np.concatenate([bought for _, bought in walks])


def _walk(
    rng: np.random.Generator, stock: _Stock, people: _People, users: Ints, first: Ints, sway: Floats
) -> tuple[Ints, Bools]:
    """The visits of neighbouring users, all users one visit further at each step."""
    start, end = first[users] - first[users[0]], first[users + 1] - first[users[0]]
    sway = sway[first[users[0]] : first[users[-1] + 1]]
    item, bought = np.zeros(len(sway), np.int64), np.zeros(len(sway), np.bool_)
    owned = np.zeros((len(users), len(stock.category)), np.bool_)
    before = np.full(len(users), -1)  # the item bought last; -1: none yet
    for step in range((end - start).max()):
        who = np.flatnonzero(start + step < end)
        row = start[who] + step
        follows = (before[who] >= 0) & (rng.random(len(who)) < FOLLOW_UP)
        wish = _draw(rng, people.categories[users[who]] + sway[row])
        category = np.where(follows, NEXT[stock.category[before[who]]], wish)
        brands = people.brands[users[who]]
        brands[follows, stock.brand[before[who]][follows]] += SAME_BRAND
        item[row] = _pick(rng, stock, category, brands, people.level[users[who]], owned[who])
        # The first three are bought for certain: train, valid and test each need a purchase of every user.
        bought[row] = ((rng.random(len(who)) < BOUGHT) | (step < 3)) & ~owned[who, item[row]]
        buyer, what = who[bought[row]], item[row][bought[row]]
        before[buyer] = what
        owned[buyer, what] = True
    return item, bought


def _pick(rng: np.random.Generator, stock: _Stock, category: Ints, brands: Floats, level: Floats, owned: Bools) -> Ints:
    """An item of the given category for each row: popular, of a brand and a price that please, not owned already."""
    item = np.zeros(len(category), np.int64)
    for c, shelf in enumerate(stock.shelves):
        who = np.flatnonzero(category == c)
        score = stock.appeal[shelf] + brands[who][:, stock.brand[shelf]]  # [who, shelf] logits
        score -= 0.6 * (stock.level[shelf] - level[who, None]) ** 2
        score[owned[who][:, shelf]] = -np.inf
        item[who] = shelf[_draw(rng, score)]
    return item


def _draw(rng: np.random.Generator, logits: Floats) -> Ints:
    """One column of each row, with probability softmax(logits)."""
    return (logits + rng.gumbel(size=logits.shape)).argmax(axis=1)


def _interaction_table(rng: np.random.Generator, visits: _Visits, *, items: int, users: int) -> pl.DataFrame:
    """The rows of each visit: a view, a cart, a purchase, each only sometimes, and in this order."""
    luck = rng.random(len(visits.user))
    lead = rng.integers(60, 181, len(luck))  # seconds from the cart to the end of the visit; the view lies before it
    ahead = lead + rng.integers(60, 301, len(luck))
    frame = pl.DataFrame({
        "user_id": np.array(_ids("u", users))[visits.user],
        "item_id": np.array(_ids("i", items))[visits.item],
        "page": np.array(PAGES)[visits.page],
        "device": np.array(DEVICES)[visits.device],
        "hour": visits.hour,
        "end": visits.time,
    })  # fmt: skip
    parts = [
        _event(frame, "view", ~visits.bought | (luck < 0.25), ahead),
        _event(frame, "cart", luck < np.where(visits.bought, 0.12, 0.2), lead),
        _event(frame, "purchase", visits.bought, np.zeros_like(lead)),
    ]
    return pl.concat(parts).sort("timestamp", "user_id", maintain_order=True)


def _event(frame: pl.DataFrame, event: str, happened: Bools, ahead: Ints) -> pl.DataFrame:
    """The visits where the event happened, `ahead` seconds before their end."""
    rows = frame.with_columns(timestamp=pl.col("end") - pl.Series(ahead), event=pl.lit(event))
    return rows.filter(pl.Series(happened)).select("user_id", "item_id", "timestamp", "event", "page", "device", "hour")


# --- searches


def _searches(
    rng: np.random.Generator, stock: _Stock, visits: _Visits, *, users: int
) -> tuple[pl.DataFrame, pl.DataFrame]:
    """Queries and relevance. A search opens the visit in which its item is bought; in 15 % something else is bought."""
    size = len(stock.category)
    row = rng.permutation(np.flatnonzero(visits.bought))[:size]
    sought = np.where(rng.random(len(row)) < 0.85, visits.item[row], rng.integers(size, size=len(row)))
    asked = [_asked(rng) for _ in row]
    queries = pl.DataFrame({
        "query_id": _ids("q", len(row)),
        "query": [_query(rng, stock, i, fields) for i, fields in zip(sought, asked, strict=True)],
        "user_id": np.array(_ids("u", users))[visits.user[row]],
        "timestamp": visits.time[row] - rng.integers(500, 601, len(row)),  # before the view
    })  # fmt: skip
    judged = [_grades(rng, stock, i, fields) for i, fields in zip(sought, asked, strict=True)]
    relevance = pl.DataFrame({
        "query_id": np.repeat(queries["query_id"].to_numpy(), [len(found) for found, _ in judged]),
        "item_id": np.array(_ids("i", size))[np.concatenate([found for found, _ in judged])],
        "grade": np.concatenate([grade for _, grade in judged]),
    })  # fmt: skip
    return queries, relevance


def _asked(rng: np.random.Generator) -> Ints:
    """The one to three attributes that a search names."""
    return np.sort(rng.permutation(len(FIELDS))[: rng.choice([1, 2, 3], p=[0.2, 0.5, 0.3])])


def _query(rng: np.random.Generator, stock: _Stock, item: int, fields: Ints) -> str:
    words = _said(rng, stock.attributes[item])
    words["use"] = f"for {words['use']}"
    names = [FIELD_NAMES[f] for f in fields]
    front = [words[name] for name in ("feature", "colour", "brand", "material") if name in names]
    noun = _say(rng, NOUNS[stock.category[item]])
    return " ".join([*front, noun, *([words["use"]] if "use" in names else [])]).lower()


def _grades(rng: np.random.Generator, stock: _Stock, item: int, fields: Ints) -> tuple[Ints, Ints]:
    """Items judged for a search and their grades: within the category, by the share of the named attributes that match:
    all 3, two thirds 2, half 1, less 0. Of the zeros no more than three are written, to show the unwanted side too."""
    shelf = np.flatnonzero(stock.category == stock.category[item])
    same = (stock.attributes[shelf][:, fields] == stock.attributes[item, fields]).sum(axis=1)  # [shelf]
    grade = np.select([same == len(fields), 3 * same >= 2 * len(fields), 2 * same >= len(fields)], [3, 2, 1], 0)
    zeros = rng.permutation(np.flatnonzero(grade == 0))[:3]
    kept = np.sort(np.concatenate([np.flatnonzero(grade), zeros]))
    return shelf[kept], grade[kept]


# --- pictures


def _write_pictures(folder: Path, stock: _Stock) -> None:
    """One PNG an item. Items of one category, colour and pattern look alike, so that each look is drawn once."""
    folder.mkdir(parents=True, exist_ok=True)
    looks = list(zip(stock.category, stock.attributes[:, 1], stock.pattern, strict=True))
    drawn = {look: _picture(*look) for look in sorted(set(looks))}
    for item, look in zip(_ids("i", len(looks)), looks, strict=True):
        (folder / f"{item}.png").write_bytes(drawn[look])


def _picture(category: int, colour: int, pattern: int) -> bytes:
    """The category's outline, painted with colour and pattern, on pale grey."""
    try:
        from PIL import Image, ImageDraw  # an extra: only who makes the shop needs it
    except ImportError as error:
        remedy = "Install the extra `reports`: pip install 'recsys[reports]'."
        raise InputError(f"The demo shop draws its pictures with Pillow, which is not installed. {remedy}") from error
    outline = Image.new("L", (PICTURE, PICTURE))
    pen = ImageDraw.Draw(outline)
    for form, *box in KINDS[category].shape:
        _trace(pen, form, box)
    canvas = Image.new("RGB", (PICTURE, PICTURE), (228, 228, 232))
    canvas.paste(Image.fromarray(_paint(colour, pattern)), mask=outline)
    file = io.BytesIO()
    canvas.save(file, format="PNG")
    return file.getvalue()


def _trace(pen: "ImageDraw.ImageDraw", form: str, box: list[int]) -> None:
    left, top, right, bottom = box
    match form:
        case "box":
            pen.rounded_rectangle(box, radius=4, fill=255)
        case "oval":
            pen.ellipse(box, fill=255)
        case "ring":
            pen.ellipse(box, outline=255, width=5)
        case _:  # a roof: wide below, a point above
            pen.polygon([(left, bottom), ((left + right) // 2, top), (right, bottom)], fill=255)


def _paint(colour: int, pattern: int) -> npt.NDArray[np.uint8]:
    """Colour and pattern over the whole square, [PICTURE, PICTURE, 3]."""
    y, x = np.mgrid[:PICTURE, :PICTURE]
    marks = {
        "plain": np.zeros_like(x, np.bool_),
        "striped": (x + y) % 12 < 4,
        "dotted": (x % 10 - 5) ** 2 + (y % 10 - 5) ** 2 < 8,
        "checked": (x // 8 + y // 8) % 2 == 0,
    }[PATTERNS[pattern]]
    ground = np.array(PAINTS[colour], np.uint8)
    return np.where(marks[:, :, None], ground // 2 + (110 if ground.sum() < 450 else 0), ground).astype(np.uint8)
