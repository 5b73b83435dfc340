"""A trained text tower -> a folder that plain sentence-transformers loads."""

import tempfile
from pathlib import Path
from typing import Literal

import torch
from torch import nn
from transformers import PreTrainedTokenizerFast

from recsys.errors import InputError
from recsys.models.text import TextEncoder, without_reports


def export_sentence_transformers(
    encoder: TextEncoder,
    tokenizer: PreTrainedTokenizerFast,
    folder: Path | str,
    *,
    pooling: Literal["mean", "cls"],
    max_tokens: int,
    dense: nn.Linear | None,
    normalize: bool,
) -> None:
    """Write `folder` so that `SentenceTransformer(folder).encode(texts)` gives the tower's own vectors.

    The modules are the encoder (adapters merged), the pooling, `dense` without activation if it is given, and the
    normalisation to length 1 if asked for. Files of the same names in `folder` are replaced.
    Raises InputError if sentence-transformers is not installed.
    """
    try:
        from sentence_transformers import SentenceTransformer  # optional, and slow to import
        from sentence_transformers.sentence_transformer.modules import Normalize, Pooling, Transformer
    except ImportError as error:
        raise InputError(
            "Exporting for sentence-transformers needs the package sentence-transformers, which is not installed: "
            'pip install "recsys[export]"'
        ) from error
    # Plain sentence-transformers wants the pooling layer that the encoder leaves out. It gets one that nothing reads,
    # whose random values neither differ between two exports nor move the caller's generator.
    with tempfile.TemporaryDirectory() as plain, without_reports(), torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        encoder.save(plain)
        tokenizer.save_pretrained(plain)
        modules: list[nn.Module] = [Transformer(plain, max_seq_length=max_tokens), Pooling(encoder.width, pooling)]
        modules += [_dense(dense)] if dense is not None else []
        modules += [Normalize()] if normalize else []
        model = SentenceTransformer(modules=modules, device="cpu")
        model.save(str(folder), create_model_card=False)


def _dense(layer: nn.Linear) -> nn.Module:
    from sentence_transformers.sentence_transformer.modules import Dense

    return Dense(
        layer.in_features,
        layer.out_features,
        bias=layer.bias is not None,
        activation_function=None,
        init_weight=layer.weight.detach().float().cpu().clone(),
        init_bias=None if layer.bias is None else layer.bias.detach().float().cpu().clone(),
    )
