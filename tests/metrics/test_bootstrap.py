"""The bootstrap against a plain loop over the same draws, and against what is known of a normal mean."""

import numpy as np
import pytest

from recsys.metrics import bootstrap
from recsys.metrics.bootstrap import (
    Interval,
    centred_interval,
    mean_interval,
    paired_bootstrap,
    ratio_interval,
    resample_weights,
)


def plain_bootstrap(differences: np.ndarray, resamples: int, seed: int) -> tuple[float, float]:
    rng, means = np.random.default_rng(seed), []
    for _ in range(resamples):
        drawn = [float(differences[row]) for row in rng.integers(0, len(differences), size=len(differences))]
        means.append(sum(drawn) / len(drawn))
    means.sort()

    def quantile(share: float) -> float:
        place = share * (len(means) - 1)
        below = int(place)
        return means[below] + (place - below) * (means[min(below + 1, len(means) - 1)] - means[below])

    return quantile(0.025), quantile(0.975)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("count", [1, 7, 60])
def test_an_interval_equals_that_of_a_plain_loop(seed, count):
    differences = np.random.default_rng(seed + 10).normal(size=count)
    found = paired_bootstrap(differences, resamples=200, seed=seed)
    assert (found.low, found.high) == pytest.approx(plain_bootstrap(differences, 200, seed))
    assert found.mean == pytest.approx(differences.mean())


def test_drawing_in_blocks_changes_nothing(monkeypatch):
    differences = np.random.default_rng(0).normal(size=101)
    whole = paired_bootstrap(differences)
    monkeypatch.setattr(bootstrap, "_BLOCK", 1000)
    assert paired_bootstrap(differences) == whole


def test_many_differences_give_about_the_interval_of_a_normal_mean():
    differences = np.random.default_rng(0).normal(0.1, 1.0, size=4000)
    found = paired_bootstrap(differences)
    half = 1.96 * differences.std() / 4000**0.5
    assert (found.low, found.high) == pytest.approx((found.mean - half, found.mean + half), abs=0.1 * half)
    assert found.sign == 1


def test_the_sign_is_told_only_where_the_interval_leaves_zero_out():
    assert Interval(mean=0.1, low=0.01, high=0.2).sign == 1
    assert Interval(mean=-0.1, low=-0.2, high=-0.01).sign == -1
    assert Interval(mean=0.1, low=-0.01, high=0.2).sign == 0
    assert paired_bootstrap(np.zeros(9)) == Interval(mean=0.0, low=0.0, high=0.0)
    assert paired_bootstrap(np.zeros(9)).sign == 0


def test_without_a_difference_nothing_is_known():
    found = paired_bootstrap(np.zeros(0))
    assert np.isnan([found.mean, found.low, found.high]).all()
    assert found.sign == 0


def test_one_set_of_draws_gives_means_and_their_intervals():
    weights = resample_weights(4, resamples=500)
    assert weights.shape == (500, 4)
    assert (weights.sum(1) == 4).all()
    values = np.array([1.0, np.nan, 3.0, 5.0])
    found = mean_interval(values, weights)
    assert found.mean == 3.0
    assert 1.0 <= found.low < 3.0 < found.high <= 5.0
    first = weights[0]
    assert mean_interval(values, weights[:1]).low == pytest.approx(
        (first * np.nan_to_num(values)).sum() / first[[0, 2, 3]].sum()
    )


def test_a_ratio_is_that_of_the_same_draws():
    weights, base = resample_weights(50), np.random.default_rng(0).random(50)
    found = ratio_interval(0.9 * base, base, weights)  # a tenth is lost in every resample
    assert [found.mean, found.low, found.high] == pytest.approx([-0.1] * 3, abs=1e-6)
    assert np.isnan(ratio_interval(base, np.zeros(50), weights).mean)


def test_a_centred_interval_lies_about_the_point():
    found = centred_interval(0.5, np.array([0.2, 0.3, 0.4]), level=1.0)
    assert [found.mean, found.low, found.high] == pytest.approx([0.5, 0.4, 0.6])
