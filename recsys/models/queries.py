"""What asks, as one vector: words, a picture, or both."""

from collections.abc import Sequence

import torch
from torch import Tensor


def mean_of_known(parts: Sequence[tuple[Tensor, Tensor | None]]) -> Tensor:
    """[q, D] mean over the sources of each query, of those that it has; zero where it has none.

    Args:
        parts: of each source the states [q, D] and [q] bool, which queries have it; None: all have.
    """
    states = [state if known is None else torch.where(known[:, None], state, 0.0) for state, known in parts]
    if len(parts) == 1:
        return states[0]
    there = [
        torch.ones_like(state[:, :1]) if known is None else known[:, None].to(state.dtype) for state, known in parts
    ]
    return torch.stack(states).sum(0) / torch.stack(there).sum(0).clamp(min=1)
