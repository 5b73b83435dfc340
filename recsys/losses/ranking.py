"""Losses over lists of candidates: which one of a list, and each for itself. Both have one signature.

Letters: B lists, K candidates of a list. `mask` is True for a real candidate; what stands at padding (-inf, NaN) is not
read and gets no gradient.
"""

import torch
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits


def listwise_softmax(logits: Tensor, labels: Tensor, mask: Tensor) -> Tensor:
    """Softmax cross-entropy over each list (ListNet's top-one loss, Cao et al. 2007, with labels as the distribution).

    L = mean over lists with a positive of -sum_k y_k log softmax(z)_k,   y = labels / (sum of the list's labels)

    A list without a positive says nothing about order and is skipped; if all are, the loss is 0.

    Args:
        logits: [B, K] floating point.
        labels: [B, K] grades; 0 or less is not relevant.
        mask: [B, K] bool.

    Returns:
        Scalar, float32 or wider.
    """
    logits = _real(logits, mask)
    gains = labels.to(logits.dtype).clamp_min(0).masked_fill(~mask, 0)
    total = gains.sum(1, keepdim=True)
    share = gains / total.masked_fill(total == 0, 1)
    lowest = torch.finfo(logits.dtype).min / 4  # finite, so that a list of padding alone gives no NaN
    log_chance = logits.masked_fill(~mask, lowest).log_softmax(1).masked_fill(~mask, 0)
    lists = (total > 0).sum().clamp_min(1)
    return -(share * log_chance).sum() / lists


def pointwise_bce(logits: Tensor, labels: Tensor, mask: Tensor) -> Tensor:
    """Binary cross-entropy of sigmoid(z) against "label > 0", the mean over all real candidates; 0 if there is none.

    Args:
        logits: [B, K] floating point.
        labels: [B, K] grades.
        mask: [B, K] bool.

    Returns:
        Scalar, float32 or wider.
    """
    logits = _real(logits, mask)
    positive = (labels > 0).to(logits.dtype)
    losses = binary_cross_entropy_with_logits(logits, positive, reduction="none")
    return losses.masked_fill(~mask, 0).sum() / mask.sum().clamp_min(1)


def _real(logits: Tensor, mask: Tensor) -> Tensor:
    wide = logits.to(torch.promote_types(logits.dtype, torch.float32))
    return wide.masked_fill(~mask, 0)
