"""A causal transformer, or a GRU, over a user's history: one state before every event, trained at every position.

Pre-norm blocks with rotary positions (Su et al. 2021), so that a gap in the history keeps its width and a history
longer than any in training still has sensible positions.
"""

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from recsys.errors import InputError
from recsys.models.dropout import Dropout
from recsys.models.fields import widened


@dataclass(frozen=True, kw_only=True)
class HistoryEncoderConfig:
    """Kind and size of the history encoder."""

    kind: Literal["transformer", "gru"] = "transformer"
    """gru: gated recurrent units (Hidasi et al. 2016, arXiv:1511.06939): cheaper for long histories, one step after the
    other; heads and feedforward are not used."""
    layers: int = 2
    heads: int = 4
    """Attention heads; the model width must be a multiple of twice their number."""
    feedforward: int = 4
    """Width of the feed-forward part, in multiples of the model width."""
    dropout: float = 0.2
    """On the output of each half block and on the entries."""
    untied: bool = False
    """Whether entries pass a linear map of their own before the first block."""

    def __post_init__(self) -> None:
        if self.layers < 0 or self.heads < 1 or self.feedforward < 1 or not 0 <= self.dropout < 1:
            sizes = "layers at least 0, heads and feedforward at least 1, dropout in [0, 1)"
            raise InputError(f"model.history: expected {sizes}; found {self}.")
        if self.kind == "gru" and self.layers < 1:
            raise InputError("model.history.layers is 0; a gru needs at least 1.")


class HistoryEncoder(nn.Module):
    """[B, H, D] entries -> [B, H + 1, D] states; state t has seen entries 0 .. t - 1, and state 0 none."""

    def __init__(self, config: HistoryEncoderConfig, width: int) -> None:
        super().__init__()
        recurrent = config.kind == "gru"
        if width % (2 * config.heads) and not recurrent:
            raise InputError(
                f"The model's width is {width}, which is no multiple of twice model.history.heads ({config.heads}), as "
                f"rotary positions need; set model.width to a multiple of {2 * config.heads} or change the heads."
            )
        self.head_width = width // config.heads
        self.start = nn.Parameter(torch.randn(width) * 0.02)
        self.entry = nn.Linear(width, width) if config.untied else nn.Identity()
        self.dropout = Dropout(config.dropout)
        self.blocks = nn.ModuleList(_Block(config, width) for _ in range(0 if recurrent else config.layers))
        self.gru = _Recurrent(config, width) if recurrent else None
        self.norm = nn.LayerNorm(width)

    def forward(self, entries: Tensor, position: Tensor, condition: Tensor | None = None) -> Tensor:
        """Encode.

        Args:
            entries: [B, H, D], padded at the end (padding is never seen by an earlier state).
            position: [B, H] int64 order of the entries; the start stands one before the first.
            condition: [B, D] added to every input (the profile), or None.
        """
        start = self.start.expand(len(entries), 1, -1)
        x = self.dropout(torch.cat([start, self.entry(entries)], dim=1))
        if condition is not None:
            x = x + condition[:, None]
        before = position.new_full((len(entries), 1), -1)
        place = torch.cat([before, position - position[:, :1]], dim=1)
        if self.gru is not None:
            return self.norm(widened(self.gru(x, place)))
        turns = _rotations(place, self.head_width)
        for block in self.blocks:
            x = block(x, turns)
        return self.norm(widened(x))


class _Recurrent(nn.Module):
    """Every entry is told how long after the one before it it came."""

    def __init__(self, config: HistoryEncoderConfig, width: int) -> None:
        super().__init__()
        self.gap = nn.Linear(1, width, bias=False)
        dropout = config.dropout if config.layers > 1 else 0.0
        self.units = nn.GRU(width, width, config.layers, batch_first=True, dropout=dropout)

    def forward(self, x: Tensor, place: Tensor) -> Tensor:
        """[B, T, D] -> [B, T, D]; `place` [B, T] rises."""
        gap = place.diff(dim=1, prepend=place[:, :1] - 1).clamp(min=1)
        return x + self.units(x + self.gap(gap[..., None].to(x.dtype).log()))[0]


class _Block(nn.Module):
    def __init__(self, config: HistoryEncoderConfig, width: int) -> None:
        super().__init__()
        self.heads = config.heads
        self.head_width = width // config.heads
        self.norm_attention = nn.LayerNorm(width)
        self.qkv = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)
        self.norm_feedforward = nn.LayerNorm(width)
        self.up = nn.Linear(width, config.feedforward * width)
        self.down = nn.Linear(config.feedforward * width, width)
        self.dropout = Dropout(config.dropout)

    def forward(self, x: Tensor, turns: tuple[Tensor, Tensor]) -> Tensor:
        x = x + self.dropout(self.out(self._attend(self.norm_attention(x), turns)))
        return x + self.dropout(self.down(F.gelu(self.up(self.norm_feedforward(x)))))

    def _attend(self, x: Tensor, turns: tuple[Tensor, Tensor]) -> Tensor:
        rows, length, width = x.shape
        q, k, v = self.qkv(x).view(rows, length, 3, self.heads, self.head_width).permute(2, 0, 3, 1, 4)
        kind = x.device.type
        lower = torch.is_autocast_enabled(kind) and kind != "cpu"  # bfloat16 attention is slower than float32 there
        with torch.autocast(kind, enabled=lower):
            mixed = F.scaled_dot_product_attention(_rotate(q, turns), _rotate(k, turns), widened(v), is_causal=True)
        return mixed.transpose(1, 2).reshape(rows, length, width)


def _rotations(position: Tensor, head_width: int, base: float = 500.0) -> tuple[Tensor, Tensor]:
    """Cosine and sine [B, 1, T, head_width / 2] of every position.

    Histories are short: a small base separates neighbours.
    """
    half = head_width // 2
    speed = base ** (-torch.arange(half, device=position.device, dtype=torch.float32) / half)
    angle = position[:, None, :, None].float() * speed
    return angle.cos(), angle.sin()


def _rotate(x: Tensor, turns: tuple[Tensor, Tensor]) -> Tensor:
    """Rotate pairs of channels, in float32 at least."""
    cosine, sine = turns
    first, second = widened(x).chunk(2, dim=-1)
    return torch.cat([first * cosine - second * sine, first * sine + second * cosine], dim=-1)
