"""What a user's history says of a candidate by counting: how often each of the candidate's values stood in it."""

import torch
from torch import Tensor

_PRIOR = 2.0  # entries that each value is taken to have been met before the history begins
EVENTS = "events"
"""In the place of a column: how the history's entries share out over the kinds of event."""


def habits(history: Tensor, candidates: Tensor, sizes: list[int]) -> Tensor:
    """[B, K, C] float32: log of a value's share of the history, over an even share; 0 without a history or a value.

    share(v) = (n(v) + 2) / (n + 2 size), the expected share of a multinomial with a Dirichlet prior. Half an entry
    (Jeffreys) in place of two makes too much of what was not met in a history of some twenty, and one weight for all
    counts cannot mend that. A cell of several values counts in parts, and is worth their mean share. What attention
    has to find out of thousands of purchases is given here.

    Args:
        history: [B, H, C, V] int64 codes of the history's items; 0 where there is nothing.
        candidates: [B, K, C, V] likewise.
        sizes: number of known values of each column, without code 0.
    """
    parts = []
    for column, size in enumerate(sizes):
        met, asked = history[:, :, column], candidates[:, :, column]
        known = (met > 0).float()
        each = known / known.sum(-1, keepdim=True).clamp_min(1)
        counts = each.new_zeros(len(met), size + 1).scatter_add(1, met.flatten(1), each.flatten(1))
        total = counts.sum(1, keepdim=True)
        share = size * (counts + _PRIOR) / (total + _PRIOR * size)
        there = (asked > 0).float()
        found = share.gather(1, asked.flatten(1)).view(asked.shape)
        mean = (found * there).sum(-1) / there.sum(-1).clamp_min(1)
        parts.append(torch.where(there.any(-1), mean, 1.0).log())
    return torch.stack(parts, dim=-1)


def event_shares(event: Tensor, shown: Tensor, kinds: int) -> Tensor:
    """[B, kinds] float32: log of each kind's share of the history, over an even share, with the same prior.

    Args:
        event: [B, H] int64 codes from 0.
        shown: [B, H] bool, which entries there are.
        kinds: number of codes.
    """
    counts = torch.stack([(shown & (event == kind)).sum(1) for kind in range(kinds)], dim=-1) + _PRIOR
    return (kinds * counts / counts.sum(-1, keepdim=True)).log()
