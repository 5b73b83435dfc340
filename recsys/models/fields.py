"""Category and number columns to one vector. Missing is learnt, never a zero."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn


class Categories(nn.Module):
    """[B, C, V] codes -> [B, D]: for each column the mean over its values, code 0 a learnt "missing"; summed over columns."""

    def __init__(self, sizes: Sequence[int], width: int) -> None:
        """`sizes` holds the number of known values of each column, without code 0."""
        super().__init__()
        self.tables = nn.ModuleList(nn.Embedding(size + 1, width) for size in sizes)
        for table in self.tables:
            nn.init.normal_(table.weight, std=width**-0.5)

    def forward(self, codes: Tensor) -> Tensor:
        columns = [self._column(table, codes[..., number, :]) for number, table in enumerate(self.tables)]
        return torch.stack(columns).sum(dim=0)

    @staticmethod
    def _column(table: nn.Embedding, codes: Tensor) -> Tensor:
        real = codes > 0
        real = torch.cat([~real.any(-1, keepdim=True) | real[..., :1], real[..., 1:]], dim=-1)  # all missing: code 0 stands
        vectors = table(codes) * real[..., None]
        return vectors.sum(-2) / real.sum(-1, keepdim=True)


class Numbers(nn.Module):
    """[B, M] scaled numbers, NaN for missing -> [B, D]."""

    def __init__(self, count: int, width: int) -> None:
        super().__init__()
        self.known = nn.Linear(count, width)
        self.missing = nn.Linear(count, width, bias=False)

    def forward(self, numbers: Tensor) -> Tensor:
        gone = numbers.isnan()
        return self.known(numbers.nan_to_num().clamp(-10, 10)) + self.missing(gone.to(numbers.dtype))
