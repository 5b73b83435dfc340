"""States of the tokens of texts that many requests meet: read once, and kept within a bound of memory."""

from collections import OrderedDict
from collections.abc import Callable

import torch
from torch import Tensor

from recsys.batch import TextBatch
from recsys.models.text import batches_of_like_length, tokens_at_once

_MOST = 2 << 30


def read_texts(
    texts: TextBatch, encode: Callable[[TextBatch], Tensor], known: "StateCache | None" = None
) -> list[Tensor]:
    """[tokens, W] of each text; `encode` gives those of several, text after text. Texts of like length are read
    together, and what is `known` is not read again.
    """
    if known is not None:
        return known.read(texts, encode)
    lengths = texts.mask.sum(1).cpu().numpy()
    found: dict[int, Tensor] = {}
    for rows in batches_of_like_length(lengths, tokens_at_once(texts.ids.device)):
        states = encode(texts.take(torch.from_numpy(rows))).split(lengths[rows].tolist())
        found.update(zip(rows.tolist(), states, strict=True))
    return [found[row] for row in range(len(lengths))]


class StateCache:
    """What one model made of texts, by their tokens; its weights must rest meanwhile, so this is for inference.

    A text's states are as they were computed, 4 bytes a number in float32, on the model's own device. Where they take
    more than the bound, those go first that have not been asked for the longest.
    """

    def __init__(self, most: int = _MOST) -> None:
        """`most` is in bytes: 2 GiB hold some 14,000 texts of 100 tokens and width 384 in float32."""
        self.most, self.size = most, 0
        self._kept: OrderedDict[bytes, Tensor] = OrderedDict()

    def read(self, texts: TextBatch, encode: Callable[[TextBatch], Tensor]) -> list[Tensor]:
        """As `read_texts`, without those that are known."""
        keys = _keys(texts)
        found = {key: self._kept[key] for key in keys if key in self._kept}
        unknown = {key: row for row, key in enumerate(keys) if key not in found}
        if unknown:
            rows = torch.tensor(list(unknown.values()), device=texts.ids.device)
            read = read_texts(texts.take(rows), encode)
            found.update(zip(unknown, (one.clone() for one in read), strict=True))  # a block's memory is not kept whole
        for key, states in found.items():
            self._keep(key, states)
        return [found[key] for key in keys]

    def _keep(self, key: bytes, states: Tensor) -> None:
        if key not in self._kept:
            self.size += states.nbytes
        self._kept[key] = states
        self._kept.move_to_end(key)
        while self.size > self.most:
            self.size -= self._kept.popitem(last=False)[1].nbytes


def _keys(texts: TextBatch) -> list[bytes]:
    ids = texts.ids.cpu().numpy()
    return [row[:length].tobytes() for row, length in zip(ids, texts.mask.sum(1).tolist(), strict=True)]
