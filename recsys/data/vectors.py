"""Texts -> tokens or, for a frozen encoder, vectors; each made once and mapped from disk afterwards."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
from transformers import PreTrainedTokenizerFast

from recsys.data.datasets import Texts
from recsys.data.tokens import TokenCache, token_cache
from recsys.shards import fingerprint, publish_folder

Encode = Callable[[TokenCache], np.ndarray]
"""Token cache -> [n, W] float32 vectors."""


def text_source(
    texts: list[str],
    tokenizer: PreTrainedTokenizerFast,
    max_tokens: int,
    folder: Path,
    *,
    encode: Encode | None,
    encoder_key: str,
    dropout: float = 0.0,
) -> Texts:
    """How texts reach a batch.

    Args:
        texts: one for each item or query.
        tokenizer: of the text encoder.
        max_tokens: longest text.
        folder: of the caches.
        encode: a frozen encoder, whose vectors are cached; None: tokens go into the batch.
        encoder_key: what the vectors depend on beside the tokens.
        dropout: share of the tokens that are left out in training.
    """
    tokens = token_cache(texts, tokenizer, max_tokens, folder)
    if encode is None:
        return Texts(tokens=tokens.batch, dropout=dropout)
    path = folder / f"vectors-{fingerprint(tokens.folder.name, encoder_key)}"
    if not (path / "vectors.npy").is_file():
        with publish_folder(path) as made:
            np.save(made / "vectors.npy", encode(tokens))
    return Texts(vectors=np.load(path / "vectors.npy", mmap_mode="r", allow_pickle=False))
