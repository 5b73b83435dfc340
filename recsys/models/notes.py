"""Reviews and ads of candidates -> one vector each: every note is encoded, and attention chooses among the latest."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from recsys.batch import NoteBatch
from recsys.models.fields import Numbers, absent

_CENTRES, _OLDEST = 12, 7.0  # bumps over the log of the age, up to about a thousand units


class NoteEncoder(nn.Module):
    """NoteBatch -> [B, K, D]; a candidate without any note has a learnt vector."""

    centres: Tensor  # [C]

    def __init__(self, text_width: int, numbers: int, width: int, count: int) -> None:
        """`count` notes of a candidate at most, `numbers` beside each; `text_width` 0: their words are not read."""
        super().__init__()
        self.words = nn.Sequential(nn.LayerNorm(text_width), nn.Linear(text_width, width)) if text_width else None
        self.number = Numbers(numbers, width) if numbers else None
        self.age = nn.Sequential(nn.Linear(_CENTRES, width), nn.GELU(), nn.Linear(width, width))
        self.place = nn.Embedding(count, width)
        self.count = count
        self.none = nn.Parameter(torch.randn(width) * 0.02)
        self.look = nn.Linear(width, 1)
        self.all = nn.Linear(width, width, bias=False)
        nn.init.zeros_(self.all.weight)
        nn.init.normal_(self.place.weight, std=0.02)
        self.register_buffer("centres", torch.linspace(0, _OLDEST, _CENTRES), persistent=False)

    def forward(self, batch: NoteBatch) -> Tensor:
        """Encode, then average with weights that each note gives itself (softmax); to it comes what all of them say
        together, which is at first nothing: a lasting good name is another thing than the latest word.
        """
        real = batch.row >= 0
        states = self._notes(batch) + self.age(self._bumps(batch.age)) + self.place.weight[: real.shape[-1]]
        weights = self.look(states)[..., 0].masked_fill(~real, float("-inf"))
        weights = torch.where(real.any(-1, keepdim=True), weights, 0.0).softmax(-1)  # none: even, and not used
        pooled = (weights[..., None] * states).sum(-2) + self.all((states * real[..., None]).sum(-2) / self.count)
        return torch.where(real.any(-1, keepdim=True), pooled, self.none)

    def missing(self) -> Tensor:
        """[D]: what stands for notes that are not there at all; a function of every weight."""
        return self.none + absent(self.words, self.number, self.age, self.place, self.look, self.all)

    def _notes(self, batch: NoteBatch) -> Tensor:
        """[B, K, L, D] of each note by itself; those of padding mean nothing."""
        known = batch.number.new_zeros(max(len(batch.number), 1), self.none.shape[0])
        if self.words is not None and batch.vector is not None and len(batch.vector):
            known = known + self.words(batch.vector)
        if self.number is not None and len(batch.number):
            known = known + self.number(batch.number)
        return F.embedding(batch.row.clamp_min(0), known) + absent(self.words, self.number)

    def _bumps(self, age: Tensor) -> Tensor:
        """[..., C]: how near the log of the age is to each centre."""
        step = _OLDEST / (_CENTRES - 1)
        return (-((age[..., None].log1p() - self.centres) / step).square()).exp()
