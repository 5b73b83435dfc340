"""Weights of pairs of values, against loops."""

import pytest
import torch

from recsys.batch import UserBatch
from recsys.errors import InputError
from recsys.models.crosses import Crosses, latest_of_each_kind


def test_each_pair_of_values_adds_its_weight_and_several_of_a_cell_their_mean():
    torch.manual_seed(0)
    crosses = Crosses([3, 2], [4, 5], gain=2.0)
    torch.nn.init.normal_(crosses.table)
    theirs = [torch.randint(0, 4, (6, 2)), torch.randint(0, 3, (6, 1))]
    mine = torch.randint(0, 5, (6, 7, 2, 3))
    found = crosses(theirs, mine)
    for row in range(6):
        for place in range(7):
            expected = 0.0
            for first, column in ((0, theirs[0][row]), (3, theirs[1][row])):
                for second, cell in ((0, mine[row, place, 0]), (4, mine[row, place, 1])):
                    pairs = [(one, two) for one in column.tolist() for two in cell.tolist() if one and two]
                    weights = [2 * crosses.table[first + one - 1, second + two - 1].item() for one, two in pairs]
                    expected += sum(weights) / max(len(weights), 1)
            assert found[row, place].item() == pytest.approx(expected, abs=1e-5)


def test_before_training_no_pair_says_anything():
    crosses = Crosses([3], [4], gain=1.0)
    assert crosses([torch.ones(2, 1, dtype=torch.long)], torch.ones(2, 5, 1, 1, dtype=torch.long)).abs().max() == 0


def test_more_weights_than_anybody_can_learn_are_refused():
    with pytest.raises(InputError, match="columns with fewer values"):
        Crosses([10_000], [10_000], gain=1.0)


def test_the_latest_item_of_a_kind_of_event_is_that_of_its_last_entry_and_a_search_is_none():
    users = UserBatch(
        history=torch.tensor([[4, 2, 9, 3], [1, 1, 0, 0]]), event=torch.tensor([[1, 2, 1, 2], [2, 2, 0, 0]]),
        history_mask=torch.tensor([[True, True, True, True], [True, True, False, False]]),
    )  # fmt: skip
    found = latest_of_each_kind(users, items=5, kinds=3)
    assert [there.tolist() for _, there in found] == [[False, False], [True, False], [True, True]]
    assert found[1][0][0] == 4
    assert found[2][0].tolist() == [3, 1]
