"""What is left to win behind a stage: the best that any order of its list can reach."""

import torch
from torch import Tensor


def perfect_ranks(ranks: Tensor, grades: Tensor, items: int) -> Tensor:
    """Where a perfect stage behind this list would put each target: those that stand in it first, by falling grade.

    Measures of these ranks are the ceiling of whatever only orders or cuts the list.

    Args:
        ranks: [B, P] int64 places in the list; `items` for a target that is not in it, -1 for padding.
        grades: [B, P].
        items: N, the rank of a miss.

    Returns:
        [B, P] int64, misses and padding as they were.
    """
    found = (ranks >= 0) & (ranks < items)
    worth = torch.where(found, grades.double(), -torch.inf)
    order = worth.argsort(dim=1, descending=True, stable=True)
    return torch.where(found, order.argsort(dim=1), ranks)  # the inverse of the order: each target's place in it
