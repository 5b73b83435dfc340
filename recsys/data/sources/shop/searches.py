"""Searches and what is relevant for them."""

import numpy as np
import polars as pl

from recsys.data.sources.shop.tables import ids, said, say
from recsys.data.sources.shop.visits import Visits
from recsys.data.sources.shop.words import FIELDS, Words
from recsys.data.sources.shop.world import Ints, Stock

SOUGHT = 0.85  # share of searches whose item is then bought


def search_tables(
    rng: np.random.Generator, stock: Stock, words: Words, visits: Visits, *, users: int, count: int
) -> tuple[pl.DataFrame, pl.DataFrame]:
    """Queries, at most `count`, and relevance. A search opens the visit in which its item is bought; in 15 % something
    else is bought.
    """
    size = len(stock)
    row = rng.permutation(np.flatnonzero(visits.bought >= 0))[:count]
    sought = np.where(rng.random(len(row)) < SOUGHT, visits.bought[row], rng.integers(size, size=len(row)))
    asked = [_asked(rng) for _ in row]
    names = ids("q", len(row))
    queries = pl.DataFrame({
        "query_id": names,
        "query": [_query(rng, stock, words, i, fields) for i, fields in zip(sought, asked, strict=True)],
        "user_id": ids("u", users)[visits.moments.user[row]],
        "timestamp": visits.moments.time[row] - rng.integers(500, 601, len(row)),  # before everything else
    })  # fmt: skip
    judged = [_grades(rng, stock, i, fields) for i, fields in zip(sought, asked, strict=True)]
    relevance = pl.DataFrame({
        "query_id": names.repeat([len(found) for found, _ in judged]),
        "item_id": ids("i", size)[np.concatenate([found for found, _ in judged])],
        "grade": np.concatenate([grade for _, grade in judged]),
    })  # fmt: skip
    return queries, relevance


def _asked(rng: np.random.Generator) -> Ints:
    """The one to three attributes that a search names."""
    return np.sort(rng.permutation(len(FIELDS))[: rng.choice([1, 2, 3], p=[0.2, 0.5, 0.3])])


def _query(rng: np.random.Generator, stock: Stock, words: Words, item: int, fields: Ints) -> str:
    told = {"noun": say(rng, words.nouns[stock.category[item]]), **said(rng, words, stock, item)}
    names = {"noun", *(FIELDS[field] for field in fields)}
    return words.space.join(template.format(told[part]) for part, template in words.query if part in names).lower()


def _grades(rng: np.random.Generator, stock: Stock, item: int, fields: Ints) -> tuple[Ints, Ints]:
    """Items judged for a search and their grades: within the category, by the share of the named attributes that match:
    all 3, two thirds 2, half 1, less 0. Of the zeros no more than three are written, to show the unwanted side too."""
    shelf = np.flatnonzero(stock.category == stock.category[item])
    same = (stock.attributes[shelf][:, fields] == stock.attributes[item, fields]).sum(axis=1)  # [shelf]
    grade = np.select([same == len(fields), 3 * same >= 2 * len(fields), 2 * same >= len(fields)], [3, 2, 1], 0)
    zeros = rng.permutation(np.flatnonzero(grade == 0))[:3]
    kept = np.sort(np.concatenate([np.flatnonzero(grade), zeros]))
    return shelf[kept], grade[kept]
