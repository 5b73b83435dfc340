"""Sources of items that come as vectors which were made elsewhere, and how sources are hidden in turn."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from recsys.models.dropout import Dropout
from recsys.models.fields import absent, widened


class ReadyMade(nn.Module):
    """S columns of vectors, each through a LayerNorm and a linear layer; one that is missing is a learnt vector."""

    def __init__(self, widths: Sequence[int], width: int, dropout: float) -> None:
        """`widths` are those of the columns, `width` is that of what comes out."""
        super().__init__()
        self.widths = list(widths)
        self.parts = nn.ModuleList(nn.Sequential(nn.LayerNorm(wide), nn.Linear(wide, width)) for wide in widths)
        self.missing = nn.ParameterList(torch.zeros(width) for _ in widths)  # apart: no weights to be decayed
        self.dropout = Dropout(dropout)

    def forward(self, values: Tensor | None, known: Tensor | None) -> list[Tensor]:
        """S states, [n, D] each; [D] where there are no values.

        Args:
            values: [n, W] the columns side by side.
            known: [n, S] bool.
        """
        if values is None or known is None:
            return [missing + absent(part) for part, missing in zip(self.parts, self.missing, strict=True)]
        columns = zip(self.parts, self.missing, widened(values).split(self.widths, dim=1), strict=True)
        return [
            torch.where(known[:, at, None], self.dropout(part(own)), missing)
            for at, (part, missing, own) in enumerate(columns)
        ]


def shown_in_turn(there: Tensor, share: float) -> Tensor:
    """[n, S] bool: of S sources that are there, each is hidden from a `share` (at most .5) of n items, drawn anew.

    Never all that an item has: the first and the last of them are not hidden together, and one alone is not hidden.
    """
    draw = torch.rand(len(there), 1, device=there.device)
    place, last = there.cumsum(1) - 1, there.sum(1, keepdim=True) - 1
    start = place * (1 - share) / last.clamp(min=1)  # what is hidden for a draw lies between this and this + share
    hidden = (draw >= start) & (draw < start + share) & (last > 0)
    return there & ~hidden
