"""The baselines against dense matrices and plain loops."""

import numpy as np
import pytest
from numpy.typing import NDArray

from recsys.retrieval.baselines import Markov, Popularity

ITEMS = 12


def random_histories(seed: int, users: int = 30) -> list[NDArray[np.int64]]:
    """Histories of 0 to 15 items, with repeats."""
    random = np.random.default_rng(seed)
    return [random.integers(0, ITEMS, random.integers(0, 16)) for _ in range(users)]


def dense_markov(train: list[NDArray[np.int64]], window: int, shrinkage: float) -> NDArray[np.float64]:
    """The weights [N, N] by their definition."""
    weights = np.zeros((ITEMS, ITEMS))
    for history in train:
        for first, item in enumerate(history):
            for gap, later in enumerate(history[first + 1 : first + 1 + window], start=1):
                weights[item, later] += 1 / gap
    return weights / (weights.sum(1, keepdims=True) + shrinkage)


def test_popularity_scores_every_history_by_the_counts() -> None:
    model = Popularity.fit([np.array([1, 1, 3]), np.array([], np.int64), np.array([3, 1])], 5)
    assert model.scores([np.array([1]), np.array([], np.int64)]).tolist() == [[0, 3, 0, 2, 0]] * 2


@pytest.mark.parametrize(("window", "shrinkage"), [(10, 20.0), (1, 0.5), (40, 3.0)])
def test_markov_equals_a_dense_matrix(window: int, shrinkage: float) -> None:
    train, asked = random_histories(0), random_histories(1)
    weights = dense_markov(train, window, shrinkage)
    counts = np.bincount(np.concatenate(train), minlength=ITEMS)
    scores = Markov.fit(train, ITEMS, window=window, shrinkage=shrinkage).scores(asked)
    for row, history in zip(scores, asked, strict=True):
        latest = history[::-1][:window]
        wanted = 1e-9 * counts + sum(weights[item] / step for step, item in enumerate(latest, start=1))
        np.testing.assert_allclose(row, wanted, rtol=1e-12)


def test_markov_does_not_depend_on_the_order_of_users() -> None:
    train, asked = random_histories(2), random_histories(3)
    forward, backward = Markov.fit(train, ITEMS), Markov.fit(train[::-1], ITEMS)
    assert np.array_equal(forward.scores(asked), backward.scores(asked))


def test_markov_falls_back_to_popularity_for_an_empty_history() -> None:
    train, empty = random_histories(4), [np.array([], np.int64)]
    order = Markov.fit(train, ITEMS).scores(empty).argsort(kind="stable")
    assert np.array_equal(order, Popularity.fit(train, ITEMS).scores(empty).argsort(kind="stable"))


def test_pairs_do_not_cross_from_one_user_to_the_next() -> None:
    model = Markov.fit([np.array([0, 1]), np.array([2, 3])], 4, shrinkage=0.0)
    assert model.followers.tolist() == [1, 3]
    assert model.scores([np.array([1])])[0].argmax() == 0  # nothing follows item 1: only popularity is left


def test_fitting_on_nothing_gives_zeros() -> None:
    for model in (Popularity.fit([], 3), Markov.fit([], 3), Markov.fit([np.array([], np.int64)], 3)):
        assert model.scores([np.array([2, 1])]).tolist() == [[0.0, 0.0, 0.0]]


def test_compact_integer_types_do_not_overflow() -> None:
    train = [np.array([300, 301, 300], np.int16)]
    model = Markov.fit(train, 302, shrinkage=0.0)
    assert model.scores([np.array([300], np.int16)])[0].argmax() == 301
