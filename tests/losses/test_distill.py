"""Losses against a teacher, against plain loops."""

import math

import pytest
import torch
from torch import Tensor

from recsys.losses.distill import kl_to_teacher, margin_mse

LOSSES = [kl_to_teacher, margin_mse]


def case(rows: int = 6, size: int = 5) -> tuple[Tensor, Tensor, Tensor]:
    """Rows of different length: one candidate, none, and one without its first."""
    torch.manual_seed(0)
    mask = torch.arange(size) < torch.tensor([5, 3, 1, 0, 2, 5])[:rows, None]
    mask[5, 0] = False
    student, teacher = (torch.randn(rows, size, dtype=torch.float64) * 3 for _ in range(2))
    return student.masked_fill(~mask, math.nan).requires_grad_(), teacher.masked_fill(~mask, -math.inf), mask


def plain_kl(student: list[float], teacher: list[float], temperature: float) -> float:
    if len(student) < 2:
        return 0.0
    p = [math.exp(t / temperature) for t in teacher]
    q = [math.exp(s) for s in student]
    return sum(a / sum(p) * math.log(a / sum(p) / (b / sum(q))) for a, b in zip(p, q, strict=True))


def plain_margin(student: list[float], teacher: list[float], temperature: float) -> float:
    if len(student) < 2:
        return 0.0
    gaps = [(student[0] - s) - (teacher[0] - t) / temperature for s, t in zip(student, teacher, strict=True)]
    return sum(gap**2 for gap in gaps[1:]) / (len(gaps) - 1)


@pytest.mark.parametrize("temperature", [1.0, 2.5])
def test_a_row_counts_what_the_formulas_say(temperature: float) -> None:
    student, teacher, mask = case()
    divergence, margin = (loss(student, teacher, mask, temperature) for loss in LOSSES)
    for row in range(len(mask)):
        real = [[float(value) for value in table[row, mask[row]].detach()] for table in (student, teacher)]
        assert divergence[row].item() == pytest.approx(plain_kl(*real, temperature))
        first = bool(mask[row, 0])
        assert margin[row].item() == pytest.approx(plain_margin(*real, temperature) if first else 0)


@pytest.mark.parametrize("loss", LOSSES)
def test_a_student_who_agrees_loses_nothing_and_padding_gets_no_gradient(loss) -> None:
    student, teacher, mask = case()
    loss(student, teacher, mask).sum().backward()
    assert student.grad is not None
    assert student.grad.isfinite().all()
    assert not student.grad[~mask].any()
    assert not loss(teacher + 2, teacher, mask).detach().abs().gt(1e-12).any()
