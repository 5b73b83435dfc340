"""Sources that stand in for one another share what they are worth."""

from itertools import permutations

import numpy as np
import pytest

from recsys.data.requests import serving_requests
from recsys.recommend.deletions import Asked, Unit
from recsys.recommend.evidence import Explainer
from recsys.recommend.shares import shared_worths

SOURCES = [frozenset({Unit("source", at)}) for at in range(4)]


class Game:
    """Scores of one pair: what each source adds alone, and what two add together."""

    def __init__(self, seed: int) -> None:
        rng = np.random.default_rng(seed)
        self.alone, self.together = rng.normal(size=len(SOURCES)), np.triu(rng.normal(size=(4, 4)), 1)

    def scores(self, asked: list[Asked]) -> np.ndarray:
        there = np.array([[not one.gone & source for source in SOURCES] for one in asked], dtype=float)
        return there @ self.alone + np.einsum("ni,ij,nj->n", there, self.together, there)


@pytest.mark.parametrize("seed", range(3))
def test_where_sources_act_in_pairs_their_shares_are_the_mean_over_all_orders_of_arrival(seed):
    game, orders, value = Game(seed), list(permutations(range(4))), np.zeros(4)
    for order in orders:
        gone = set(range(4))
        for source in order:
            before = game.scores([Asked(0, 0, frozenset().union(*(SOURCES[at] for at in gone)))])[0]
            gone.remove(source)
            value[source] += game.scores([Asked(0, 0, frozenset().union(*(SOURCES[at] for at in gone)))])[0] - before
    (found,) = shared_worths(game, [(0, 0)], [SOURCES])
    np.testing.assert_allclose(found, value / len(orders), atol=1e-6)
    assert found.sum() == pytest.approx(
        game.scores([Asked(0, 0)])[0] - game.scores([Asked(0, 0, frozenset().union(*SOURCES))])[0]
    )


def test_of_two_sources_that_say_the_same_each_is_worth_half():
    class Same:
        def scores(self, asked: list[Asked]) -> np.ndarray:
            return np.array([3.0 * (not {*SOURCES[0], *SOURCES[1]} <= one.gone) for one in asked])

    (found,) = shared_worths(Same(), [(0, 0)], [SOURCES[:2]])
    np.testing.assert_allclose(found, [1.5, 1.5])


def test_a_single_source_is_worth_the_score_with_it_minus_the_score_without(served):
    without = Explainer(served, history=1, words=0).open(serving_requests(served.data, "valid", np.array([1, 2])))
    pairs = [(row, int(without.found.items[row, 0])) for row in (0, 1)]
    gone = frozenset({Unit.source("profile")})
    left = without.scores([Asked(*pair, one) for one in (frozenset(), gone) for pair in pairs])
    np.testing.assert_allclose(
        np.stack(shared_worths(without, pairs, [[gone]] * 2))[:, 0], left[:2] - left[2:], atol=1e-5
    )
