"""Shares of the history, by hand."""

import math

import torch

from recsys.models.habits import event_shares, habits


def test_a_value_is_worth_the_log_of_its_share_over_an_even_one():
    history = torch.tensor([[[[1]], [[1]], [[3]], [[0]]]])  # value 1 twice, value 3 once, one place empty
    candidates = torch.tensor([[[[1]], [[2]], [[3]], [[0]]]])
    found = habits(history, candidates, [4])[0, :, 0]
    share = [4 * (count + 2) / (3 + 4 * 2) for count in (2, 0, 1)]
    assert torch.allclose(found, torch.tensor([*map(math.log, share), 0.0]))


def test_a_cell_of_several_values_counts_in_parts_and_is_worth_their_mean_share():
    history = torch.tensor([[[[1, 2]], [[1, 0]]]])
    candidates = torch.tensor([[[[1, 2]], [[2, 0]]]])
    share = [2 * (1.5 + 2) / 6, 2 * (0.5 + 2) / 6]
    expected = [math.log(sum(share) / 2), math.log(share[1])]
    assert torch.allclose(habits(history, candidates, [2])[0, :, 0], torch.tensor(expected))


def test_without_a_history_every_value_is_as_likely_as_the_others():
    history, candidates = torch.zeros(2, 3, 2, 1, dtype=torch.long), torch.ones(2, 4, 2, 1, dtype=torch.long)
    assert habits(history, candidates, [5, 7]).abs().max() < 1e-6
    assert habits(history[:, :0], candidates, [5, 7]).abs().max() < 1e-6


def test_columns_do_not_touch_one_another():
    generator = torch.Generator().manual_seed(0)
    history = torch.randint(0, 4, (2, 5, 3, 2), generator=generator)
    candidates = torch.randint(0, 4, (2, 6, 3, 2), generator=generator)
    whole = habits(history, candidates, [3, 3, 3])
    for column in range(3):
        own = habits(history[:, :, column : column + 1], candidates[:, :, column : column + 1], [3])
        assert torch.allclose(whole[:, :, column : column + 1], own)


def test_a_kind_of_event_is_worth_the_log_of_its_share_over_an_even_one():
    event, shown = torch.tensor([[2, 2, 0, 1], [1, 1, 1, 1]]), torch.tensor([[True, True, True, False], [False] * 4])
    share = [3 * (count + 2) / (3 + 3 * 2) for count in (1, 0, 2)]
    expected = torch.tensor([[*map(math.log, share)], [0.0, 0.0, 0.0]])
    assert torch.allclose(event_shares(event, shown, 3), expected, atol=1e-6)
