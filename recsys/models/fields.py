"""Category and number columns to one vector. Missing is learnt, never a zero."""

from collections.abc import Sequence
from typing import cast

import torch
from torch import Tensor, nn


def widened(values: Tensor) -> Tensor:
    """The same values in float32, or in float64 if that is what they are."""
    return values.to(torch.promote_types(values.dtype, torch.float32))


_WAVES = 3
"""Times around that a cycle is told apart by, at most."""


class Categories(nn.Module):
    """[..., C, V] codes -> [..., D]: the mean over each column's values, summed over columns.

    Code 0 is padding; in a cell without any value it stands for a learnt "missing".
    """

    def __init__(self, sizes: Sequence[int], width: int, turns: Sequence[Sequence[float]] = ()) -> None:
        """`sizes` holds the number of known values of each column, without code 0; `turns` where those of columns that
        go round stand in their period (see `Cycle`), nothing for others.
        """
        super().__init__()
        self.tables = nn.ModuleList(nn.Embedding(size + 1, width) for size in sizes)
        for table in self.tables:
            nn.init.normal_(cast(nn.Embedding, table).weight, std=width**-0.5)
        for number, round_ in enumerate(turns):
            if round_:
                self.tables[number] = Cycle(round_, width)

    def forward(self, codes: Tensor) -> Tensor:
        """Embed."""
        columns = [self._column(table, codes[..., number, :]) for number, table in enumerate(self.tables)]
        return torch.stack(columns).sum(dim=0)

    @staticmethod
    def _column(table: nn.Module, codes: Tensor) -> Tensor:
        known = codes > 0
        first = known[..., :1] | ~known.any(-1, keepdim=True)  # nothing known: the first code, a 0, stands
        counted = torch.cat([first, known[..., 1:]], dim=-1)
        return (table(codes) * counted[..., None]).sum(-2) / counted.sum(-1, keepdim=True)


class Cycle(nn.Module):
    """[...] codes -> [..., D] of values that go round: the hours of a day, the days of a week.

    Sines and cosines of once, twice and three times around, through a linear layer, so that neighbours are alike, the
    last and the first too. Code 0 is a learnt "missing".
    """

    waves: Tensor  # [size + 1, 2 * _WAVES]

    def __init__(self, turns: Sequence[float], width: int) -> None:
        """`turns` [size] holds where each value stands in its period, in [0, 1)."""
        super().__init__()
        angle = 2 * torch.pi * torch.tensor([0.0, *turns])[:, None] * torch.arange(1, _WAVES + 1)
        self.register_buffer("waves", torch.cat([angle.sin(), angle.cos()], dim=1), persistent=False)
        self.out = nn.Linear(2 * _WAVES, width)
        self.missing = nn.Parameter(torch.randn(width) * width**-0.5)

    def forward(self, codes: Tensor) -> Tensor:
        """Embed."""
        return torch.where((codes > 0)[..., None], self.out(self.waves[codes]), self.missing)


class Numbers(nn.Module):
    """[B, M] scaled numbers, NaN for missing -> [B, D]. Outliers count as 10 interquartile ranges."""

    def __init__(self, count: int, width: int) -> None:
        super().__init__()
        self.known = nn.Linear(count, width)
        self.missing = nn.Linear(count, width, bias=False)

    def forward(self, numbers: Tensor) -> Tensor:
        """Embed."""
        gone = numbers.isnan()
        return self.known(numbers.nan_to_num().clamp(-10, 10)) + self.missing(gone.to(numbers.dtype))


def absent(*parts: nn.Module | nn.Parameter | None) -> Tensor:
    """Zero, but a function of every trained weight of `parts`.

    What stands in for a source that a batch does not have: the weights then have a gradient (of zeros) on every
    process, without which DistributedDataParallel fails.
    """
    weights = (
        weight
        for part in parts
        if part is not None
        for weight in ([part] if isinstance(part, nn.Parameter) else part.parameters())
    )
    return sum((weight.sum() * 0 for weight in weights if weight.requires_grad), start=torch.zeros(()))


def contribution(part: nn.Module | None, values: Tensor | None) -> Tensor:
    """What a source adds to a vector: nothing where the model has no such part, `absent` where the batch lacks it."""
    return absent(part) if part is None or values is None else part(values)
