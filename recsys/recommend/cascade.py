"""Retrieve, prune, decide: the cascade from requests to lists."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Self

import numpy as np
import polars as pl

from recsys.data.datasets import Features
from recsys.data.prepare import Prepared
from recsys.data.requests import Requests
from recsys.errors import InputError
from recsys.models.checkpoint import load_pruner
from recsys.models.pruner import DecisionConfig, Pruner, decide
from recsys.recommend.score import score_candidates
from recsys.retrieval.candidates import retrieve
from recsys.retrieval.embed import OpenRetriever, embed_items, open_features
from recsys.retrieval.index import ItemIndex
from recsys.shards import fingerprint, folder_hash
from recsys.tables import DataConfig


@dataclass(frozen=True, kw_only=True)
class Lists:
    """Recommendations of B requests, best first, padded with -1."""

    items: np.ndarray  # [B, L] int64
    scores: np.ndarray  # [B, L] float32, what the list is ordered by
    retriever_scores: np.ndarray  # [B, L] float32
    pruner_scores: np.ndarray | None  # [B, L] float32, calibrated probability
    candidates: np.ndarray  # [B, K] int64, what the retriever proposed, in its order
    candidate_scores: np.ndarray  # [B, K] float32


@dataclass(frozen=True, kw_only=True)
class Cascade:
    """A retriever, perhaps a pruner, and the catalogue that they serve."""

    retriever: OpenRetriever
    pruner: Pruner | None
    pruner_features: Features | None
    pruner_folder: Path | None
    config: DataConfig
    item_vectors: np.ndarray  # [N, D] float32
    index: ItemIndex
    top_k: int
    decision: DecisionConfig
    fingerprint: str

    @classmethod
    def open(cls, retriever: str, pruner: str | None, config: DataConfig, top_k: int, decision: DecisionConfig) -> Self:
        """Load the models of two training runs, prepare the data and embed the catalogue."""
        opened = OpenRetriever.open(Path(retriever), config)
        vectors = embed_items(opened)
        model = features = folder = None
        if pruner is not None:
            folder = Path(pruner) / "model"
            model = load_pruner(folder)
            features = open_features(folder, model.text, opened.data, config)
        elif decision.probability is not None:
            raise InputError("decision.probability needs a pruner, whose scores are probabilities; set pruner: RUN, or decide by decision.top alone.")
        hashes = [folder_hash(one) for one in (opened.folder, folder) if one is not None]
        return cls(
            retriever=opened, pruner=model, pruner_features=features, pruner_folder=folder, config=config, item_vectors=vectors,
            index=ItemIndex.build(vectors), top_k=top_k, decision=decision, fingerprint=fingerprint(hashes, opened.data.hash),
        )  # fmt: skip

    @property
    def data(self) -> Prepared:
        """The data set that is served."""
        return self.retriever.data

    @property
    def item_ids(self) -> pl.Series:
        """Ids of the items table, as they came in."""
        return self.data.tables.items[self.config.items.id]

    def recommend(self, requests: Requests) -> Lists:
        """The lists of some requests."""
        found = retrieve(self.retriever, self.index, self.item_vectors, requests, self.top_k)
        if self.pruner is None:
            return _cut(Lists(
                items=found.items, scores=found.scores, retriever_scores=found.scores, pruner_scores=None,
                candidates=found.items, candidate_scores=found.scores,
            ), self.decision.top or self.top_k)  # fmt: skip
        assert self.pruner_features is not None
        logits = score_candidates(self.pruner, self.pruner_features, requests, found.items, found.scores, self.item_vectors, found.users)
        return self._decide(found.items, found.scores, logits)

    def _decide(self, items: np.ndarray, scores: np.ndarray, logits: np.ndarray) -> Lists:
        """Order by the pruner (ties: the retriever's order), keep what the decision keeps."""
        assert self.pruner is not None
        chance = np.where(items >= 0, self.pruner.probability(logits), -1.0).astype(np.float32)
        keep = decide(chance, self.decision) & (items >= 0)
        order = np.argsort(np.where(keep, -logits, np.inf), axis=1, kind="stable")
        kept = np.take_along_axis(keep, order, 1)

        def arranged(values: np.ndarray, missing: float) -> np.ndarray:
            return np.where(kept, np.take_along_axis(values, order, 1), missing).astype(values.dtype)

        width = max(int(kept.sum(1).max(initial=0)), 1)
        lists = Lists(
            items=arranged(items, -1), scores=arranged(chance, 0), retriever_scores=arranged(scores, 0), pruner_scores=arranged(chance, 0),
            candidates=items, candidate_scores=scores,
        )  # fmt: skip
        return _cut(lists, width)

    def on(self, data: Prepared, features: Features, pruner_features: Features | None) -> Self:
        """The same models and catalogue, asked about other users or queries."""
        return replace(self, retriever=replace(self.retriever, data=data, features=features), pruner_features=pruner_features)


def _cut(lists: Lists, width: int) -> Lists:
    pruned = None if lists.pruner_scores is None else lists.pruner_scores[:, :width]
    return replace(
        lists, items=lists.items[:, :width], scores=lists.scores[:, :width], retriever_scores=lists.retriever_scores[:, :width], pruner_scores=pruned
    )
