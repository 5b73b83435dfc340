"""A cross-encoder whose lower layers read the two texts apart: PreTTR (MacAvaney et al. 2020, arXiv:2004.14255),
DeFormer (Cao et al. 2020, arXiv:2005.00697).

layers 1 .. split       [CLS] request [SEP], and candidate [SEP], each by itself: once for all who meet it
layers split + 1 .. L-1 both together
layer L                 both together, for [CLS] alone, whose state is what is asked for
"""

import torch
from torch import Tensor

from recsys.batch import TextBatch
from recsys.errors import InputError
from recsys.models.packing import ATTENTION, bert_of, finish_first, keys_and_values, layers_of
from recsys.models.text import TextEncoder

REQUEST, CANDIDATE = 0, 1
"""Which text: its token type."""


class SplitReader:
    """The layers of a BERT, called one by one.

    Positions of a request count from 0, those of a candidate from `max_tokens`, which no request goes beyond: so a
    candidate's states depend on no request, and the two never stand at the same place.
    """

    def __init__(self, encoder: TextEncoder, split: int) -> None:
        """`split` is the number of layers that read apart. Raises InputError where `encoder` has too few layers or
        positions, or is no BERT.
        """
        shape, self.start = encoder.model.config, encoder.max_tokens
        if shape._attn_implementation != ATTENTION:
            raise InputError(
                f"model.split takes a BERT apart, and the text model is a {shape.model_type}; set it to 0."
            )
        if split >= shape.num_hidden_layers:
            raise InputError(
                f"model.split is {split}, and the text model has {shape.num_hidden_layers} layers, the last of which "
                f"reads both texts; set it to {shape.num_hidden_layers - 1} or lower."
            )
        if 2 * self.start > shape.max_position_embeddings:
            known = shape.max_position_embeddings
            raise InputError(
                f"model.split needs twice text.max_tokens ({self.start}) positions, and the text model has {known}; "
                f"set text.max_tokens to {known // 2} or lower."
            )
        layers = layers_of(encoder.model)
        self.embeddings, self.typed = bert_of(encoder.model).embeddings, encoder.typed
        self.apart, self.between, self.last = layers[:split], layers[split:-1], layers[-1]

    def requests(self, texts: TextBatch) -> Tensor:
        """[tokens, W] states of requests before they meet a candidate, text after text."""
        return self._read(texts, REQUEST)

    def candidates(self, texts: TextBatch) -> Tensor:
        """[tokens, W], or [tokens, 2 W] keys and values where only the last layer is left."""
        return self._kept(self._read(texts, CANDIDATE))

    def _read(self, texts: TextBatch, kind: int) -> Tensor:
        mask, lengths = texts.mask, texts.mask.sum(1).tolist()
        position = torch.arange(mask.shape[1], device=mask.device).expand_as(mask) + kind * self.start
        ids = texts.ids[mask][None]
        types = {"token_type_ids": torch.full_like(ids, kind)} if self.typed else {}
        states = self.embeddings(input_ids=ids, position_ids=position[mask][None], **types)
        for layer in self.apart:
            states = layer(states, lengths=lengths)
        return states[0]

    def pairs(self, requests: list[Tensor], candidates: list[Tensor], rows: Tensor, columns: Tensor) -> Tensor:
        """[P, W] state of [CLS] after all layers, of P pairs; one at least.

        Args:
            requests, candidates: what the methods of these names gave, text by text.
            rows, columns: [P] the request and the candidate of each pair.
        """
        (asked, row), (told, column) = (some.unique(return_inverse=True) for some in (rows, columns))
        firsts = [requests[number] for number in asked.tolist()]
        texts = [*map(self._kept, firsts), *(candidates[number] for number in told.tolist())]
        lengths = torch.tensor([len(text) for text in texts], device=rows.device)
        place, real = _side_by_side(lengths, row, len(asked) + column)
        states = torch.cat(texts)
        if not self.between:
            known = states.index_select(0, place.flatten()).view(*place.shape, -1)
            return finish_first(self.last, torch.stack([text[0] for text in firsts])[row], known, real)
        states, sizes = states.index_select(0, place[real])[None], real.sum(1)
        for layer in self.between:
            states = layer(states, lengths=sizes.tolist())
        known = keys_and_values(self.last, states[0])
        padded = known.new_zeros(*real.shape, known.shape[1]).index_put(real.nonzero(as_tuple=True), known)
        return finish_first(self.last, states[0, sizes.cumsum(0) - sizes], padded, real)

    def _kept(self, states: Tensor) -> Tensor:
        """What pairs need of a text: its states or, where only the last layer is left, its keys and values there."""
        return states if self.between else keys_and_values(self.last, states)


def _side_by_side(lengths: Tensor, first: Tensor, second: Tensor) -> tuple[Tensor, Tensor]:
    """Where the tokens of pairs stand among those of texts that lie one after the other.

    Args:
        lengths: [m] of the texts.
        first, second: [P] the texts of each pair.

    Returns:
        [P, T] places, 0 at padding, and which of them are real.
    """
    starts, sizes = lengths.cumsum(0) - lengths, lengths[first] + lengths[second]
    step = torch.arange(int(sizes.max()), device=lengths.device)
    behind = step - lengths[first, None]
    place = torch.where(behind < 0, starts[first, None] + step, starts[second, None] + behind)
    real = step < sizes[:, None]
    return place.where(real, 0), real
