"""The oracle against plain enumeration on shops so small that every possibility can be walked through."""

from collections.abc import Iterator
from dataclasses import replace
from itertools import product

import numpy as np
import pytest

from recsys.data.sources.shop.causes import NO_CATEGORY, Causes
from recsys.data.sources.shop.english import ENGLISH
from recsys.data.sources.shop.kinds import KINDS
from recsys.data.sources.shop.oracle import Questions, oracle_ranks, oracle_scores, questions
from recsys.data.sources.shop.visits import (
    DEVICE_SHARES,
    HOUR_WEIGHTS,
    PAGE_SHARES,
    Visits,
    draw_moments,
    draw_visits,
    pick,
)
from recsys.data.sources.shop.world import (
    ADVERTISED,
    AGES,
    REGIONS,
    YOUNGEST,
    Floats,
    People,
    Stock,
    draw_people,
    draw_stock,
)


def _shop(items: int, users: int, seed: int = 0) -> tuple[Stock, People, Visits]:
    rng = np.random.default_rng(seed)
    stock, people = draw_stock(rng, items, ENGLISH), draw_people(rng, users, ENGLISH)
    return stock, people, draw_visits(rng, Causes.of(stock), people, draw_moments(rng, users=users, items=items))


@pytest.fixture(scope="module")
def large() -> tuple[Stock, People, Visits]:
    return _shop(items=100, users=2000)


@pytest.fixture(scope="module")
def tiny() -> tuple[Stock, People, Questions]:
    """Five items, and eight users who own one of them."""
    rng = np.random.default_rng(1)
    stock, people = draw_stock(rng, 5, ENGLISH), draw_people(rng, 8, ENGLISH)
    before = [np.array([user % 5]) for user in range(8)]
    asked = Questions(
        user=np.arange(8), item=(np.arange(8) + 1) % 5, moment=rng.integers(48, size=8), week=rng.integers(52, size=8),
        last=stock.category[[items[-1] for items in before]], before=before,
    )  # fmt: skip
    return stock, people, asked


def _scores(stock: Stock, people: People, asked: Questions, *hidden: str) -> Floats:
    return np.concatenate([score for _, score in oracle_scores(stock, people, asked, hidden)])


def _chances(stock: Stock, people: People, asked: Questions) -> Floats:
    """[R, N] probability of each item for who knows everything."""
    weight = _scores(stock, people, asked).clip(min=0)
    return weight / weight.sum(axis=1, keepdims=True)


def _labellings(stock: Stock, source: str) -> Iterator[tuple[float, Stock]]:
    """Every way in which the hidden labels may have fallen, and its probability."""
    size = len(stock)
    match source:
        case "ads":
            for labels in product((0, 1), repeat=size):
                chance = float(np.prod(np.where(labels, ADVERTISED, 1 - ADVERTISED)))
                yield chance, replace(stock, pushed=np.tile(np.array(labels, bool), (52, 1)))
        case "reviews":
            for labels in product((-1, 0, 1), repeat=size):
                yield 3.0**-size, replace(stock, tone=np.tile(np.array(labels, np.int8), (52, 1)))
        case _:
            for labels in product((0, 1), repeat=2 * size):
                picture, wording = np.array(labels[:size]), np.array(labels[size:])
                yield 4.0**-size, replace(stock, picture=picture, wording=wording)


@pytest.mark.parametrize("source", ["ads", "reviews", "three_way"])
def test_with_labels_hidden_the_order_is_that_of_the_mean_over_all_labellings(
    tiny: tuple[Stock, People, Questions], source: str
) -> None:
    stock, people, asked = tiny
    ways = [(chance, _chances(labelled, people, asked)) for chance, labelled in _labellings(stock, source)]
    assert sum(chance for chance, _ in ways) == pytest.approx(1)
    bayes = sum(chance * chances for chance, chances in ways)
    score = _scores(stock, people, asked, source)
    for mine, right, owned in zip(score, bayes, asked.before, strict=True):
        free = np.setdiff1d(np.arange(len(stock)), owned)
        assert (np.argsort(-mine[free]) == np.argsort(-np.asarray(right)[free])).all()


def _states(people: People, asked: Questions, source: str) -> Iterator[tuple[Floats, People, Questions]]:
    """Every state that may be hidden, and its probability for each question."""
    one = np.ones(len(asked.user))
    match source:
        case "profile":
            for age, region in product(range(AGES), range(REGIONS)):
                known = replace(people, age=people.age * 0 + YOUNGEST[age], region=people.region * 0 + region)
                yield one / (AGES * REGIONS), known, asked
        case "context":
            parts = [HOUR_WEIGHTS[start : start + 6].sum() / HOUR_WEIGHTS.sum() for start in (0, 6, 12, 18)]
            shares = [p * q * r for p, q, r in product(parts, PAGE_SHARES, DEVICE_SHARES)]
            for state, share in enumerate(shares):
                yield share * one, people, replace(asked, moment=asked.moment * 0 + state)
        case _:
            for state in range(len(KINDS) + 1):
                last = asked.last  # each of these users owns one item, which then was the last
                yield (last == state) * one, people, replace(asked, last=last * 0 + state)


@pytest.mark.parametrize("source", ["profile", "context", "sequence"])
def test_with_a_state_hidden_the_score_is_the_mean_over_all_states(
    tiny: tuple[Stock, People, Questions], source: str
) -> None:
    stock, people, asked = tiny
    mean = sum(chance[:, None] * _chances(stock, *known) for chance, *known in _states(people, asked, source))
    score = _scores(stock, people, asked, source)
    np.testing.assert_allclose(score.clip(min=0), mean, rtol=1e-9)


def test_the_whole_oracle_foretells_as_often_as_it_says(large: tuple[Stock, People, Visits]) -> None:
    stock, people, visits = large
    asked = questions(visits, stock)
    chances = _chances(stock, people, asked)
    for place in (0, 1, 4):
        item = np.argsort(-chances, axis=1)[:, place]
        said = chances[np.arange(len(item)), item]
        deviation = np.sqrt((said * (1 - said)).sum())
        assert abs((item == asked.item).sum() - said.sum()) < 4 * deviation


def test_no_source_can_be_hidden_without_a_loss(large: tuple[Stock, People, Visits]) -> None:
    stock, people, visits = large
    asked = questions(visits, stock)
    whole = np.log2(oracle_ranks(stock, people, asked) + 2).mean()
    for source in ("text", "image", "profile", "context", "reviews", "ads", "sequence", "three_way"):
        assert np.log2(oracle_ranks(stock, people, asked, [source]) + 2).mean() > whole, source


def test_ranks_count_what_stands_ahead_and_is_not_owned(tiny: tuple[Stock, People, Questions]) -> None:
    stock, people, asked = tiny
    score, ranks = _scores(stock, people, asked), oracle_ranks(stock, people, asked)
    for row, owned in enumerate(asked.before):
        free = [item for item in np.argsort(-score[row], kind="stable") if item not in owned]
        assert ranks[row] == free.index(asked.item[row])


def test_the_question_is_the_purchase_before_the_last(large: tuple[Stock, People, Visits]) -> None:
    stock, people, visits = large
    asked = questions(visits, stock)
    assert (asked.user == np.arange(len(people))).all()
    for user in range(20):
        bought = visits.bought[(visits.moments.user == user) & (visits.bought >= 0)]
        assert asked.item[user] == bought[-2]
        assert (asked.before[user] == bought[:-2]).all()
        assert asked.last[user] == (stock.category[bought[-3]] if len(bought) > 2 else NO_CATEGORY)


def test_items_are_picked_by_their_weights_and_never_without_one() -> None:
    weight = np.tile([0.0, 1.0, 0.0, 3.0, 0.0], (40_000, 1))
    found = np.bincount(pick(weight.cumsum(axis=1), np.random.default_rng(0).random(40_000)), minlength=5) / 40_000
    np.testing.assert_allclose(found, [0, 0.25, 0, 0.75, 0], atol=0.01)
