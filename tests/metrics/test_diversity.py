"""Diversity of lists against sums done by hand."""

import math
from itertools import combinations

import numpy as np
import pytest
import torch

from recsys.metrics.diversity import calibration_divergence, group_share, intra_list_distance, self_information
from recsys.metrics.long_tail import novelty

LISTS = np.array([[0, 1, 2], [3, 0, -1], [2, -1, -1], [-1, -1, -1]])


def test_intra_list_distance_is_the_mean_over_all_pairs():
    vectors = np.random.default_rng(0).normal(size=(5, 4))
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    found = intra_list_distance(LISTS, vectors)
    for row, items in enumerate([[0, 1, 2], [3, 0]]):
        pairs = [1 - vectors[a] @ vectors[b] for a, b in combinations(items, 2)]
        assert found[row] == pytest.approx(sum(pairs) / len(pairs), abs=1e-12)
    assert np.isnan(found[2:]).all()


def test_copies_have_no_distance_and_right_angles_one():
    found = intra_list_distance(np.array([[0, 1], [0, 2]]), np.array([[1.0, 0], [1, 0], [0, 1]]))
    assert found.tolist() == [0.0, 1.0]


def test_a_share_counts_what_is_listed_alone():
    member = np.array([True, False, True, False])
    np.testing.assert_allclose(group_share(LISTS, member), [2 / 3, 1 / 2, 1, math.nan])


def test_self_information_is_the_novelty_of_each_list():
    popularity = np.array([7, 3, 0, 2])
    found = self_information(LISTS, popularity)
    assert found[0] == pytest.approx((1 + 2 + 4) / 3)  # 8, 4 and 1 of 16
    for row in range(3):
        shown = torch.bincount(torch.from_numpy(LISTS[row][LISTS[row] >= 0]), minlength=4)
        assert found[row] == pytest.approx(novelty(shown, torch.from_numpy(popularity)))
    assert np.isnan(found[3])


def test_calibration_is_the_divergence_of_the_smoothed_mix():
    mixes = np.array([[1, 0, 0], [0, 1, 0], [0.5, 0.5, 0], [0, 0, 1]])
    own = np.array([[0.5, 0.5, 0], [0.2, 0, 0.8], [1, 0, 0], [1, 0, 0]])
    found = calibration_divergence(LISTS, mixes, own)
    assert found[0] == pytest.approx(0, abs=1e-12)  # (1.5, 1.5, 0) / 3 is the own mix
    by_hand = 0.2 * math.log(0.2 / (0.99 * 0.5 + 0.002)) + 0.8 * math.log(0.8 / (0.99 * 0.5 + 0.008))
    assert found[1] == pytest.approx(by_hand)
    assert found[2] == pytest.approx(math.log(1 / (0.99 * 0.5 + 0.01)))
    assert np.isnan(found[3])
