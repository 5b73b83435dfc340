"""Losses over lists, against plain loops."""

import math

import pytest
import torch
from torch import Tensor

from recsys.losses.ranking import listwise_softmax, pointwise_bce

LOSSES = [listwise_softmax, pointwise_bce]


def case(seed: int = 0, rows: int = 7, size: int = 9) -> tuple[Tensor, Tensor, Tensor]:
    """Lists of different length, some without a positive, one empty; graded labels; double precision."""
    draw = torch.Generator().manual_seed(seed)
    mask = torch.arange(size) < torch.tensor([9, 5, 1, 0, 9, 3, 2])[:rows, None]
    labels = torch.randint(0, 4, (rows, size), generator=draw).sub(1).clamp_min(0).double()
    labels[1] = 0
    logits = torch.randn(rows, size, generator=draw, dtype=torch.float64)
    return logits.masked_fill(~mask, -math.inf), labels, mask


def plain_listwise(logits: Tensor, labels: Tensor, mask: Tensor) -> float:
    losses = []
    for row in range(len(logits)):
        real = [k for k in range(logits.shape[1]) if mask[row, k]]
        total = sum(float(labels[row, k]) for k in real)
        if total:
            mass = math.log(sum(math.exp(float(logits[row, k])) for k in real))
            losses.append(-sum(float(labels[row, k]) / total * (float(logits[row, k]) - mass) for k in real))
    return sum(losses) / len(losses)


def plain_pointwise(logits: Tensor, labels: Tensor, mask: Tensor) -> float:
    losses = []
    for row, k in mask.nonzero().tolist():
        chance = 1 / (1 + math.exp(-float(logits[row, k])))
        losses.append(-math.log(chance if labels[row, k] > 0 else 1 - chance))
    return sum(losses) / len(losses)


@pytest.mark.parametrize("seed", range(3))
def test_both_losses_equal_plain_loops(seed: int):
    logits, labels, mask = case(seed)
    for loss, plain in ((listwise_softmax, plain_listwise), (pointwise_bce, plain_pointwise)):
        assert float(loss(logits, labels, mask)) == pytest.approx(plain(logits, labels, mask), abs=1e-12)


@pytest.mark.parametrize("loss", LOSSES)
def test_the_gradient_is_that_of_finite_differences_and_zero_at_padding(loss):
    logits, labels, mask = case()
    logits.requires_grad_()
    (gradient,) = torch.autograd.grad(loss(logits, labels, mask), logits)
    assert gradient[~mask].abs().max() == 0
    for row, k in mask.nonzero()[::5].tolist():
        step = torch.zeros_like(logits)
        step[row, k] = 1e-6
        slope = (loss(logits.detach() + step, labels, mask) - loss(logits.detach() - step, labels, mask)) / 2e-6
        assert float(gradient[row, k]) == pytest.approx(float(slope), abs=1e-8)


@pytest.mark.parametrize("loss", LOSSES)
def test_what_stands_at_padding_means_nothing(loss):
    logits, labels, mask = case()
    other = logits.masked_fill(~mask, 1e30)
    other[~mask & (torch.arange(9) % 2 == 0)] = math.nan
    assert float(loss(other, labels.masked_fill(~mask, 3), mask)) == float(loss(logits, labels, mask))


@pytest.mark.parametrize("loss", LOSSES)
def test_nothing_to_learn_from_is_a_loss_of_zero_with_a_gradient(loss):
    logits, _, mask = case()
    nothing = torch.zeros_like(mask)
    logits = logits.requires_grad_()
    value = loss(logits, torch.zeros_like(logits), nothing)
    (gradient,) = torch.autograd.grad(value, logits)
    assert value.item() == 0
    assert gradient.abs().max() == 0


def test_a_list_without_a_positive_is_skipped():
    logits, labels, mask = case()
    kept = labels.masked_fill(~mask, 0).sum(1) > 0
    assert not kept.all()
    some = listwise_softmax(logits[kept], labels[kept], mask[kept])
    assert float(listwise_softmax(logits, labels, mask)) == pytest.approx(float(some))


def test_a_sure_and_right_order_costs_nothing_and_equal_scores_cost_the_log_of_the_length():
    mask, labels = torch.ones(1, 8, dtype=torch.bool), torch.nn.functional.one_hot(torch.tensor([3]), 8).float()
    assert float(listwise_softmax(labels * 200, labels, mask)) == pytest.approx(0, abs=1e-12)
    assert float(pointwise_bce((labels - 0.5) * 200, labels, mask)) == pytest.approx(0, abs=1e-12)
    assert float(listwise_softmax(labels * 0, labels, mask)) == pytest.approx(math.log(8))
    assert float(pointwise_bce(labels * 0, labels, mask)) == pytest.approx(math.log(2))


@pytest.mark.parametrize("loss", LOSSES)
def test_half_precision_is_widened(loss):
    logits, labels, mask = case()
    assert loss(logits.bfloat16(), labels, mask).dtype == torch.float32
