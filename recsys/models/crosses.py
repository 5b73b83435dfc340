"""What pairs of values say: one weight for each value of the user's side beside each value of a candidate's columns.

The cross-product features of Wide & Deep (Cheng et al. 2016, arXiv:1606.07792). A product of embeddings can hold as
much, but has to single out the pair of columns that matters among all that are summed in it.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from recsys.batch import UserBatch
from recsys.errors import InputError

_MOST = 1 << 22
"""Weights of a table, at most."""


class Crosses(nn.Module):
    """A table of weights, zero at the start. What is missing on either side says nothing."""

    def __init__(self, theirs: Sequence[int], mine: Sequence[int], gain: float) -> None:
        """`theirs` and `mine` are the numbers of known values of each column of the user's side and of a candidate's;
        the weights are learnt `gain` times as fast as the rest. Raises InputError where there are too many of them.
        """
        super().__init__()
        if sum(theirs) * sum(mine) > _MOST:
            raise InputError(
                f"model.crosses would have {sum(theirs):,} x {sum(mine):,} weights; expected {_MOST:,} at most. Name "
                "columns with fewer values."
            )
        self.theirs, self.mine, self.gain = list(theirs), list(mine), gain
        self.table = nn.Parameter(torch.zeros(sum(theirs), sum(mine)))

    def forward(self, theirs: list[Tensor], mine: Tensor) -> Tensor:
        """[B, K] sums of weights; several values of one cell count in parts.

        Args:
            theirs: of each column of the user's side [B, V] codes, 0 for nothing.
            mine: [B, K, C, V] likewise, of the candidates.
        """
        asked = torch.cat([_shares(codes, size) for codes, size in zip(theirs, self.theirs, strict=True)], dim=1)
        weights = nn.functional.pad(asked @ (self.gain * self.table), (1, 0))  # the first: nothing
        start = torch.tensor([0, *self.mine[:-1]], device=mine.device).cumsum(0)[:, None]
        known = mine > 0
        found = weights.gather(1, torch.where(known, mine + start, 0).flatten(1)).view(mine.shape)
        return (found.sum(-1) / known.sum(-1).clamp_min(1)).sum(-1)


def _shares(codes: Tensor, size: int) -> Tensor:
    """[B, size] what part of a cell each value is."""
    known = (codes > 0).float()
    each = known / known.sum(1, keepdim=True).clamp_min(1)
    return each.new_zeros(len(codes), size + 1).scatter_add(1, codes, each)[:, 1:]


def latest_of_each_kind(users: UserBatch, items: int, kinds: int) -> list[tuple[Tensor, Tensor]]:
    """Of each kind of event, [B] the batch's item that it befell last, and whether there is one; `items` of the batch's
    rows are items, those behind them are searches.
    """
    real = users.history_mask & (users.history < items)
    event = torch.zeros_like(users.history) if users.event is None else users.event
    place, found = torch.arange(1, real.shape[1] + 1, device=real.device), []
    for kind in range(kinds):
        last = nn.functional.pad(place * (real & (event == kind)), (1, 0)).max(1).values  # 0: there is none
        entry = nn.functional.pad(users.history, (1, 0)).gather(1, last[:, None])[:, 0].clamp_max(items - 1)
        found.append((entry, last > 0))
    return found
