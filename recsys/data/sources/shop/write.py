"""The whole shop as a folder of tables and pictures."""

from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import polars as pl

from recsys.data.sources.shop.causes import Causes
from recsys.data.sources.shop.chinese import CHINESE
from recsys.data.sources.shop.digital import DIGITAL
from recsys.data.sources.shop.english import ENGLISH
from recsys.data.sources.shop.oracle import AT_HAND, SOURCES, oracle_ranks, questions
from recsys.data.sources.shop.pictures import write_pictures
from recsys.data.sources.shop.searches import search_tables
from recsys.data.sources.shop.tables import (
    ad_table,
    ids,
    impression_table,
    interaction_table,
    item_table,
    review_table,
    user_table,
)
from recsys.data.sources.shop.visits import Visits, draw_moments, draw_visits
from recsys.data.sources.shop.words import Words
from recsys.data.sources.shop.world import People, Stock, draw_people, draw_stock
from recsys.errors import InputError, nearest

SHOP = 2
"""Number of the shop's making: another one writes other bytes for the same size, seed and language."""
SMALLEST = 50
"""Items; with fewer, some categories would be sold out or empty."""
LANGUAGES = {"en": ENGLISH, "zh": CHINESE, "zh_digital": DIGITAL}
ORACLES = {
    "oracle": (),
    "oracle, sources at hand": AT_HAND,
    **{f"oracle without {source}": (source,) for source in (*SOURCES, "three_way")},
}
"""What is hidden from each oracle of oracle.parquet."""


def write_shop(folder: Path, *, size: int = 1000, seed: int = 0, language: str = "en", searches: int = 1) -> None:
    """Write the tables of `docs/shop.md` as Parquet, oracle.parquet, and a picture of each item below `images/`.

    The same size, seed and language give the same bytes (with the same versions of numpy, polars and Pillow). A shop
    that is not whole never stands in `folder`: it is written beside it and then renamed.

    Args:
        folder: Where the shop goes: a path that does not exist yet, or an empty folder.
        size: Number of items. There are twice as many users, and about 42 interactions a user.
        seed: Any integer from 0.
        language: Of all texts, a key of `LANGUAGES`. Who buys what is the same in each.
        searches: Queries, in times of the items; no more than one for each of the purchases, some 50 an item.

    Raises:
        InputError: The folder holds files, the size is under 50, the seed is negative, the language is not known,
            there are no searches, or Pillow is not installed.
    """
    _check(folder, size, seed, language, searches)
    words = LANGUAGES[language]
    stock, people, visits, for_tables = draw_shop(size, seed, words)
    tables = _tables(for_tables, stock, people, visits, words, searches)
    tables["oracle"] = _oracle_table(stock, people, visits)
    folder.parent.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(dir=folder.parent, prefix=f".{folder.name}.") as part:
        whole = Path(part) / "shop"
        write_pictures(whole / "images", stock)
        for name, table in tables.items():
            table.write_parquet(whole / f"{name}.parquet")
        whole.replace(folder)


def draw_shop(size: int, seed: int, words: Words) -> tuple[Stock, People, Visits, np.random.Generator]:
    """What `write_shop` writes, as arrays, and the generator that its tables are told with."""
    streams = [np.random.default_rng(child) for child in np.random.SeedSequence(seed).spawn(5)]
    for_items, for_users, for_moments, for_visits, for_tables = streams
    stock, people = draw_stock(for_items, size, words), draw_people(for_users, 2 * size, words)
    moments = draw_moments(for_moments, users=len(people), items=size)
    return stock, people, draw_visits(for_visits, Causes.of(stock), people, moments), for_tables


def _check(folder: Path, size: int, seed: int, language: str, searches: int) -> None:
    if size < SMALLEST:
        raise InputError(f"The demo shop was asked for {size} items; it needs at least {SMALLEST}. Give a larger size.")
    if seed < 0:
        raise InputError(f"The demo shop's seed is {seed}; it must be 0 or more.")
    if searches < 1:
        raise InputError(f"The demo shop was asked for {searches} searches an item; give searches=1 or more.")
    if language not in LANGUAGES:
        hint = nearest(language, LANGUAGES)
        raise InputError(f"The demo shop's language is {language!r};{hint} expected one of {', '.join(LANGUAGES)}.")
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise InputError(f"{folder} already holds files and is not overwritten. Remove it or name another folder.")


def _tables(
    rng: np.random.Generator, stock: Stock, people: People, visits: Visits, words: Words, searches: int
) -> dict[str, pl.DataFrame]:
    counts = {"items": len(stock), "users": len(people)}
    fates = [rng.spawn(1)[0] for _ in range(7)]  # a table's own luck: a longer one leaves the others as they are
    queries, relevance = search_tables(fates[0], stock, words, visits, users=len(people), count=searches * len(stock))
    return {
        "items": item_table(fates[1], stock, words),
        "users": user_table(fates[2], people, words),
        "interactions": interaction_table(fates[3], visits, **counts),
        "queries": queries,
        "relevance": relevance,
        "reviews": review_table(fates[4], stock, words, visits, users=len(people)),
        "ads": ad_table(fates[5], stock, words),
        "impressions": impression_table(fates[6], visits, **counts),
    }


def _oracle_table(stock: Stock, people: People, visits: Visits) -> pl.DataFrame:
    """Each user's valid purchase, and its place, from 0, in the list of each oracle."""
    asked = questions(visits, stock)
    one = pl.DataFrame({"user_id": ids("u", len(people))[asked.user], "item_id": ids("i", len(stock))[asked.item]})
    ranks = {name: oracle_ranks(stock, people, asked, hidden) for name, hidden in ORACLES.items()}
    return pl.concat([one.with_columns(oracle=pl.lit(name), rank=pl.Series(rank)) for name, rank in ranks.items()])
