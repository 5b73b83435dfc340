"""Exposure targets: met exactly whenever they can be, at the least loss; brute force agrees on small sets."""

from itertools import combinations, product

import numpy as np
import pytest

from recsys.errors import InputError
from recsys.recommend.exposure import ExposureConfig, priced_order, solve


def drawn(rng: np.random.Generator, rows: int, width: int, size: int) -> tuple[np.ndarray, np.ndarray]:
    """Chances, falling along a row, and groups; some rows end in padding."""
    chance = -np.sort(-rng.integers(1, 50, (rows, width)) / 50, axis=1)
    groups = rng.integers(size, size=(rows, width))
    padding = np.arange(width) >= rng.integers(1, width + 1, (rows, 1))
    return np.where(padding, 0.0, chance), np.where(padding, -1, groups)


def counted(groups: np.ndarray, chosen: np.ndarray, size: int) -> np.ndarray:
    return np.bincount(groups[chosen], minlength=size)


def every_choice(groups: np.ndarray, places: int) -> list[np.ndarray]:
    """All ways to fill all lists, as [R, K] bool."""
    rows = []
    for row in groups:
        there = np.flatnonzero(row >= 0)
        rows.append([np.isin(np.arange(len(row)), one) for one in combinations(there, min(places, len(there)))])
    return [np.stack(one) for one in product(*rows)]


@pytest.mark.parametrize("seed", range(40))
def test_the_lists_are_those_of_brute_force(seed):
    rng = np.random.default_rng(seed)
    size, places = int(rng.integers(2, 5)), int(rng.integers(1, 4))
    chance, groups = drawn(rng, 3, 5, size)
    quotas = rng.multinomial(int(rng.integers(0, 3 * places + 1)), np.ones(size) / size)
    found = solve(chance, groups, places, quotas)
    choices = every_choice(groups, places)
    missing = [int(np.maximum(quotas - counted(groups, one, size), 0).sum()) for one in choices]
    best = max(float(chance[one].sum()) for one, lack in zip(choices, missing, strict=True) if lack == min(missing))
    assert int(found.missing.sum()) == min(missing)
    assert found.counts.tolist() == counted(groups, found.chosen, size).tolist()
    assert (found.chosen.sum(1) == np.minimum((groups >= 0).sum(1), places)).all()
    if min(missing) == 0:
        assert float(chance[found.chosen].sum()) == pytest.approx(best)


def test_quotas_that_can_be_met_are_met_exactly_in_a_long_run():
    rng = np.random.default_rng(0)
    chance = -np.sort(-(rng.random((500, 40)) ** 3), axis=1)
    groups = np.minimum(rng.geometric(0.5, (500, 40)) - 1, 4)
    quotas = np.array([0, 1200, 900, 700, 400])
    found = solve(chance, groups, 10, quotas)
    assert (found.missing == 0).all()
    priced = found.prices > 0
    assert (found.counts[priced] == quotas[priced]).all()  # nobody pays for more than was asked
    value = np.where(found.chosen, chance + found.prices[groups], np.inf).min(1)
    other = np.where(found.chosen, -np.inf, chance + found.prices[groups]).max(1)
    assert (value >= other - 1e-12).all()  # so no other lists with these counts are worth more


def test_without_a_quota_the_first_places_stay():
    chance, groups = drawn(np.random.default_rng(1), 20, 8, 3)
    found = solve(chance, groups, 4, np.zeros(3, dtype=np.int64))
    np.testing.assert_array_equal(found.chosen, (groups >= 0) & (np.arange(8) < 4))
    assert not found.prices.any()


def test_a_chain_of_swaps_meets_a_quota_that_no_single_swap_can():
    chance = np.array([[0.9, 0.8], [0.9, 0.8]])
    groups = np.array([[0, 1], [1, 2]])  # list 1 has 0 or 1, list 2 has 1 or 2
    found = solve(chance, groups, 1, np.array([0, 1, 1]))
    assert found.counts.tolist() == [0, 1, 1]
    assert not found.missing.any()


def test_what_cannot_be_had_is_told():
    groups = np.array([[0, 0, 1], [0, 0, 0]])
    found = solve(np.array([[0.9, 0.5, 0.1], [0.9, 0.5, 0.1]]), groups, 2, np.array([0, 3]))
    assert found.counts.tolist() == [3, 1]
    assert found.missing.tolist() == [0, 2]


def test_equal_chances_are_no_trouble():
    groups = np.tile([0, 0, 1, 2], (6, 1))
    found = solve(np.full((6, 4), 0.5), groups, 2, np.array([0, 5, 4]))
    assert (found.counts >= [0, 5, 4]).all()


def test_the_prices_of_a_run_make_the_same_lists_where_nothing_is_equal():
    rng = np.random.default_rng(2)
    chance, groups = -np.sort(-rng.random((200, 20)), axis=1), rng.integers(3, size=(200, 20))
    found = solve(chance, groups, 5, np.array([0, 0, 600]))
    order = priced_order(chance, groups, 5, found.prices)
    same = (np.take_along_axis(found.chosen, order, 1)).all(1)
    assert same.sum() >= 199  # the one that stands at the price itself may go either way


def test_shares_become_places():
    config = ExposureConfig(least={"tail": 0.25}, each=0.01)
    assert config.quotas(["head", "torso", "tail"], 1000).tolist() == [10, 10, 250]
    assert ExposureConfig(least={"tail": 0.1}).quotas(["tail"], 11).tolist() == [2]  # rounded up


def test_the_share_of_a_tail_in_bands_is_dealt_out_evenly():
    names = ["head", "torso", "tail, band 1", "unseen", "tail, band 2"]
    assert ExposureConfig(least={"tail": 0.4}, bands=2).quotas(names, 100).tolist() == [0, 0, 20, 0, 20]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"least": {"tail": 1.5}}, "expected shares from 0 to 1"),
        ({"bands": 3, "by": "brand"}, "bands is 3 with by brand"),
        ({"each": -0.1}, "expected shares from 0 to 1"),
        ({"least": {"tail": 0.6, "torso": 0.6}}, "expected at most 1"),
    ],
)
def test_impossible_shares_are_refused(settings, message):
    with pytest.raises(InputError, match=message):
        ExposureConfig(**settings)


def test_unknown_groups_and_too_much_for_all_are_refused():
    with pytest.raises(InputError, match="names 'tial'; the groups of popularity are head, tail"):
        ExposureConfig(least={"tial": 0.1}).quotas(["head", "tail"], 10)
    with pytest.raises(InputError, match=r"asks for 1\.2 of all places"):
        ExposureConfig(each=0.6).quotas(["a", "b"], 10)
