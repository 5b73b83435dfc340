"""BM25 beside a retriever: what both propose for a query becomes one list."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np

from recsys.data.filters import Allowed
from recsys.data.prepare import Prepared
from recsys.data.requests import Requests, candidate_requests, join_requests, seen_items
from recsys.data.sampling import uniform
from recsys.data.split import SECOND
from recsys.errors import InputError
from recsys.retrieval.embed import OpenRetriever, embed_requests
from recsys.retrieval.fusion import best_first, reciprocal_rank, reciprocal_rank_of_first, shared_out, unite, weighted
from recsys.retrieval.index import ItemIndex
from recsys.retrieval.lexical import LexicalConfig, LexicalIndex, best_scored

_LEARNT_FROM = 2000  # train queries at most
_WEIGHTS = np.arange(0, 61) / 20  # 0 to 3
_CHOICE = 1_000_033  # seed of the hash that picks the queries: the same in every run


@dataclass(frozen=True, kw_only=True)
class Fused:
    """One list for each of B queries, best first; equal scores to the smaller item."""

    items: np.ndarray  # [B, K] int64, -1 padded
    scores: np.ndarray  # [B, K] float32, -inf at padding
    lexical: np.ndarray  # [B, K] float32 BM25 scores, 0 at padding


@dataclass(frozen=True, kw_only=True)
class Pool:
    """What two sources propose for B queries, and what each says of every candidate."""

    proposed: np.ndarray  # [B, K] int64, the retriever's list
    own: np.ndarray  # [B, K'] int64, BM25's list
    union: np.ndarray  # [B, U] int64
    dense: np.ndarray  # [B, U] float32
    lexical: np.ndarray  # [B, U] float32


@dataclass(frozen=True, kw_only=True)
class Hybrid:
    """The lexical source and how it is fused. A retriever's own index stays what it is."""

    config: LexicalConfig
    """With the weight that is used, where it was learnt."""
    index: LexicalIndex

    @classmethod
    def open(
        cls, config: LexicalConfig, retriever: OpenRetriever, index: ItemIndex, items: np.ndarray, k: int
    ) -> "Hybrid":
        """Index the catalogue's texts and, where the config leaves the weight open, learn it.

        Args:
            config: of the source.
            retriever: that BM25 stands beside.
            index: of its item vectors.
            items: what `embed_items` gives.
            k: length of its lists.
        """
        if not any(retriever.data.catalogue.texts):
            raise InputError("lexical finds no text of any item; name text columns in data.items.text, or take it out.")
        made = cls(config=config, index=LexicalIndex(retriever.data.catalogue.texts, config))
        if config.fuse == "rank" or config.weight is not None:
            return made
        requests = _learnt_from(retriever.data)
        users = np.concatenate(list(embed_requests(retriever, items, requests)))
        proposed, _ = index.search(users, min(k, len(index)), seen_items(retriever.data, requests))
        texts, vectors = query_texts(retriever.data, requests), retriever.vectors(items)
        weight = made.best_weight(texts, users, vectors, proposed, requests.target_rows)
        return replace(made, config=replace(config, weight=weight))

    @property
    def settings(self) -> dict[str, Any]:
        """All that its lists depend on, beside the texts."""
        return asdict(self.config)

    def fuse(
        self, texts: list[str], users: np.ndarray, items: np.ndarray, proposed: np.ndarray,
        allowed: Allowed | None = None,
    ) -> Fused:  # fmt: skip
        """The retriever's lists and BM25's as one, cut to the length of the retriever's.

        Args:
            texts: B queries.
            users: [B, D] float32, their vectors.
            items: [N, D] float32, the items' vectors.
            proposed: [B, K] int64, the retriever's lists, best first, padded with -1.
            allowed: items that may be listed for each query; None: all.
        """
        shape = proposed.shape
        found = Fused(
            items=np.full(shape, -1, dtype=np.int64), scores=np.full(shape, -np.inf, dtype=np.float32),
            lexical=np.zeros(shape, dtype=np.float32),
        )  # fmt: skip
        for rows in self.index.blocks(len(texts)):
            own = None if allowed is None else allowed.take(rows)
            pool = self._pool(texts[rows], users[rows], items, proposed[rows], own)
            scores = self._scores(pool)
            if self.config.share is not None:
                places = round(self.config.share * shape[1])
                scores = np.where(shared_out(pool.union, pool.proposed, pool.own, places), scores, -np.inf)
            order = best_first(pool.union, scores)[:, : shape[1]]
            width = order.shape[1]
            found.items[rows, :width] = np.take_along_axis(pool.union, order, 1)
            found.scores[rows, :width] = np.take_along_axis(scores, order, 1)
            found.lexical[rows, :width] = np.take_along_axis(pool.lexical, order, 1)
        return found

    def _pool(
        self, texts: list[str], users: np.ndarray, items: np.ndarray, proposed: np.ndarray,
        allowed: Allowed | None = None,
    ) -> Pool:  # fmt: skip
        scores = self.index.scores(texts)
        for rows, mask in [] if allowed is None else allowed.groups():
            scores[rows] *= mask  # who scores 0 is never listed
        own, _ = best_scored(scores, min(self.config.candidates, len(self.index)))
        union = unite(proposed, own)
        lexical = np.where(union >= 0, np.take_along_axis(scores, np.maximum(union, 0), 1), 0)
        dense = np.einsum("bud,bd->bu", items[union], users)
        return Pool(proposed=proposed, own=own, union=union, dense=dense, lexical=lexical)

    def _scores(self, pool: Pool) -> np.ndarray:
        """[B, U] float64, -inf at padding."""
        if self.config.fuse == "rank":
            return reciprocal_rank(pool.union, pool.proposed, pool.own)
        assert self.config.weight is not None
        return weighted(pool.union, pool.dense, pool.lexical, self.config.weight)

    def best_weight(
        self,
        texts: list[str],
        users: np.ndarray,
        items: np.ndarray,
        proposed: np.ndarray,
        targets: Sequence[np.ndarray],
    ) -> float:
        """The weight from 0 to 3 with the highest mean reciprocal rank of the first right item; the least of equals.

        The arguments are those of `fuse`, and `targets` the right items of each query. A retriever that has learnt from
        these queries is trusted more than it deserves (see `LexicalConfig.weight`).
        """
        totals = np.zeros(len(_WEIGHTS))
        for rows in self.index.blocks(len(texts)):
            pool = self._pool(texts[rows], users[rows], items, proposed[rows])
            right = np.stack([np.isin(one, own) for one, own in zip(pool.union, targets[rows], strict=True)])
            for number, weight in enumerate(_WEIGHTS):
                scores = weighted(pool.union, pool.dense, pool.lexical, weight)
                totals[number] += reciprocal_rank_of_first(best_first(pool.union, scores), right).sum()
        return float(_WEIGHTS[totals.argmax()])


def query_texts(data: Prepared, requests: Requests) -> list[str]:
    """The text of each request's query; every one must have one."""
    assert data.queries is not None
    return [data.queries.texts[query] for query in requests.queries]


def _learnt_from(data: Prepared) -> Requests:
    """Queries with a relevant item, at most `_LEARNT_FROM`, by a hash of their row: of those that the retriever does
    not know (`split.second_queries`), or of all train queries where it knows all.
    """
    groups = [one for stage, one in candidate_requests(data, ["query_to_item"]) if stage == "second"]
    if not groups:
        remedy = "set it: candidates/source.json names what was learnt before"
        raise InputError(f"lexical.weight is null, and no train query has a relevant item to learn it from; {remedy}.")
    requests = join_requests(groups)
    assert data.queries is not None
    unknown = np.flatnonzero(data.queries.stage[requests.queries] == SECOND)
    requests = requests.take(unknown) if len(unknown) else requests
    picked = np.argsort(uniform(_CHOICE, 0, requests.queries), kind="stable")[:_LEARNT_FROM]
    return requests.take(np.sort(picked))
