"""Floating-point operations of a training step by formula: what a step has to compute, whatever it does compute.

Counted are real tokens alone, never padding, nor what is computed twice to save memory. A token passes every matrix of
its encoder: 2 P operations forward, 2 P for the gradient of its state, and 2 P' for that of the P' weights that learn
(all of them: 6 P; adapters: little over 4 P). Attention over a text of S tokens costs 4 L S^2 d forward and twice that
backward. Lookups, norms, the softmax and the optimiser count as nothing.
"""

from collections.abc import Iterator
from dataclasses import dataclass, fields
from typing import Any, Self

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from recsys.batch import ApartBatch, Batch, ItemBatch, TextBatch, UserBatch
from recsys.models.split import SplitReader


@dataclass(frozen=True, kw_only=True)
class StepWork:
    """Of a model: operations forward and backward for each thing that passes it."""

    token: float
    """A token of a text that an encoder learns from."""
    square: float
    """And each pair of tokens of one text."""
    text: float
    """And each text: what its first token passes alone, of the last layer."""
    entry: float
    """An entry of a history, or a candidate: all matrices beside the encoders."""
    picture: float
    """A picture that an encoder learns from."""

    @classmethod
    def of(cls, model: nn.Module) -> Self:
        """By the model's weights."""
        text: Any = getattr(model, "text", None)
        image: Any = getattr(model, "image", None)
        apart = {id(weight) for part in (text, image) if part is not None for weight in part.parameters()}
        others = [weight for weight in matrices(model) if id(weight) not in apart]
        token = square = own = 0.0
        if text is not None:
            layers, pair = text.model.config.num_hidden_layers, 12.0 * text.model.config.hidden_size
            own = _alone(text.last_layer) if text.reads_first else 0.0
            token = passed(matrices(text)) - own + pair * text.reads_first
            square = pair * (layers - text.reads_first)
        return cls(
            token=token, square=square, text=own, entry=passed(others),
            picture=0.0 if image is None or image.frozen else 3 * _picture(image),
        )  # fmt: skip

    def step(self, batch: Any) -> Tensor:
        """Scalar float64 on the batch's device: the operations of one batch, scores not counted."""
        texts = [text.mask.sum(1, dtype=torch.float64) for text in _parts(batch, TextBatch)]
        tokens = torch.stack([lengths.sum() for lengths in texts]).sum() if texts else torch.zeros(())
        squares = torch.stack([lengths.square().sum() for lengths in texts]).sum() if texts else torch.zeros(())
        pictures = sum(len(items.image) for items in _parts(batch, ItemBatch) if items.image is not None)
        pictures += sum(len(users.query_image) for users in _parts(batch, UserBatch) if users.query_image is not None)
        own = self.text * sum(map(len, texts))
        return (
            self.token * tokens + self.square * squares + own + self.entry * (batch.tokens - tokens).clamp(min=0)
            + self.picture * pictures
        )  # fmt: skip


def split_flops(reader: SplitReader, apart: ApartBatch) -> Tensor:
    """Scalar float64 on the batch's device: of a cross-encoder whose lower layers read texts apart."""
    asked, told = (texts.mask.sum(1, dtype=torch.float64) for texts in (apart.request, apart.candidate))
    row, column = (apart.row >= 0).nonzero(as_tuple=True)
    texts, pairs = torch.cat([asked, told]), asked[row] + told[apart.row[row, column]]
    width, own = reader.last.attention.self.all_head_size, _alone(reader.last)

    def through(layers: list[Any], lengths: Tensor) -> Tensor:
        dense = sum(passed(matrices(layer)) for layer in layers)
        return dense * lengths.sum() + 12.0 * len(layers) * width * lengths.square().sum()

    kept = (passed(matrices(reader.last)) - own) * (pairs if reader.between else texts).sum()
    scores = 12.0 * width * pairs.sum()
    return through(reader.apart, texts) + through(reader.between, pairs) + kept + scores + own * len(pairs)


def _alone(layer: Any) -> float:
    """Of a text's first token through a layer that all others give keys and values to, and nothing else."""
    attention = layer.attention.self
    return passed(matrices(layer)) - passed([*matrices(attention.key), *matrices(attention.value)])


def matrices(model: nn.Module) -> list[nn.Parameter]:
    """The weights that states are multiplied by: two dimensions, and no lookup."""
    lookups = {id(weight) for part in model.modules() if isinstance(part, nn.Embedding) for weight in part.parameters()}
    return [weight for weight in model.parameters() if weight.ndim == 2 and id(weight) not in lookups]


def passed(weights: list[nn.Parameter]) -> float:
    """Operations of one state that passes these weights, forward and backward."""
    return float(sum(weight.numel() * (6 if weight.requires_grad else 4) for weight in weights))


def _parts(batch: Any, kind: type) -> Iterator[Any]:
    """The batches of a kind inside a batch."""
    for field in fields(batch):
        value = getattr(batch, field.name)
        if isinstance(value, kind):
            yield value
        elif isinstance(value, Batch):
            yield from _parts(value, kind)


@torch.no_grad()
def _picture(image: Any) -> float:
    """Of one picture forward, counted."""
    device = next(image.parameters()).device
    learning = image.training
    image.eval()
    with FlopCounterMode(display=False) as counter:
        image(torch.zeros((1, 3, image.pixels, image.pixels), dtype=torch.uint8, device=device))
    image.train(learning)
    return float(counter.get_total_flops())
