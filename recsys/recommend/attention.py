"""What attention looks at, for comparison with what carries a score: a weight is no proof of an effect."""

import math
from collections.abc import Generator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from recsys.recommend.counterfactual import Counterfactuals
from recsys.recommend.deletions import entry_keys


class _Watch(TorchFunctionMode):
    """Keeps the attention weights, mean over the heads, of every scaled dot-product attention that is computed."""

    def __init__(self) -> None:
        super().__init__()
        self.weights: list[Tensor] = []  # [B, S, S] each

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func is F.scaled_dot_product_attention:
            query, key = args[:2]
            self.weights.append(_weights(query, key, kwargs.get("attn_mask"), causal=kwargs.get("is_causal", False)))
        return func(*args, **kwargs)


def _weights(query: Tensor, key: Tensor, mask: Tensor | None, *, causal: bool) -> Tensor:
    scores = query @ key.transpose(-1, -2) / math.sqrt(query.shape[-1])
    if causal:
        scores = scores.masked_fill(torch.ones_like(scores[0, 0], dtype=torch.bool).triu(1), -torch.inf)
    if mask is not None:
        scores = scores.masked_fill(~mask, -torch.inf) if mask.dtype == torch.bool else scores + mask
    return scores.softmax(-1).mean(1)


@contextmanager
def watched() -> Generator[list[Tensor]]:
    """The weights of every attention in the block, as they come: each [B, S, S]."""
    with _Watch() as watch:
        yield watch.weights


@torch.no_grad()
def history_attention(without: Counterfactuals, requests: list[int]) -> list[dict[int, float]]:
    """How much the retriever's last state attends to each entry of a request's history, mean over layers and heads.

    By `Unit.at` of what stands there; the entries of one item are added up. Empty where there is no history, or no
    transformer reads it.
    """
    batch, step = without.user_batch([(request, frozenset()) for request in requests])
    with watched() as weights:
        without.cascade.retriever.model.encode_users(batch, without.catalogue)
    own = [one for one in weights if one.shape[-1] == batch.history.shape[1] + 1]
    if not own:
        return [{} for _ in requests]
    mean = torch.stack(own).mean(0)[torch.arange(len(requests)), step]  # [B, H + 1], the start first
    return [
        _by_entry(entry_keys(without.pasts[request]), row[1:].numpy())
        for request, row in zip(requests, mean, strict=True)
    ]


def _by_entry(keys: np.ndarray, weights: np.ndarray) -> dict[int, float]:
    found: dict[int, float] = {}
    for key, weight in zip(keys.tolist(), weights.tolist(), strict=False):
        found[key] = found.get(key, 0.0) + weight
    return found
