"""What somebody is looking for: the search that is asked, and those of the history that nothing has answered yet."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from recsys.batch import UserBatch
from recsys.models.fields import absent

_QUICK = 10.0
"""How much faster than the rest it is learnt how searches fade."""


class Sought(nn.Module):
    """UserBatch -> [B, D]: the words of the request's own search and of its history's, each by what it still counts.

    A search counts exp(-sum of s over the events after it), s >= 0 learnt for each kind of event: a purchase may close
    it that a view leaves open. At the start every event halves it. Several open searches add up.
    """

    def __init__(self, kinds: int) -> None:
        """`kinds` of events, the unknown one included."""
        super().__init__()
        self.closing = nn.Parameter(torch.zeros(kinds))

    def forward(self, users: UserBatch, items: int, queries: Tensor | None) -> Tensor:
        """[B, 1] of zeros where the batch has no search at all.

        Args:
            users: whose searches.
            items: rows of the batch's items; entries of histories behind them are searches.
            queries: [q, D] of the batch's searches.
        """
        if queries is None:
            return self.closing.new_zeros(len(users.history), 1) + absent(self.closing)
        shown, event = users.history_mask, users.event
        event = torch.zeros_like(users.history) if event is None else event
        searched = shown & (users.history >= items)
        worth = torch.zeros_like(users.history, dtype=queries.dtype)
        for kind, closing in enumerate(F.softplus(_QUICK * self.closing)):
            met = (shown & ~searched & (event == kind)).to(queries.dtype)
            worth = worth - closing * (met.sum(1, keepdim=True) - met.cumsum(1))
        worth = worth.exp() * searched
        found = (worth[:, None] @ F.embedding((users.history - items).clamp_min(0), queries))[:, 0]
        if users.query is None:
            return found
        return found + F.embedding(users.query.clamp_min(0), queries) * (users.query >= 0)[:, None]
