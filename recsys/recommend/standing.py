"""How a candidate stands among those of its request: what the sources say of it, and the evidence that a pruner reads.

Letters: B requests, K items that are asked about, C candidates of a request.
"""

from collections.abc import Collection
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from recsys.data.requests import Requests
from recsys.recommend.cascade import Cascade
from recsys.retrieval.candidates import retrieve
from recsys.retrieval.fusion import unite


@dataclass(frozen=True, kw_only=True)
class Said:
    """What the retriever and the lexical source say of some items."""

    items: np.ndarray  # [B, C] int64 rows of the items table, -1 padded
    dense: np.ndarray  # [B, C]
    lexical: np.ndarray  # [B, C], 0 without a lexical source

    def fused(self, pool: "Said", weight: float) -> np.ndarray:
        """[B, C] z(dense) + weight * z(lexical), each measured over the pool of both sources (`retrieval.fusion`)."""
        real = pool.items >= 0
        dense, lexical = standardised(self.dense, pool.dense, real), standardised(self.lexical, pool.lexical, real)
        return dense + weight * lexical


class LexicalSource:
    """BM25 of some requests, word by word, so that a word can be left out; zero without a lexical source."""

    def __init__(self, cascade: Cascade, requests: Requests) -> None:
        self.cascade, self.requests = cascade, requests
        self.hybrid = cascade.hybrid

    @cached_property
    def pool(self) -> np.ndarray:
        """[R, U] all that retriever and BM25 propose for each request, -1 padded; over these, scores are fused."""
        assert self.hybrid is not None
        cascade, rows = self.cascade, np.flatnonzero(self.requests.queries >= 0)
        if not len(rows):
            return np.full((len(self.requests), 1), -1)
        plain = retrieve(cascade.retriever, cascade.index, cascade.items, self.requests.take(rows), cascade.top_k)
        own, _ = self.hybrid.index.search(
            [self._text(int(row)) for row in rows], min(self.hybrid.config.candidates, len(self.hybrid.index))
        )
        union = unite(plain.items, own)
        found = np.full((len(self.requests), union.shape[1]), -1)
        found[rows] = union
        return found

    def words(self, text: str) -> frozenset[str]:
        """Those of a text that count."""
        return frozenset() if self.hybrid is None else frozenset(self.hybrid.index.words(text))

    def scores(self, request: int, items: np.ndarray, left: Collection[str]) -> dict[str, np.ndarray]:
        """What each word of the query, of those that are left, adds to the scores of items [n]."""
        known = self._word_scores(request)
        return {word: known[word][items] for word in known if word in left}

    def _text(self, request: int) -> str:
        queries = self.cascade.data.queries
        assert queries is not None
        return queries.texts[self.requests.queries[request]]

    def _word_scores(self, request: int) -> dict[str, np.ndarray]:
        """[N] of each word of the query; of the last request that was asked about they are kept."""
        if self._last[0] != request:
            assert self.hybrid is not None
            words = dict.fromkeys(self.hybrid.index.words(self._text(request)))
            self._last = request, {word: self.hybrid.index.scores([word])[0] for word in words}
        return self._last[1]

    _last: tuple[int, dict[str, np.ndarray]] = -1, {}


def evidence(
    own: np.ndarray, own_items: np.ndarray, listed: np.ndarray, listed_items: np.ndarray, *lexical: np.ndarray
) -> np.ndarray:
    """[B, K, E] float32, as `retriever_evidence` would have it of whole lists: score, log(1 + rank), lexical score.

    Args:
        own: [B, K] scores of the items that are asked about.
        own_items: [B, K] which these are; each stands in its list.
        listed: [B, C] scores of the whole lists.
        listed_items: [B, C], -1 padded.
        lexical: [B, K] and [B, C] scores of a lexical source, or nothing.
    """
    real = listed_items >= 0
    ahead = (listed[:, None, :] > own[:, :, None]) & real[:, None, :]
    others = ahead & (listed_items[:, None, :] != own_items[:, :, None])
    columns = [standardised(own, listed, real), np.log1p(others.sum(-1))]
    if lexical:
        columns.append(standardised(lexical[0], lexical[1], real))
    return np.stack(columns, axis=-1).astype(np.float32)


def standardised(values: np.ndarray, among: np.ndarray, real: np.ndarray) -> np.ndarray:
    """[B, K] values, measured by mean and deviation of the real ones of [B, C]; 0 where those are all equal."""
    count = np.maximum(real.sum(1, keepdims=True), 1)
    mean = np.where(real, among, 0).sum(1, keepdims=True) / count
    spread = np.sqrt(np.where(real, np.square(among - mean), 0).sum(1, keepdims=True) / count)
    return (values - mean) / np.maximum(spread, 1e-6)
