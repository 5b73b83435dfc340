"""The perfect order against every order there is."""

from itertools import permutations

import pytest
import torch

from recsys.metrics.ceiling import perfect_ranks
from recsys.metrics.ranking import ndcg, rank_of_targets

ITEMS = 6


@pytest.mark.parametrize("seed", range(6))
def test_no_order_of_the_list_is_better(seed):
    generator = torch.Generator().manual_seed(seed)
    listed = torch.randperm(ITEMS, generator=generator)[:4].tolist()
    targets = torch.randperm(ITEMS, generator=generator)[:3].unsqueeze(0)
    grades = torch.randint(1, 4, (1, 3), generator=generator)

    def ranks(order: tuple[int, ...]) -> torch.Tensor:
        scores = torch.full((1, ITEMS), -torch.inf)
        scores[0, list(order)] = -torch.arange(len(order)).float()
        return rank_of_targets(scores, targets)

    best = max(float(ndcg(ranks(order), grades, 2)) for order in permutations(listed))
    perfect = perfect_ranks(ranks(tuple(listed)), grades, ITEMS)
    assert float(ndcg(perfect, grades, 2)) == pytest.approx(best)


def test_misses_and_padding_stay_what_they_are():
    ranks, grades = torch.tensor([[4, 9, 1, -1], [9, -1, -1, -1]]), torch.tensor([[1, 3, 2, 0], [1, 0, 0, 0]])
    assert perfect_ranks(ranks, grades, 9).tolist() == [[1, 9, 0, -1], [9, -1, -1, -1]]


def test_equal_grades_keep_apart():
    assert perfect_ranks(torch.tensor([[7, 3]]), torch.ones(1, 2), 9).sort().values.tolist() == [[0, 1]]
