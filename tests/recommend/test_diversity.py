"""Re-ranking within a list: strength 0 changes nothing, and every greedy choice is that of the formula by hand."""

from collections.abc import Callable
from itertools import permutations

import numpy as np
import pytest

from recsys.errors import InputError
from recsys.recommend.diversity import (
    PADDING,
    CalibrationConfig,
    DppConfig,
    MmrConfig,
    XquadConfig,
    calibrate,
    dpp,
    mmr,
    xquad,
)

RNG = np.random.default_rng(0)
B, K, D, G, P = 6, 9, 5, 3, 7


def unit(*shape: int) -> np.ndarray:
    vectors = RNG.normal(size=shape)
    return (vectors / np.linalg.norm(vectors, axis=-1, keepdims=True)).astype(np.float32)


RELEVANCE = -np.sort(-RNG.random((B, K)), axis=1)
VECTORS = unit(B, K, D)
GROUPS = RNG.integers(G, size=(B, K))
MIX, OWN = RNG.dirichlet(np.ones(G), B), RNG.dirichlet(np.ones(G), B)
MIXES = RNG.dirichlet(np.ones(G), (B, K)).astype(np.float32)
WAYS = {
    "mmr": lambda relevance, strength, places: mmr(relevance, VECTORS, strength, places),
    "dpp": lambda relevance, strength, places: dpp(relevance, VECTORS, strength, places),
    "xquad": lambda relevance, strength, places: xquad(relevance, GROUPS, MIX, strength, places),
    "calibration": lambda relevance, strength, places: calibrate(relevance, MIXES, OWN, strength, places),
}


def greedy(worth: Callable[[int, list[int]], float]) -> list[int]:
    """The plain thing: each next candidate is the one of the greatest worth, given the list."""
    taken: list[int] = []
    while len(taken) < P:
        taken.append(max((one for one in range(K) if one not in taken), key=lambda one: worth(one, taken)))
    return taken


@pytest.mark.parametrize("name", WAYS)
def test_strength_zero_keeps_the_order(name):
    equal = RELEVANCE.round(1)  # with equal ones among them
    assert WAYS[name](equal, 0.0, K).tolist() == [list(range(K))] * B


@pytest.mark.parametrize("name", WAYS)
def test_padding_is_taken_last_and_in_its_order(name):
    short = RELEVANCE.copy()
    short[:, 6:] = PADDING
    taken = WAYS[name](short, 0.7, K)
    assert (np.sort(taken[:, :6], axis=1) == np.arange(6)).all()
    assert (np.sort(taken[:, 6:], axis=1) == np.arange(6, K)).all()


@pytest.mark.parametrize("strength", [0.2, 0.8, 1.0])
def test_mmr_weighs_relevance_against_the_nearest_above(strength):
    for row, taken in enumerate(mmr(RELEVANCE, VECTORS, strength, P).tolist()):
        cosine = VECTORS[row].astype(np.float64) @ VECTORS[row].T

        def worth(one: int, above: list[int], row: int = row, cosine: np.ndarray = cosine) -> float:
            near = max((cosine[one, other] for other in above), default=0.0)
            return (1 - strength) * RELEVANCE[row, one] - strength * near

        assert taken == greedy(worth)


@pytest.mark.parametrize("strength", [0.1, 0.5])
def test_dpp_takes_what_a_determinant_for_each_candidate_would(strength):
    places = D  # as many as there are dimensions
    for row, taken in enumerate(dpp(RELEVANCE, VECTORS, strength, places).tolist()):
        cosine = VECTORS[row].astype(np.float64) @ VECTORS[row].T

        def worth(one: int, above: list[int], row: int = row, cosine: np.ndarray = cosine) -> float:
            some = [*above, one]
            volume = np.linalg.slogdet(cosine[np.ix_(some, some)])[1]
            return (1 - strength) * RELEVANCE[row, some].sum() + strength * volume

        assert taken == greedy(worth)[:places]


def test_dpp_finds_the_best_of_all_sets_where_items_come_in_kinds():
    """Three kinds of two copies each, at right angles: the best set of three has one of each."""
    vectors = np.repeat(np.eye(3, dtype=np.float32), 2, axis=0)[None]
    vectors[0, 1::2] = (vectors[0, 1::2] + 0.02) / np.linalg.norm(vectors[0, 1::2] + 0.02, axis=1, keepdims=True)
    relevance = np.array([[1.0, 0.9, 0.8, 0.7, 0.2, 0.1]])
    cosine = vectors[0].astype(np.float64) @ vectors[0].T

    def worth(some: tuple[int, ...]) -> float:
        return 0.5 * relevance[0, list(some)].sum() + 0.5 * np.linalg.slogdet(cosine[np.ix_(some, some)])[1]

    best = max(permutations(range(6), 3), key=worth)
    assert sorted(dpp(relevance, vectors, 0.5, 3)[0].tolist()) == sorted(best)


def test_dpp_goes_on_by_relevance_where_nothing_new_is_left():
    vectors = np.tile(np.array([[1.0, 0.0]], dtype=np.float32), (1, 5, 1))
    assert dpp(np.array([[5.0, 4, 3, 2, 1]]), vectors, 0.5, 5).tolist() == [[0, 1, 2, 3, 4]]


def test_xquad_gives_a_group_less_the_more_of_it_is_listed():
    for row, taken in enumerate(xquad(RELEVANCE, GROUPS, MIX, 0.6, P).tolist()):

        def worth(one: int, above: list[int], row: int = row) -> float:
            group = GROUPS[row, one]
            share = sum(GROUPS[row, other] == group for other in above) / len(above) if above else 0.0
            return 0.4 * RELEVANCE[row, one] + 0.6 * MIX[row, group] * (1 - share)

        assert taken == greedy(worth)


def test_calibration_keeps_near_to_the_users_own_mix():
    for row, taken in enumerate(calibrate(RELEVANCE, MIXES, OWN, 0.6, P).tolist()):

        def worth(one: int, above: list[int], row: int = row) -> float:
            listed = MIXES[row, [*above, one]].astype(np.float64).mean(0)
            smooth = 0.99 * listed + 0.01 * OWN[row]
            return 0.4 * RELEVANCE[row, one] - 0.6 * float((OWN[row] * np.log(OWN[row] / smooth)).sum())

        assert taken == greedy(worth)


@pytest.mark.parametrize(
    "kind", [MmrConfig, DppConfig, XquadConfig, lambda **one: CalibrationConfig(column="x", **one)]
)
def test_a_strength_outside_of_zero_to_one_is_refused(kind):
    with pytest.raises(InputError, match=r"strength is 1\.2"):
        kind(strength=1.2)
