"""Candidates -> the pruner's logits, a batch at a time."""

from collections.abc import Collection
from pathlib import Path

import numpy as np
import torch
from transformers import AutoTokenizer

from recsys.data.datasets import Features
from recsys.data.lists import assemble_lists, latest_only
from recsys.data.pairs import PairTexts
from recsys.data.prepare import Prepared
from recsys.data.requests import Requests
from recsys.errors import InputError
from recsys.models.pruner import Pruner
from recsys.models.states import StateCache
from recsys.tables import DataConfig


@torch.inference_mode()
def score_candidates(
    pruner: Pruner, features: Features, requests: Requests, candidates: np.ndarray, scores: np.ndarray,
    item_vectors: np.ndarray, user_vectors: np.ndarray, batch_size: int = 64, *, pairs: PairTexts | None = None,
    lexical: np.ndarray | None = None, states: StateCache | None = None,
) -> np.ndarray:  # fmt: skip
    """[R, K, 1 + G] float32 logits of the candidates of R requests, -inf at padding: of what lists are ordered by, then
    of each other target.

    Args:
        pruner: in evaluation mode, on any device.
        features: reader of the pruner's features; histories are cut to what the pruner reads.
        requests: R requests.
        candidates: [R, K] rows of the items table, best first, padded with -1 at the end.
        scores: [R, K] of the retriever.
        item_vectors: [N, D] the retriever's vectors of all items.
        user_vectors: [R, D] the retriever's vectors of the requests.
        batch_size: requests scored at one time.
        pairs: reader of pairs of texts (`open_pairs`), which a cross-encoder needs.
        lexical: [R, K] scores of a lexical source, or None.
        states: what this pruner has made of candidates that it reads apart, kept from call to call; None: for this one.
    """
    if pruner.config.reads_pairs and pairs is None:
        remedy = "open them with open_pairs(folder, pruner, data, config)"
        raise InputError(f"This pruner is a cross-encoder and was given no pairs of texts; {remedy}.")
    narrow, device = latest_only(features, pruner.config.history), next(pruner.parameters()).device
    out = np.full((*candidates.shape, 1 + len(pruner.config.targets)), -np.inf, dtype=np.float32)
    states = StateCache() if states is None else states
    for start in range(0, len(requests), batch_size):
        rows = np.arange(start, min(start + batch_size, len(requests)))
        own = candidates[rows]
        batch = assemble_lists(
            narrow, requests.take(rows), own, scores[rows], np.zeros(own.shape), item_vectors, user_vectors[rows],
            pairs, lexical=None if lexical is None else lexical[rows],
        )  # fmt: skip
        out[rows] = pruner.judge(batch.to(device), states).cpu().numpy()
    return out


def open_pairs(
    folder: Path, pruner: Pruner, data: Prepared, config: DataConfig, hidden: Collection[str] = ()
) -> PairTexts | None:
    """The reader of pairs of texts of a pruner, without `hidden` sources; None if it reads cached states."""
    text = pruner.config.text
    if text is None or not pruner.config.reads_pairs:
        return None
    tokenizer = AutoTokenizer.from_pretrained(folder / "text", trust_remote_code=False)
    return PairTexts(
        data, tokenizer, title=config.items.text[:1], max_tokens=text.max_tokens, history=pruner.config.history,
        folder=Path(config.cache), hidden=hidden, apart=pruner.config.apart,
    )  # fmt: skip
