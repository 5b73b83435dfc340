"""Areas under deletion and insertion curves, and how they are compared."""

import numpy as np
import pytest

from recsys.metrics.faithfulness import area_under, curve_sizes, deletion, insertion


@pytest.mark.parametrize(
    ("pieces", "steps", "wanted"),
    [(10, 5, [0, 2, 4, 6, 8, 10]), (3, 5, [0, 1, 2, 3]), (7, 3, [0, 2, 5, 7]), (1, 5, [0, 1]), (0, 5, [0])],
)
def test_a_curve_goes_from_nothing_to_all_in_rising_steps(pieces, steps, wanted):
    assert curve_sizes(pieces, steps) == wanted


def test_the_area_is_the_integral_of_the_broken_line():
    curve = np.array([3.0, 1.0, 2.0, -1.0])
    fine = np.interp(np.linspace(0, 3, 30_001), np.arange(4), curve)
    assert area_under(curve) == pytest.approx(fine.mean(), abs=1e-3)
    assert area_under(np.array([2.5])) == 2.5


def test_evidence_that_carries_the_score_has_a_gap_above_zero_both_ways():
    """A score that is the sum of its pieces' weights; the curves are made by hand."""
    rng = np.random.default_rng(0)
    weights = rng.normal(size=(40, 8))
    areas = np.empty((2, 2, 40))  # (deletion, insertion) x (named, random)
    for row, own in enumerate(weights):
        for column, order in enumerate((np.argsort(-own), rng.permutation(8))):
            inserted = np.concatenate([[0], np.cumsum(own[order])])
            areas[:, column, row] = area_under(own.sum() - inserted), area_under(inserted)
    for compare, (named, random) in zip((deletion, insertion), areas, strict=True):
        found = compare(named, random)
        assert found.recommendations == 40
        assert found.gap.sign == 1
        assert found.gap.mean == pytest.approx(abs(named.mean() - random.mean()))


def test_random_evidence_against_random_evidence_has_no_gap():
    rng = np.random.default_rng(1)
    found = deletion(*rng.normal(size=(2, 400)))
    assert found.gap.sign == 0
