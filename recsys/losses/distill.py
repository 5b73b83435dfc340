"""What a teacher thinks of a few candidates, as a loss for a student. Both losses have one signature.

Letters: R rows, C candidates of a row. `mask` is True for a real candidate; what stands at padding is not read and gets
no gradient. A row with fewer than two candidates says nothing: its loss is 0.
"""

import torch
from torch import Tensor


def kl_to_teacher(student: Tensor, teacher: Tensor, mask: Tensor, temperature: float = 1.0) -> Tensor:
    """Kullback-Leibler divergence of the student's softmax from the teacher's (Hinton et al. 2015, arXiv:1503.02531).

    L_r = sum_c p_c (log p_c - log q_c),   p = softmax(teacher / temperature), q = softmax(student)

    Args:
        student: [R, C] logits: scores times the inverse temperature that they are trained with.
        teacher: [R, C] logits.
        mask: [R, C] bool.
        temperature: of the teacher; above 1, its second choices count more.

    Returns:
        [R], float32 or wider.
    """
    student = _real(student, mask)
    teacher = _real(teacher, mask).to(student.dtype)
    lowest = torch.finfo(student.dtype).min / 4  # finite, so that a row of padding alone gives no NaN
    log_q = student.masked_fill(~mask, lowest).log_softmax(1).masked_fill(~mask, 0)
    log_p = (teacher / temperature).masked_fill(~mask, lowest).log_softmax(1)
    chance = log_p.exp().masked_fill(~mask, 0)
    each = (chance * (log_p.masked_fill(~mask, 0) - log_q)).sum(1)
    return torch.where(mask.sum(1) > 1, each, 0)


def margin_mse(student: Tensor, teacher: Tensor, mask: Tensor, temperature: float = 1.0) -> Tensor:
    """Squared difference between the student's and the teacher's margins of the first candidate over the others
    (Hofstaetter et al. 2020, arXiv:2010.02666); arguments as in `kl_to_teacher`, the right one first.

    L_r = mean over c > 0 of ((s_0 - s_c) - (t_0 - t_c) / temperature)^2
    """
    student, teacher = _real(student, mask), _real(teacher, mask) / temperature
    gap = (student[:, :1] - student) - (teacher[:, :1] - teacher)
    others = mask & mask[:, :1]
    return gap.square().masked_fill(~others, 0).sum(1) / (others.sum(1) - 1).clamp_min(1)


def _real(logits: Tensor, mask: Tensor) -> Tensor:
    return logits.to(torch.promote_types(logits.dtype, torch.float32)).masked_fill(~mask, 0)
