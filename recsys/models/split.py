"""A cross-encoder whose lower layers read the two texts apart: PreTTR (MacAvaney et al. 2020, arXiv:2004.14255),
DeFormer (Cao et al. 2020, arXiv:2005.00697).

layers 1 .. split       [CLS] request [SEP], and candidate [SEP], each by itself: once for all who meet it
layers split + 1 .. L-1 both together
layer L                 both together, for [CLS] alone, whose state is what is asked for
"""

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.nn.utils.rnn import pad_sequence

from recsys.batch import TextBatch
from recsys.errors import InputError
from recsys.models.packing import ATTENTION
from recsys.models.text import TextEncoder

REQUEST, CANDIDATE = 0, 1
"""Which text: its token type."""


class SplitReader:
    """The layers of a BERT, called one by one.

    Positions of a request count from 0, those of a candidate from half of `max_tokens`, which no request goes beyond:
    so a candidate's states depend on no request, and the two never stand at the same place.
    """

    def __init__(self, encoder: TextEncoder, split: int) -> None:
        """`split` is the number of layers that read apart. Raises InputError where `encoder` has too few layers or
        positions, or is no BERT.
        """
        shape, self.start = encoder.model.config, encoder.max_tokens // 2
        if shape._attn_implementation != ATTENTION:
            raise InputError(
                f"model.split takes a BERT apart, and the text model is a {shape.model_type}; set it to 0."
            )
        if split >= shape.num_hidden_layers:
            raise InputError(
                f"model.split is {split}, and the text model has {shape.num_hidden_layers} layers, the last of which "
                f"reads both texts; set it to {shape.num_hidden_layers - 1} or lower."
            )
        if self.start + encoder.max_tokens > shape.max_position_embeddings:
            known, most = shape.max_position_embeddings, shape.max_position_embeddings * 2 // 3
            raise InputError(
                f"model.split needs one and a half times text.max_tokens ({encoder.max_tokens}) positions, and the "
                f"text model has {known}; set text.max_tokens to {most} or lower."
            )
        bert: Any = encoder.model.get_base_model() if encoder.config.mode == "lora" else encoder.model
        layers = list(bert.encoder.layer)
        self.embeddings, self.typed = bert.embeddings, encoder.typed
        self.apart, self.between, self.last = layers[:split], layers[split:-1], layers[-1]

    def requests(self, texts: TextBatch) -> Tensor:
        """[tokens, W] states of requests before they meet a candidate, text after text."""
        return self._read(texts, REQUEST)

    def candidates(self, texts: TextBatch) -> Tensor:
        """[tokens, W], or [tokens, 2 W] keys and values where only the last layer is left: what pairs need of them."""
        states = self._read(texts, CANDIDATE)
        return states if self.between else self._keys_and_values(states)

    def _read(self, texts: TextBatch, kind: int) -> Tensor:
        mask, lengths = texts.mask, texts.mask.sum(1).tolist()
        position = torch.arange(mask.shape[1], device=mask.device).expand_as(mask) + kind * self.start
        ids = texts.ids[mask][None]
        types = {"token_type_ids": torch.full_like(ids, kind)} if self.typed else {}
        states = self.embeddings(input_ids=ids, position_ids=position[mask][None], **types)
        for layer in self.apart:
            states = layer(states, lengths=lengths)
        return states[0]

    def pairs(self, requests: list[Tensor], candidates: list[Tensor], pairs: list[tuple[int, int]]) -> Tensor:
        """[P, W] state of [CLS] after all layers, of P pairs of a request's number and a candidate's; the first two are
        what the methods of these names gave, text by text.
        """
        if self.between:
            both = [torch.cat([requests[row], candidates[column]]) for row, column in pairs]
            lengths = [len(one) for one in both]
            states = torch.cat(both)[None]
            for layer in self.between:
                states = layer(states, lengths=lengths)
            first = torch.stack([one[0] for one in states[0].split(lengths)])
            return self._finish(first, list(self._keys_and_values(states[0]).split(lengths)))
        known = {row: self._keys_and_values(requests[row]) for row in {row for row, _ in pairs}}
        first = torch.stack([requests[row][0] for row, _ in pairs])
        return self._finish(first, [torch.cat([known[row], candidates[column]]) for row, column in pairs])

    def _keys_and_values(self, states: Tensor) -> Tensor:
        """[tokens, W] -> [tokens, 2 W], for the last layer."""
        attention = self.last.attention.self
        return torch.cat([attention.key(states), attention.value(states)], dim=-1)

    def _finish(self, first: Tensor, known: list[Tensor]) -> Tensor:
        """[P, W] states of [CLS], and keys and values [tokens, 2 W] of each pair -> [P, W] through the last layer."""
        attention = self.last.attention
        heads, dropout = attention.self.num_attention_heads, attention.self.dropout
        lengths = torch.tensor([len(one) for one in known], device=first.device)
        padded = pad_sequence(known, batch_first=True)  # [P, T, 2 W]
        real = torch.arange(padded.shape[1], device=first.device) < lengths[:, None]
        key, value = padded.unflatten(-1, (2, heads, -1)).permute(2, 0, 3, 1, 4)  # each [P, heads, T, W / heads]
        query = attention.self.query(first).unflatten(-1, (heads, 1, -1))
        mixed = F.scaled_dot_product_attention(
            query, key, value, attn_mask=real[:, None, None], dropout_p=dropout.p if dropout.training else 0.0,
            scale=attention.self.scaling,
        )  # fmt: skip
        return self.last.feed_forward_chunk(attention.output(mixed.flatten(1), first))
