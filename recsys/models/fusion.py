"""Vectors of one candidate, one for each source -> one vector. Each way starts as their sum, and learns more."""

from collections.abc import Sequence
from functools import reduce
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

FusionKind = Literal["sum", "concat", "gated", "attention"]


def make_fusion(kind: FusionKind, sources: int, width: int) -> nn.Module:
    """A module of S tensors [..., D] -> [..., D].

    sum: nothing is learnt. concat: an MLP over all sources side by side. gated: each source is weighed by a gate that
    sees all of them (Arevalo et al. 2017, arXiv:1702.01992). attention: sources attend to one another (Vaswani et al.
    2017), and the mean of what they find is added.
    """
    match kind:
        case "sum":
            return _Sum()
        case "concat":
            return _Concat(sources, width)
        case "gated":
            return _Gated(sources, width)
        case "attention":
            return _Attention(sources, width)


class _Sum(nn.Module):
    def forward(self, sources: Sequence[Tensor]) -> Tensor:
        return reduce(torch.add, sources)  # no copy of them all


class _Concat(nn.Module):
    def __init__(self, sources: int, width: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.up, self.down = nn.Linear(sources * width, 2 * width), nn.Linear(2 * width, width)
        _start_at_nothing(self.down)

    def forward(self, sources: Sequence[Tensor]) -> Tensor:
        tokens = torch.stack(list(sources), dim=-2)
        return tokens.sum(-2) + self.down(F.gelu(self.up(self.norm(tokens).flatten(-2))))


class _Gated(nn.Module):
    def __init__(self, sources: int, width: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.gate = nn.Linear(sources * width, sources * width)
        _start_at_nothing(self.gate)

    def forward(self, sources: Sequence[Tensor]) -> Tensor:
        tokens = torch.stack(list(sources), dim=-2)
        gates = 2 * torch.sigmoid(self.gate(self.norm(tokens).flatten(-2)))  # 1 at the start
        return (gates.view_as(tokens) * tokens).sum(-2)


class _Attention(nn.Module):
    def __init__(self, sources: int, width: int, heads: int = 4) -> None:
        super().__init__()
        self.heads = heads if width % heads == 0 else 1
        self.source = nn.Parameter(torch.randn(sources, width) * 0.02)
        self.norm, self.qkv, self.out = nn.LayerNorm(width), nn.Linear(width, 3 * width), nn.Linear(width, width)
        _start_at_nothing(self.out)

    def forward(self, sources: Sequence[Tensor]) -> Tensor:
        tokens = torch.stack(list(sources), dim=-2)
        count, width = tokens.shape[-2:]
        known = self.qkv(self.norm(tokens + self.source)).reshape(-1, count, 3, self.heads, width // self.heads)
        query, key, value = known.permute(2, 0, 3, 1, 4).float()
        with torch.autocast(tokens.device.type, enabled=False):
            mixed = F.scaled_dot_product_attention(query, key, value)
        found = mixed.transpose(1, 2).reshape(*tokens.shape[:-2], count, width)
        return tokens.sum(-2) + self.out(found.mean(-2))


def _start_at_nothing(layer: nn.Linear) -> None:
    nn.init.zeros_(layer.weight)
    nn.init.zeros_(layer.bias)
