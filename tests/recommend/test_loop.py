"""Exploration: the budget is kept, what is logged is what was drawn, and good items are found."""

import numpy as np
import pytest

from recsys.errors import InputError
from recsys.recommend.loop import Beliefs, ExploreConfig, explore

LISTS = np.tile(np.arange(10), (400, 1))
CANDIDATES = np.tile(np.arange(10, 14), (400, 1))
FIT = np.ones(CANDIDATES.shape)


def tried(config: ExploreConfig, beliefs: Beliefs | None = None, candidates: np.ndarray = CANDIDATES, seed: int = 0):
    known = Beliefs.before(config, 14) if beliefs is None else beliefs
    return explore(LISTS, candidates, FIT, known, config, np.random.default_rng(seed))


@pytest.mark.parametrize("budget", [0.03, 0.1, 0.25])
def test_the_budget_is_kept_and_places_above_the_first_stay(budget):
    found = tried(ExploreConfig(budget=budget, first=3))
    assert found.drawn.sum() == int(budget * LISTS.size)
    assert not found.drawn[:, :2].any()
    assert np.ptp(found.drawn.sum(1)) <= 1  # as evenly as can be
    np.testing.assert_array_equal(found.items[~found.drawn], LISTS[~found.drawn])
    assert (found.items[found.drawn] >= 10).all()
    assert all(len(set(row)) == 10 for row in found.items.tolist())


def test_a_budget_of_zero_changes_nothing():
    found = tried(ExploreConfig(budget=0.0))
    np.testing.assert_array_equal(found.items, LISTS)
    assert (found.propensity == 1).all()


def test_what_is_logged_is_how_often_it_is_drawn():
    """Weights of 1 / propensity count every item as often as an even choice would."""
    config = ExploreConfig(budget=0.1, draws=16)
    beliefs = Beliefs(clicks=np.full(14, 2.0), misses=np.array([4.0] * 10 + [2, 4, 8, 16]))
    counts, weighted = np.zeros(4), np.zeros(4)
    for seed in range(20):
        found = tried(config, beliefs, seed=seed)
        item, weight = found.items[found.drawn] - 10, 1 / found.propensity[found.drawn]
        counts += np.bincount(item, minlength=4)
        weighted += np.bincount(item, weight, 4)
    assert counts[0] > 3 * counts[3]  # better items are drawn more often
    np.testing.assert_allclose(weighted / (20 * 400), 1, atol=0.15)


def test_lists_without_candidates_stay_and_padding_is_never_drawn():
    some = CANDIDATES.copy()
    some[:200], some[200:, 2:] = -1, -1
    found = tried(ExploreConfig(budget=0.3), candidates=some)
    assert not found.drawn[:200].any()
    assert (found.drawn[200:].sum(1) == 2).all()  # no more than there are
    assert set(found.items[found.drawn].tolist()) == {10, 11}
    assert set(found.choices[found.drawn].tolist()) == {1, 2}


def test_beliefs_count_looks_by_examination():
    before = Beliefs.before(ExploreConfig(clicks=1, misses=4), 3)
    after = before.learnt(np.array([0, 0, 1]), np.array([1.0, 0.5, 0.25]), np.array([True, False, False]))
    np.testing.assert_allclose(after.clicks, [2, 1, 1])
    np.testing.assert_allclose(after.misses, [4.5, 4.25, 4])
    np.testing.assert_allclose(after.rate, [2 / 6.5, 1 / 5.25, 1 / 5])
    assert after.spread[0] == pytest.approx(np.sqrt(2 * 4.5 / (6.5**2 * 7.5)))


def test_what_is_good_is_found():
    rng, config = np.random.default_rng(0), ExploreConfig(budget=0.1)
    pull, beliefs = np.array([0.0] * 10 + [0.1, 0.1, 0.1, 0.6]), Beliefs.before(config, 14)
    for _ in range(5):
        found = explore(LISTS, CANDIDATES, FIT, beliefs, config, rng)
        item = found.items[found.drawn]
        beliefs = beliefs.learnt(item, np.ones(len(item)), rng.random(len(item)) < pull[item])
    assert (item == 13).mean() > 0.75
    assert beliefs.rate[13] == pytest.approx(0.6, abs=0.1)


@pytest.mark.parametrize("settings", [{"budget": 1.5}, {"even": 0}, {"draws": 0}, {"clicks": 0}, {"first": 0}])
def test_impossible_settings_are_refused(settings):
    with pytest.raises(InputError, match="expected"):
        ExploreConfig(**settings)
