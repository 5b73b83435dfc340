"""Texts one after the other without padding, for transformers' BERT.

Nothing is computed for padding: every layer but attention works on single tokens, and attention takes the texts apart
by their lengths. Positions alone do not keep packed texts apart under SDPA, hence an attention of our own.
"""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS, sdpa_mask
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from recsys.batch import TextBatch
from recsys.models.dropout import drop
from recsys.models.fields import widened

ATTENTION = "packed_sdpa"
"""Name of the attention: SDPA, text by text where a call brings `lengths`, and otherwise transformers' own."""

PACKABLE = {"bert"}
"""Architectures that `packed_states` is right for: `position_ids` says all of positions, attention goes by name."""


def packed_states(model: Any, batch: TextBatch, *, typed: bool) -> Tensor:
    """[tokens, W]: the last states of the real tokens, text after text, equal to those of the padded batch.

    `model` was built with the attention `ATTENTION`; `typed` says whether it takes token types.
    """
    position = torch.arange(batch.ids.shape[1], device=batch.ids.device).expand_as(batch.ids)
    types = {"token_type_ids": batch.part[batch.mask][None]} if typed and batch.part is not None else {}
    found = model(
        input_ids=batch.ids[batch.mask][None],
        position_ids=position[batch.mask][None],
        lengths=batch.mask.sum(1).tolist(),
        **types,
    )
    return found.last_hidden_state[0]


def _attention(
    module: nn.Module, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor | None, *,
    dropout: float = 0.0, scaling: float | None = None, lengths: list[int] | None = None, **rest: Any,
) -> tuple[Tensor, None]:  # fmt: skip
    """[1, heads, tokens, d] -> [1, tokens, heads, d], within each text; `rest` is for transformers' own."""
    if lengths is None:
        return sdpa_attention_forward(
            module, query, key, value, attention_mask, dropout=dropout, scaling=scaling, **rest
        )
    mix, parts = F.scaled_dot_product_attention, (query, key, value)
    if dropout and query.device.type == "cpu":
        mix, parts = _with_dropout, [widened(part) for part in parts]
    texts = zip(*(part.split(lengths, dim=2) for part in parts), strict=True)
    mixed = torch.cat([mix(*text, dropout_p=dropout, scale=scaling) for text in texts], dim=2)
    return mixed.to(query.dtype).transpose(1, 2).contiguous(), None


def _with_dropout(query: Tensor, key: Tensor, value: Tensor, *, dropout_p: float, scale: float | None) -> Tensor:
    """SDPA's formula, written out: its fast kernels have no dropout on a CPU, and its plain one checks each row.

    In float32: products as small as those of one text's heads take longer in bfloat16.
    """
    factor = query.shape[-1] ** -0.5 if scale is None else scale
    with torch.autocast("cpu", enabled=False):
        weights = ((query * factor) @ key.transpose(-1, -2)).softmax(-1)
        return drop(weights, dropout_p) @ value


ALL_ATTENTION_FUNCTIONS.register(ATTENTION, _attention)
ALL_MASK_ATTENTION_FUNCTIONS.register(ATTENTION, sdpa_mask)
