"""Dropout by 16 bits a decision: the same law as torch's, in value and in gradient."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from recsys.models.dropout import Dropout, drop, with_fast_dropout


@pytest.mark.parametrize("p", [0.1, 0.5, 0.9])
@pytest.mark.parametrize("shape", [(400, 501), (7,), (3, 5, 1)])
def test_entries_are_zeroed_with_the_chance_asked_for_and_the_others_scaled(p: float, shape: tuple[int, ...]):
    torch.manual_seed(0)
    values = torch.ones(shape)
    found = torch.stack([drop(values, p) for _ in range(max(200_000 // values.numel(), 1))])
    kept = found != 0
    assert abs(kept.float().mean() - (1 - p)) < 5 * (p * (1 - p) / found.numel()) ** 0.5
    torch.testing.assert_close(found[kept], torch.full_like(found[kept], 1 / (1 - p)), rtol=2e-4, atol=0)


def test_neighbouring_entries_are_dropped_independently():
    torch.manual_seed(0)
    dropped = (drop(torch.ones(400_000), 0.3) == 0).float()
    for gap in (1, 2, 3, 4, 8):
        both = (dropped[:-gap] * dropped[gap:]).mean()
        assert abs(both - 0.09) < 0.003


def test_the_gradient_passes_where_the_value_did():
    values = torch.randn(1000, requires_grad=True)
    found = drop(values, 0.2)
    found.sum().backward()
    torch.testing.assert_close(values.grad * values, found)


@pytest.mark.parametrize("p", [0.0, 1.0])
def test_none_and_all_are_torchs_own(p: float):
    values = torch.randn(50)
    assert torch.equal(drop(values, p), F.dropout(values, p))


def test_one_seed_draws_one_mask():
    masks = []
    for _ in range(2):
        torch.manual_seed(7)
        masks.append(drop(torch.ones(999), 0.5))
    assert torch.equal(*masks)


def test_half_precision_stays_half_precision():
    assert drop(torch.ones(9, dtype=torch.bfloat16), 0.5).dtype == torch.bfloat16


def test_every_dropout_of_a_model_is_replaced_and_still_does_nothing_in_evaluation():
    model = with_fast_dropout(nn.Sequential(nn.Linear(4, 4), nn.Dropout(0.5), nn.Sequential(nn.Dropout(0.1))))
    found = [part for part in model.modules() if isinstance(part, nn.Dropout)]
    assert [(type(part), part.p) for part in found] == [(Dropout, 0.5), (Dropout, 0.1)]
    values = torch.randn(3, 4)
    torch.testing.assert_close(model.eval()(values), model[0](values))
