"""Fusion of two lists against plain loops over sets and dictionaries."""

import math
import statistics

import numpy as np
import pytest

from recsys.retrieval.fusion import (
    best_first,
    reciprocal_rank,
    reciprocal_rank_of_first,
    shared_out,
    standardise,
    unite,
    weighted,
)

ITEMS = 30


def made_lists(rows: int, k: int, seed: int) -> np.ndarray:
    """Lists of up to `k` distinct items, padded with -1."""
    rng = np.random.default_rng(seed)
    lists = np.full((rows, k), -1, dtype=np.int64)
    for row in lists:
        count = rng.integers(0, k + 1)
        row[:count] = rng.permutation(ITEMS)[:count]
    return lists


ONE, OTHER = made_lists(25, 8, 0), made_lists(25, 5, 1)


def listed(row: np.ndarray) -> list[int]:
    return [item for item in row.tolist() if item >= 0]


def test_a_union_holds_each_item_of_both_lists_once_in_the_order_of_the_table():
    union = unite(ONE, OTHER)
    for row, one, other in zip(union, ONE, OTHER, strict=True):
        wanted = sorted({*listed(one), *listed(other)})
        assert row.tolist() == wanted + [-1] * (union.shape[1] - len(wanted))
    assert unite(np.full((2, 3), -1), np.full((2, 1), -1)).tolist() == [[-1], [-1]]


def test_reciprocal_rank_fusion_equals_its_formula():
    union = unite(ONE, OTHER)
    for row, items in zip(reciprocal_rank(union, ONE, OTHER), range(len(union)), strict=True):
        for item, score in zip(union[items].tolist(), row.tolist(), strict=True):
            places = [one.index(item) for one in (listed(ONE[items]), listed(OTHER[items])) if item in one]
            wanted = sum(1 / (60 + place + 1) for place in places) if item >= 0 else -math.inf
            assert score == pytest.approx(wanted)


@pytest.mark.parametrize("places", [0, 2, 5, 8])
def test_one_list_fills_some_places_of_the_other(places):
    union = unite(ONE, OTHER)
    for row, chosen in enumerate(shared_out(union, ONE, OTHER, places)):
        one, other, length = listed(ONE[row]), listed(OTHER[row]), ONE.shape[1]
        wanted = one[: length - places]
        for item in [*other, *one]:
            wanted += [item] if item not in wanted and len(wanted) < length else []
        assert set(listed(union[row][chosen])) == set(wanted)


def test_weighted_fusion_equals_its_formula():
    union, rng = unite(ONE, OTHER), np.random.default_rng(2)
    dense, lexical = (rng.normal(size=union.shape).astype(np.float32) for _ in range(2))
    for row, found in enumerate(weighted(union, dense, lexical, 0.7)):
        size = len(listed(union[row]))
        first, second = (values[row, :size].astype(np.float64).tolist() for values in (dense, lexical))
        for place in range(size):
            parts = [
                (values[place] - statistics.fmean(values)) / max(statistics.pstdev(values), 1e-6)
                for values in (first, second)
            ]
            assert found[place] == pytest.approx(parts[0] + 0.7 * parts[1])
        assert np.isneginf(found[size:]).all()


def test_no_scale_of_a_source_matters():
    union, rng = unite(ONE, OTHER), np.random.default_rng(2)
    dense, lexical = (rng.normal(size=union.shape) for _ in range(2))
    np.testing.assert_allclose(weighted(union, dense, lexical, 1), weighted(union, 5 * dense - 3, 0.1 * lexical, 1))


def test_what_is_equal_says_nothing_and_padding_is_left_out():
    real = np.array([[True, True, False], [False, False, False]])
    scores = np.array([[4.0, 4.0, 99.0], [1.0, 2.0, 3.0]])
    assert standardise(scores, real).tolist() == [[0, 0, 0], [0, 0, 0]]


def test_equal_scores_go_to_the_smaller_item_and_padding_is_last():
    union = np.array([[3, 5, 8, -1]])
    assert best_first(union, np.array([[1.0, 2.0, 2.0, -np.inf]])).tolist() == [[1, 2, 0, 3]]
    assert best_first(union, np.array([[0.0, 0.0, 0.0, -np.inf]])).tolist() == [[0, 1, 2, 3]]


def test_the_first_right_item_is_what_counts():
    order = np.array([[2, 0, 1], [0, 1, 2]])
    assert reciprocal_rank_of_first(order, np.array([[1, 1, 0], [0, 0, 0]])).tolist() == [0.5, 0]
