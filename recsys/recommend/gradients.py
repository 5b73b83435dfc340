"""Which words of a text carried a score, by integrated gradients (Sundararajan et al. 2017, arXiv:1703.01365).

The gradients are those of the retriever's score through its text encoder: of all words they cost a few passes, where to
leave each out would cost as many as there are words. What they propose is then tested by leaving it out.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from recsys.batch import ItemBatch, TextBatch
from recsys.data.text import plain_backend
from recsys.errors import InputError
from recsys.models.text import TextEncoder
from recsys.models.towers import Retriever
from recsys.recommend.words import Words
from recsys.retrieval.embed import TextReader

_STEPS = 16
_ROWS = 32  # texts at one time; each is read `_STEPS` times


def item_words(
    model: Retriever, reader: TextReader, words: Words, items: ItemBatch, users: Tensor, texts: Sequence[str]
) -> list[np.ndarray]:
    """What each word of an item's text adds to the retriever's score u . v_i, beside a text of [PAD]s.

    Args:
        model, reader: the retriever and its text encoder.
        words: cuts texts into words.
        items: n items; their words are read anew.
        users: [n, D] the vector of the request that each item is listed for.
        texts: of the n items.

    Returns:
        For each text, [words] float64.
    """

    def score(pooled: Tensor, row: Tensor) -> Tensor:
        own = items.take(row)
        vectors = model.encode_items(_with_words(own, pooled))
        return model.score(users[row], vectors[:, None])[:, 0]

    return _word_gradients(reader, words, texts, score)


def query_words(
    model: Retriever, reader: TextReader, words: Words, items: Tensor, rest: Tensor, texts: Sequence[str]
) -> list[np.ndarray]:
    """The same for the words of queries. What the retriever knows of a user is added to his query's vector.

    Args:
        model, reader, words: as in `item_words`.
        items: [n, D or more] the items, as `encode_items` gives them.
        rest: [n, D] vectors of the requests without their queries' words; zeros where nothing else is known.
        texts: n queries.
    """

    def score(pooled: Tensor, row: Tensor) -> Tensor:
        queries = model.normalised(model.items.project_text(pooled))
        return model.score(model.normalised(rest[row] + queries), items[row, None])[:, 0]

    return _word_gradients(reader, words, texts, score)


def _with_words(items: ItemBatch, pooled: Tensor) -> ItemBatch:
    kept = {name: getattr(items, name) for name in items.__dataclass_fields__}
    return ItemBatch(**{**kept, "text": None, "text_vector": pooled})


def _word_gradients(reader: TextReader, words: Words, texts: Sequence[str], score: Any) -> list[np.ndarray]:
    """`score` takes [m, W] states of texts and [m] which texts these are, and gives [m] scores."""
    encoder, found = reader.encoder, []
    backend = plain_backend(reader.tokenizer, encoder.max_tokens)
    special = torch.tensor(reader.tokenizer.all_special_ids)
    pad = backend.token_to_id(str(reader.tokenizer.pad_token)) or 0

    def forward(ids: Tensor, mask: Tensor, row: Tensor) -> Tensor:
        return score(_pooled(encoder, ids, mask), row)

    method = _method(forward, encoder.model.get_input_embeddings())
    for start in range(0, len(texts), _ROWS):
        some = list(texts[start : start + _ROWS])
        tokens = reader.tokens(some)
        base = torch.where(torch.isin(tokens.ids, special), tokens.ids, pad)
        row = torch.arange(start, start + len(some))
        parts = method.attribute(
            tokens.ids, baselines=base, additional_forward_args=(tokens.mask, row), n_steps=_STEPS,
            internal_batch_size=_ROWS * 4,
        )  # fmt: skip
        values = parts.sum(-1).double().numpy()
        spans = [encoding.offsets for encoding in backend.encode_batch(some)]
        found += [
            _by_word(words.spans(text), *own) for text, own in zip(some, zip(spans, values, strict=True), strict=True)
        ]
    return found


def _by_word(words: list[tuple[int, int]], tokens: list[tuple[int, int]], values: np.ndarray) -> np.ndarray:
    """The sums over the tokens that begin in each word; a word that was cut off has none."""
    starts, out = np.array([start for start, _ in words]), np.zeros(len(words))
    for (start, end), value in zip(tokens, values, strict=False):
        word = int(np.searchsorted(starts, start, side="right")) - 1
        if end > start and word >= 0 and start < words[word][1]:
            out[word] += value
    return out


def _pooled(encoder: TextEncoder, ids: Tensor, mask: Tensor) -> Tensor:
    """[m, W], text by text and padded: the steps between two texts cannot be packed."""
    states = encoder.states(TextBatch(ids=ids, mask=mask)).float()
    if encoder.pooling == "cls":
        return states[:, 0]
    real = mask[..., None].float()
    return (states * real).sum(1) / real.sum(1).clamp(min=1)


def _method(forward: Any, layer: Any) -> Any:
    """captum's, whose types are its own."""
    try:
        from captum.attr import LayerIntegratedGradients  # an extra: who does not explain needs it not
    except ImportError as error:
        remedy = "Install the extra `explain`: pip install 'recsys[explain]'."
        raise InputError(f"Words are explained with captum, which is not installed. {remedy}") from error
    return LayerIntegratedGradients(forward, layer)
