"""Category and number columns to one vector. Missing is learnt, never a zero."""

from collections.abc import Sequence
from typing import cast

import torch
from torch import Tensor, nn


def widened(values: Tensor) -> Tensor:
    """The same values in float32, or in float64 if that is what they are."""
    return values.to(torch.promote_types(values.dtype, torch.float32))


class Categories(nn.Module):
    """[..., C, V] codes -> [..., D]: the mean over each column's values, summed over columns.

    Code 0 is padding; in a cell without any value it stands for a learnt "missing".
    """

    def __init__(self, sizes: Sequence[int], width: int) -> None:
        """`sizes` holds the number of known values of each column, without code 0."""
        super().__init__()
        self.tables = nn.ModuleList(nn.Embedding(size + 1, width) for size in sizes)
        for table in self.tables:
            nn.init.normal_(cast(nn.Embedding, table).weight, std=width**-0.5)

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
