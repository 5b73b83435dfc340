"""Groups: means by hand, intervals that hold them, and nobody told of whom a group is too small to hide."""

import numpy as np
import pytest

from recsys.metrics.bootstrap import resample_weights
from recsys.metrics.fairness import compare_groups, told_groups


def test_means_and_gap_are_those_by_hand():
    groups = ["a"] * 20 + ["b"] * 12 + ["c"] * 10
    values = np.concatenate([np.tile([0.2, 0.4], 10), np.full(12, 0.9), np.full(10, 0.5)])
    found = compare_groups(values, groups, resample_weights(42))
    assert [(group.name, group.people) for group in found.told] == [("a", 20), ("b", 12), ("c", 10)]
    assert [group.value.mean for group in found.told] == pytest.approx([0.3, 0.9, 0.5])
    assert found.gap.mean == pytest.approx(0.6)
    assert found.gap.low < 0.6 < found.gap.high
    assert found.told[1].value.low == pytest.approx(0.9)  # who are all alike have no spread
    assert found.withheld == 0


def test_the_interval_of_a_group_is_the_bootstrap_of_its_own_people():
    rng = np.random.default_rng(0)
    values, groups = rng.random(400), np.repeat(["x", "y"], 200)
    found = compare_groups(values, groups.tolist(), resample_weights(400)).told[0].value
    error = values[:200].std() / np.sqrt(200)
    assert found.high - found.low == pytest.approx(2 * 1.96 * error, rel=0.15)


def test_groups_under_ten_people_are_withheld():
    assert told_groups(["a"] * 30 + ["b"] * 9 + ["c"] * 8) == ["a"]
    found = compare_groups(np.ones(47), ["a"] * 30 + ["b"] * 9 + ["c"] * 8, resample_weights(47, resamples=10))
    assert found.withheld == 2
    assert found.gap is None


def test_what_is_withheld_cannot_be_had_by_subtracting():
    """Three people alone would be the whole less the other groups: the next smallest group goes with them."""
    assert told_groups(["a"] * 30 + ["b"] * 12 + ["c"] * 3) == ["a"]
    assert told_groups(["a"] * 30 + ["b"] * 12) == ["a", "b"]
    assert told_groups(["a"] * 5) == []


def test_only_the_largest_groups_are_told():
    groups = [name for at, name in enumerate("abcd") for _ in range(20 - at)]
    found = compare_groups(np.arange(len(groups), dtype=np.float64), groups, resample_weights(len(groups)), most=2)
    assert [group.name for group in found.told] == ["a", "b"]
    assert found.withheld == 0
