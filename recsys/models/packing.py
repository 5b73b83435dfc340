"""Texts one after the other without padding, for transformers' BERT.

Nothing is computed for padding: every layer but attention works on single tokens, and attention takes the texts apart
by their lengths. Positions alone do not keep packed texts apart under SDPA, hence an attention of our own.
"""

from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS, sdpa_mask
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from recsys.batch import TextBatch
from recsys.models.dropout import draw_kept, drop_others
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


def first_states(model: Any, batch: TextBatch, *, typed: bool, packed: bool) -> Tensor:
    """[q, W]: the state of each text's first token. The last layer is computed for these tokens alone, by the keys and
    values of all: a sixth of MiniLM's work less.

    Args:
        model: a BERT that was built with the attention `ATTENTION`, perhaps with adapters; its layers are called one by
            one.
        batch: one text at least.
        typed: whether it takes token types.
        packed: without padding.
    """
    mask, lengths = batch.mask, batch.mask.sum(1)
    position = torch.arange(mask.shape[1], device=mask.device).expand_as(mask)
    types = batch.part if typed else None
    if packed:
        inputs = [None if part is None else part[mask][None] for part in (batch.ids, types, position)]
        rest: dict[str, Any] = {"lengths": lengths.tolist()}
    else:
        inputs, rest = [batch.ids, types, position], {"attention_mask": mask[:, None, None]}
    states = bert_of(model).embeddings(
        **dict(zip(("input_ids", "token_type_ids", "position_ids"), inputs, strict=True))
    )
    *lower, last = layers_of(model)
    for layer in lower:
        states = layer(states, **rest)
    known = keys_and_values(last, states)
    if not packed:
        return finish_first(last, states[:, 0], known, mask)
    mask = mask[:, : int(lengths.max())]
    padded = known.new_zeros(*mask.shape, known.shape[-1]).index_put(mask.nonzero(as_tuple=True), known[0])
    return finish_first(last, states[0, lengths.cumsum(0) - lengths], padded, mask)


def layers_of(model: Any) -> list[Any]:
    """Of a BERT, perhaps with adapters."""
    return list(bert_of(model).encoder.layer)


def bert_of(model: Any) -> Any:
    """A BERT without the adapters around it."""
    return model.get_base_model() if hasattr(model, "get_base_model") else model


def keys_and_values(layer: Any, states: Tensor) -> Tensor:
    """[..., W] -> [..., 2 W], of a layer of BERT."""
    attention = layer.attention.self
    return torch.cat([attention.key(states), attention.value(states)], dim=-1)


def finish_first(layer: Any, first: Tensor, known: Tensor, real: Tensor) -> Tensor:
    """[P, W] states of first tokens through a layer of BERT, by [P, T, 2 W] keys and values, [P, T] of them real."""
    attention = layer.attention
    heads, dropout = attention.self.num_attention_heads, attention.self.dropout
    key, value = known.unflatten(-1, (2, heads, -1)).permute(2, 0, 3, 1, 4)  # each [P, heads, T, W / heads]
    query = attention.self.query(first).unflatten(-1, (heads, 1, -1))
    mixed = F.scaled_dot_product_attention(
        query, key, value, attn_mask=real[:, None, None], dropout_p=dropout.p if dropout.training else 0.0,
        scale=attention.self.scaling,
    )  # fmt: skip
    return layer.feed_forward_chunk(attention.output(mixed.flatten(1), first))


def _attention(
    module: nn.Module, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor | None, *,
    dropout: float = 0.0, scaling: float | None = None, lengths: list[int] | None = None, **rest: Any,
) -> tuple[Tensor, None]:  # fmt: skip
    """[1, heads, tokens, d] -> [1, tokens, heads, d], within each text; `rest` is for transformers' own."""
    if lengths is None:
        return sdpa_attention_forward(
            module, query, key, value, attention_mask, dropout=dropout, scaling=scaling, **rest
        )
    parts = (query, key, value)
    if dropout and query.device.type == "cpu":
        mixed = _with_dropout(widened(query), widened(key), widened(value), lengths, dropout_p=dropout, scale=scaling)
    else:
        mix = partial(F.scaled_dot_product_attention, dropout_p=dropout, scale=scaling)
        texts = zip(*(part.split(lengths, dim=2) for part in parts), strict=True)
        mixed = torch.cat([mix(*text) for text in texts], dim=2)
    return mixed.to(query.dtype).transpose(1, 2).contiguous(), None


def _with_dropout(
    query: Tensor, key: Tensor, value: Tensor, lengths: list[int], *, dropout_p: float, scale: float | None
) -> Tensor:
    """SDPA's formula, text by text, written out: its fast kernels have no dropout on a CPU, and its plain one checks
    each row.

    In float32: products as small as those of one text's heads take longer in bfloat16.
    """
    sizes = [query.shape[1] * length * length for length in lengths]
    kept = draw_kept(sum(sizes), dropout_p).split(sizes)
    query = query * (query.shape[-1] ** -0.5 if scale is None else scale)
    parts = (part.split(lengths, dim=2) for part in (query, key, value))
    with torch.autocast("cpu", enabled=False):
        return torch.cat([
            drop_others((q @ k.transpose(-1, -2)).softmax(-1), some, dropout_p) @ v
            for q, k, v, some in zip(*parts, kept, strict=True)
        ], dim=2)  # fmt: skip


ALL_ATTENTION_FUNCTIONS.register(ATTENTION, _attention)
ALL_MASK_ATTENTION_FUNCTIONS.register(ATTENTION, sdpa_mask)
