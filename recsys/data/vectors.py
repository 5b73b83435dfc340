"""Texts -> tokens or, for a frozen encoder, vectors; each made once and mapped from disk afterwards."""

from pathlib import Path

import numpy as np
from transformers import PreTrainedTokenizerFast

from recsys.data.features import Texts
from recsys.data.text import plain_backend
from recsys.data.tokens import token_cache, tokenize
from recsys.shards import fingerprint
from recsys.vectors import FrozenEncoder, VectorStore, content_keys

PART = 8192
"""Texts that are encoded before their vectors are written: what a crash costs."""


def text_source(
    texts: list[str],
    tokenizer: PreTrainedTokenizerFast,
    max_tokens: int,
    folder: Path,
    *,
    frozen: FrozenEncoder | None,
    dropout: float = 0.0,
    share: tuple[int, int] = (0, 1),
) -> Texts:
    """How texts reach a batch.

    Args:
        texts: one for each item or query.
        tokenizer: of the text encoder.
        max_tokens: longest text.
        folder: of the caches.
        frozen: the encoder, whose vectors are kept: texts that had one before are not read again; None: tokens go into
            the batch.
        dropout: share of the tokens that are left out in training.
        share: I, N: of vectors that are not there, this process makes every N-th part from the I-th on.

    Raises Unfinished where parts of other shares are missing.
    """
    if frozen is None:
        return Texts(tokens=token_cache(texts, tokenizer, max_tokens, folder).batch, dropout=dropout)
    backend = plain_backend(tokenizer, max_tokens)
    pad_id = backend.token_to_id(str(tokenizer.pad_token)) or 0
    made_from = fingerprint(backend.to_str(), pad_id, frozen.key)
    store = VectorStore(folder=folder / "text-vectors", made_from=made_from, width=frozen.width, part=PART)

    def encode(rows: np.ndarray) -> np.ndarray:
        return frozen.encode(tokenize([texts[row] for row in rows], backend, pad_id))

    return Texts(vectors=store.read(content_keys(text.encode() for text in texts), encode, share))
