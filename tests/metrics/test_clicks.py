"""Clicks corrected for place and policy: the planted examination comes back, and the truth lies in the interval."""

import numpy as np
import pytest

from recsys.metrics.clicks import click_rate, examination_error, fit_examination

LOOK = np.array([1.0, 0.6, 0.4, 0.3, 0.2])


def shuffled(rng: np.random.Generator, lists: int, pull: np.ndarray) -> tuple[np.ndarray, ...]:
    """Items, ranks, clicks and list numbers of lists that were drawn from all items in any order."""
    items = np.argsort(rng.random((lists, len(pull))), axis=1)[:, : len(LOOK)]
    clicked = rng.random(items.shape) < LOOK * pull[items]
    ranks = np.tile(np.arange(len(LOOK)), lists)
    return items.ravel(), ranks, clicked.ravel(), np.repeat(np.arange(lists), len(LOOK))


def test_the_planted_examination_is_found_within_its_error():
    rng = np.random.default_rng(0)
    items, ranks, clicked, lists = shuffled(rng, 6000, rng.uniform(0.1, 0.8, 12))
    found = fit_examination(items, ranks, clicked, len(LOOK))
    error = examination_error(items, ranks, clicked, lists, len(LOOK))
    assert found[0] == 1
    assert error[0] == 0
    assert (np.abs(found - LOOK)[1:] < 3 * error[1:]).all()
    assert (error < 0.05).all()


def test_good_items_on_top_do_not_pass_for_examination():
    """Clicks by rank fall faster than looks where better items stand higher; items at several ranks tell them apart."""
    rng = np.random.default_rng(1)
    pull = np.linspace(0.9, 0.1, 12)
    noisy = -pull + 0.3 * rng.normal(size=(20_000, 12))
    items = np.argsort(noisy, axis=1)[:, : len(LOOK)]
    clicked = rng.random(items.shape) < LOOK * pull[items]
    ranks = np.tile(np.arange(len(LOOK)), len(items))
    by_rank = clicked.mean(0) / clicked.mean(0)[0]
    found = fit_examination(items.ravel(), ranks, clicked.ravel(), len(LOOK))
    assert np.abs(found - LOOK).max() < 0.5 * np.abs(by_rank - LOOK).max()


def test_a_place_that_was_never_shown_has_no_value():
    found = fit_examination(np.array([0, 1, 1, 0]), np.array([0, 1, 0, 1]), np.array([True, False, True, True]), 3)
    assert np.isnan(found[2])
    assert np.isfinite(found[:2]).all()


def test_the_estimate_by_hand():
    clicked = np.array([True, False, True, False])
    found = click_rate(clicked, np.array([1.0, 0.5, 0.5, 1]), np.full(4, 0.5), np.array([0.5, 0.5, 0.25, 0.5]))
    values = np.array([1.0, 0, 4, 0])  # weights 1, 2, 4, 1
    assert found.interval.mean == pytest.approx(values.mean())
    assert found.variance == pytest.approx(values.var(ddof=1) / 4)
    assert found.effective == pytest.approx(8**2 / 22)
    assert found.clipped == 0


def test_a_clipped_weight_is_told():
    found = click_rate(np.array([True, True]), np.ones(2), np.ones(2), np.array([1.0, 0.01]), clip=10)
    assert found.interval.mean == pytest.approx((1 + 10) / 2)
    assert found.clipped == 0.5


def test_an_error_of_the_examination_widens_the_interval():
    look = np.array([1.0, 0.5])
    plain = click_rate(np.array([True, True]), look, np.ones(2), np.ones(2))
    wider = click_rate(np.array([True, True]), look, np.ones(2), np.ones(2), error=np.array([0.0, 0.1]))
    assert wider.variance - plain.variance == pytest.approx(((1 * 0 + 2 * 0.1 / 0.5) / 2) ** 2)


def test_the_interval_holds_the_truth_of_another_policy_as_often_as_it_says():
    rng, pull = np.random.default_rng(2), np.array([0.1, 0.3, 0.6])
    logged = np.array([0.7, 0.2, 0.1])
    inside = 0
    for _ in range(200):
        item = rng.choice(3, size=800, p=logged)
        found = click_rate(rng.random(800) < pull[item], np.ones(800), np.full(800, 1 / 3), logged[item])
        inside += found.interval.low <= pull.mean() <= found.interval.high
    assert inside >= 180
