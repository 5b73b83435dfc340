"""The shop's users answer lists as its own impressions were answered."""

import numpy as np
import pytest

from recsys.data.sources.shop.answers import Audience, answer
from recsys.data.sources.shop.english import ENGLISH
from recsys.data.sources.shop.write import draw_shop


@pytest.fixture(scope="module")
def shop():
    stock, people, visits, _ = draw_shop(60, 0, ENGLISH)
    return stock, Audience.of(stock, people, visits), visits


def test_everybody_knows_what_he_owns_and_bought_last(shop):
    stock, audience, visits = shop
    assert audience.owned.sum() == (visits.bought >= 0).sum()
    mine = visits.bought[(visits.moments.user == 7) & (visits.bought >= 0)]
    assert audience.last[7] == stock.category[mine[-1]]


def test_attractions_are_chances_that_new_items_have_too(shop):
    stock, audience, _ = shop
    found = audience.attractions(np.random.default_rng(0))
    assert found.shape == (120, 60)
    assert ((found > 0) & (found < 1)).all()
    assert found[:, stock.new].mean() > 0.25 * found[:, ~stock.new].mean()


def test_a_place_is_clicked_by_its_rank_and_its_item():
    attractions = np.array([[0.8, 0.2, 0.5]])
    lists = np.array([[2, 0, 1]])
    rng = np.random.default_rng(0)
    clicks = np.mean([answer(rng, attractions, lists)[0] for _ in range(20_000)], axis=0)
    np.testing.assert_allclose(clicks, [0.5, 0.8 * 2**-0.8, 0.2 * 3**-0.8], atol=0.015)
