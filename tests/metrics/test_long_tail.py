"""Popularity segments and catalogue measures against small sums done by hand."""

import math

import numpy as np
import pytest
import torch

from recsys.metrics.long_tail import coverage, gini, novelty, popularity_segments


def test_segments_split_at_half_and_four_fifths_of_the_interactions() -> None:
    counts = torch.tensor([0, 10, 50, 30, 5, 5])
    assert popularity_segments(counts).tolist() == [3, 2, 0, 1, 2, 2]
    assert popularity_segments(counts).dtype == torch.int8


def test_segments_agree_with_the_cumulative_share() -> None:
    counts = np.random.default_rng(0).zipf(1.4, 500) % 1000
    order = np.argsort(-counts, kind="stable")
    share = np.empty(500)
    share[order] = np.cumsum(counts[order]) / counts.sum()
    wanted = np.where(counts == 0, 3, np.where(share <= 0.5, 0, np.where(share <= 0.8, 1, 2)))
    assert popularity_segments(torch.from_numpy(counts)).tolist() == wanted.tolist()


def test_equally_popular_items_are_taken_by_index() -> None:
    assert popularity_segments(torch.ones(10, dtype=torch.int64)).tolist() == [0] * 5 + [1] * 3 + [2] * 2


def test_an_item_with_more_than_half_leaves_the_head_empty() -> None:
    assert popularity_segments(torch.tensor([6, 2, 2])).tolist() == [1, 1, 2]


def test_without_interactions_everything_is_unseen() -> None:
    assert popularity_segments(torch.zeros(3, dtype=torch.int64)).tolist() == [3, 3, 3]
    assert popularity_segments(torch.zeros(0, dtype=torch.int64)).tolist() == []


def test_coverage_counts_items_shown_at_least_once() -> None:
    assert coverage(torch.tensor([0, 3, 1, 0])) == 0.5
    assert math.isnan(coverage(torch.zeros(0, dtype=torch.int64)))


def test_gini_is_zero_for_equal_and_largest_for_a_single_item() -> None:
    assert gini(torch.full((7,), 4)) == 0.0
    assert gini(torch.tensor([0, 0, 9, 0])) == 0.75
    assert math.isnan(gini(torch.zeros(4, dtype=torch.int64)))


def test_gini_is_half_the_relative_mean_difference() -> None:
    shown = torch.randint(0, 30, (40,), generator=torch.Generator().manual_seed(0))
    differences = (shown.unsqueeze(0) - shown.unsqueeze(1)).abs().sum().item()
    assert gini(shown) == pytest.approx(differences / (2 * 40 * shown.sum().item()), abs=1e-15)


def test_novelty_is_the_mean_self_information_of_what_was_shown() -> None:
    popularity = torch.tensor([7, 3, 0, 2])  # with one added to each: 8, 4, 1, 3 of 16
    assert novelty(torch.tensor([1, 0, 0, 0]), popularity) == 1.0
    assert novelty(torch.tensor([3, 0, 1, 0]), popularity) == (3 * 1 + 4) / 4
    assert math.isnan(novelty(torch.zeros(4, dtype=torch.int64), popularity))


def test_novelty_is_the_same_for_all_items_when_nothing_is_known() -> None:
    assert novelty(torch.tensor([5, 0, 1, 0]), torch.zeros(4, dtype=torch.int64)) == 2.0
