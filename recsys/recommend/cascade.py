"""Retrieve, prune, decide: the cascade from requests to lists."""

import json
from collections.abc import Collection, Mapping
from contextlib import AbstractContextManager, nullcontext
from copy import copy
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Protocol, Self

import numpy as np
import polars as pl

from recsys.data.features import HIDEABLE, Features, Texts
from recsys.data.images import Images
from recsys.data.notes import Notes, read_notes
from recsys.data.pairs import PairTexts
from recsys.data.prepare import Codes, Prepared, catalogue_hash
from recsys.data.requests import Requests, seen_items
from recsys.errors import InputError
from recsys.models.decision import KINDS, QUERIES, USERS, DecisionConfig, decide, resolve
from recsys.models.pruner import Pruner
from recsys.models.states import StateCache
from recsys.recommend.rerank import RerankConfig, Reranker, softmax
from recsys.recommend.score import open_pairs, score_candidates
from recsys.retrieval.candidates import Found, retrieve
from recsys.retrieval.catalogue import Store, open_catalogue
from recsys.retrieval.embed import OpenRetriever, TextReader, embed_requests, open_features, order_candidates
from recsys.retrieval.hybrid import Hybrid
from recsys.retrieval.index import ItemIndex
from recsys.retrieval.lexical import LexicalConfig
from recsys.retrieval.runtime import TORCH, Runtime
from recsys.shards import folder_hash
from recsys.tables import DataConfig

HISTORY, PROFILE, POPULARITY, QUERY = "history", "profile", "popularity", "query"
"""What a list is made from: what its user has done, what is said of him, what all take (nobody known), or words."""


class Clock(Protocol):
    """Whoever wants to know what the parts of the work take."""

    def part(self, name: str, /) -> AbstractContextManager[None]:
        """Takes the time of a block."""
        ...


@dataclass(frozen=True, kw_only=True)
class Lists:
    """Recommendations of B requests, best first, padded with -1."""

    items: np.ndarray  # [B, L] int64
    scores: np.ndarray  # [B, L] float32, what the list is ordered by
    retriever_scores: np.ndarray  # [B, L] float32
    pruner_scores: np.ndarray | None  # [B, L] float32, calibrated probability
    candidates: np.ndarray  # [B, K] int64, what the retriever proposed, in its order
    candidate_scores: np.ndarray  # [B, K] float32
    ordered: np.ndarray | None = None  # [B, K] int64, all candidates in the pruner's order
    others: np.ndarray | None = None  # [B, L, G] float32, calibrated probability of each other target of the pruner


@dataclass(frozen=True, kw_only=True)
class OpenPruner:
    """A trained pruner and the readers of its batches."""

    folder: Path
    model: Pruner
    words: TextReader | None
    features: Features
    pairs: PairTexts | None
    lexical: dict[str, Any] | None
    """How the lists that it learnt from were fused with a lexical source's; None: they were not."""
    states: StateCache = field(default_factory=StateCache)
    """What the model has made of candidates that it reads apart."""

    @classmethod
    def open(cls, run: Path, config: DataConfig, retriever: OpenRetriever) -> Self:
        """Load RUN/model. Raises InputError if it was trained on the candidates of another kind of retriever."""
        folder = run / "model"
        model = retriever.runtime.load_pruner(folder).to(retriever.device)
        width, codes = retriever.model.width, Codes.load(folder / "codes.json")
        if model.vector_width != width or _learnt(codes) != _learnt(retriever.data.codes):
            raise InputError(
                f"{folder} was trained beside another retriever than {retriever.folder}: vectors of width "
                f"{model.vector_width}, here {width}, or other values in its tables. Train it on this one's candidates."
            )
        words = None if model.config.reads_pairs else TextReader.open(folder, model, config.cache)
        hidden, said = retriever.features.hidden, {}
        if model.joint is not None:
            said = read_notes(retriever.data.tables, config, codes)
            _check_notes(model, said, folder)
        data = replace(retriever.data, notes=said)
        features = open_features(words, data, config, model.image, notes=model.config.notes, hidden=hidden)
        pairs = open_pairs(folder, model, retriever.data, config, hidden)
        path = folder / "lexical.json"
        lexical = json.loads(path.read_text()) if path.is_file() else None
        return cls(folder=folder, model=model, words=words, features=features, pairs=pairs, lexical=lexical)


def _learnt(codes: Codes) -> Codes:
    """What both read alike; items by number are the retriever's own affair, and notes the pruner's."""
    return replace(codes, item_ids=[], notes={})


def _check_notes(model: Pruner, notes: Mapping[str, Notes], folder: Path) -> None:
    """Refuse reviews or ads with other numbers beside them than the model has weights for; none at all are missing."""
    for name, learnt in (("reviews", model.sizes.reviews), ("ads", model.sizes.ads)):
        given = notes[name].number.shape[1] if name in notes else learnt
        if learnt is not None and given != learnt:
            raise InputError(
                f"{folder} was trained with {learnt} numbers beside each of data.{name}; this config names {given}. "
                "Use the data section of the training run's config."
            )


@dataclass(frozen=True, kw_only=True)
class Cascade:
    """A retriever, perhaps a pruner, and the catalogue that they serve."""

    config: DataConfig
    retriever: OpenRetriever
    pruner: OpenPruner | None
    items: np.ndarray  # [N, D or more] float32, as `embed_items` gives them
    index: ItemIndex
    hybrid: Hybrid | None
    """What queries are also answered from."""
    top_k: int
    decision: dict[str, DecisionConfig]
    """By kind of request, each with the probability that its loss asks for."""
    made_from: dict[str, object]
    """What all lists depend on: the models, the catalogue and how it is searched, and how lists are cut."""
    reranker: Reranker | None = None
    """What orders and cuts users' lists after the models; None: the models alone do."""

    @classmethod
    def open(
        cls, retriever: str, pruner: str | None, config: DataConfig, top_k: int, decision: DecisionConfig,
        lexical: LexicalConfig | None = None, hidden: Collection[str] = (), *, runtime: Runtime = TORCH,
        store: Store | None = None,
    ) -> Self:  # fmt: skip
        """Load the models of two training runs, prepare the data and embed the catalogue, without `hidden` sources.

        A `decision` that says nothing leaves it to the pruner's own. `lexical` is a second source for queries;
        `runtime` computes the models. Of a `store` vectors and index are taken, where they lie there.
        """
        if pruner is None and decision != DecisionConfig(top=decision.top):
            name = "probability" if decision.loss is None else "loss"
            remedy = "set pruner: RUN, or decide by decision.top alone"
            raise InputError(f"decision.{name} needs a pruner, whose scores are probabilities; {remedy}.")
        first = OpenRetriever.open(Path(retriever), config, hidden, runtime=runtime)
        second = OpenPruner.open(Path(pruner), config, first) if pruner is not None else None
        decided: dict[str, DecisionConfig] = dict.fromkeys(KINDS, decision)
        if second is not None:
            wanted = second.model.decision if decision == DecisionConfig() else decision
            decided = {kind: resolve(wanted, one.promises) for kind, one in second.model.meaning.items()}
        found = open_catalogue(first, store)
        hybrid = None if lexical is None else Hybrid.open(lexical, first, found.index, found.items, top_k)
        made_from: dict[str, object] = {
            "models": [first.weights(), *([] if second is None else [folder_hash(second.folder)])],
            "items": catalogue_hash(first.data.tables, config), "vectors": str(found.items.dtype),
            "device": first.device.type, "index": found.made_from, "candidates": top_k,
            "decision": [asdict(one) for one in decided.values()], "lexical": hybrid and hybrid.settings,
        }  # fmt: skip
        return cls(
            config=config, retriever=first, pruner=second, items=found.items, index=found.index, hybrid=hybrid,
            top_k=top_k, decision=decided, made_from=made_from,
        )  # fmt: skip

    @property
    def length(self) -> int:
        """Of the longest list."""
        return min(self.decision[USERS].top or self.top_k, len(self.data.catalogue))

    @property
    def data(self) -> Prepared:
        """The data set that is served."""
        return self.retriever.data

    @property
    def item_vectors(self) -> np.ndarray:
        """[N, D] float32 vectors of the catalogue, as they are in the index."""
        return self.retriever.vectors(self.items)

    @property
    def item_ids(self) -> pl.Series:
        """Ids of the items table, as they came in."""
        return self.data.tables.items[self.config.items.id]

    def reranked_by(self, config: RerankConfig | None) -> Self:
        """The same models, whose users' lists are re-ranked; null: this one."""
        if config is None:
            return self
        columns, vectors = list(self.config.items.category), self.item_vectors
        reranker = Reranker.open(config, self.data, columns, vectors, self.length)
        return replace(self, reranker=reranker, made_from={**self.made_from, "rerank": asdict(config)})

    def recommend(self, requests: Requests, clock: Clock | None = None) -> Lists:
        """The lists of some requests; `clock` takes the time of the parts "retrieve", "score" and "decide".

        Of a run with exposure targets whose prices are not known yet: lists of full length.
        """
        if self.reranker is None:
            return self.propose(requests, self.decision[USERS].top, clock)
        lists = self.propose(requests, None, clock)
        with nullcontext() if clock is None else clock.part("decide"):
            return self._reranked(self.reranker, lists, requests)

    def _reranked(self, reranker: Reranker, lists: Lists, requests: Requests) -> Lists:
        chance, pasts = self.chances(lists), [np.zeros(0, dtype=np.int64)] * len(requests)
        if reranker.reads_pasts:
            pasts = seen_items(self.data, replace(requests, among=None))
        ordered = arranged(lists, reranker.order(lists.items, chance, pasts))
        return arranged(ordered, reranker.cut(ordered.items, chance))

    def chances(self, lists: Lists) -> np.ndarray:
        """[B, L] that each item of the lists is right: the pruner's calibrated probability, or without a pruner the
        softmax of the retriever's scores over the list, at the temperature of its training.
        """
        if lists.pruner_scores is not None:
            return lists.pruner_scores
        return softmax(lists.retriever_scores, lists.items, float(self.retriever.model.scale))

    def propose(self, requests: Requests, top: int | None, clock: Clock | None = None) -> Lists:
        """The models' own lists, cut after `top` items where that is given."""
        part = nullcontext if clock is None else clock.part
        found, judged = self.judge_targets(requests, clock)
        if judged is None or self.pruner is None:
            kept = slice(min(top or self.top_k, len(self.data.catalogue)))
            return Lists(
                items=found.items[:, kept], scores=found.scores[:, kept], retriever_scores=found.scores[:, kept],
                pruner_scores=None, candidates=found.items, candidate_scores=found.scores,
            )  # fmt: skip
        with part("decide"):
            asks, logits = requests.queries[:, None] >= 0, judged[..., 0]
            chances = np.where(found.items >= 0, self.pruner.model.probability(logits, asks), -1)
            users, queries = (self.decision[kind].probability or 0.0 for kind in (USERS, QUERIES))
            return prune(
                found.items, found.scores, logits, chances, top=top,
                least=np.where(asks, queries, users), others=self.pruner.model.other_probabilities(judged[..., 1:]),
            )  # fmt: skip

    def judge(self, requests: Requests, clock: Clock | None = None) -> tuple[Found, np.ndarray | None]:
        """Candidates of some requests, and the pruner's logits of them [B, K]; None where there is no pruner."""
        found, judged = self.judge_targets(requests, clock)
        return found, None if judged is None else judged[..., 0]

    def judge_targets(self, requests: Requests, clock: Clock | None = None) -> tuple[Found, np.ndarray | None]:
        """Candidates, and the logits of all targets [B, K, 1 + G], what lists are ordered by first."""
        part = nullcontext if clock is None else clock.part
        filters = self.data.filters
        with part("retrieve"):
            allowed = None if filters is None else filters.of(requests.users)
            found = retrieve(self.retriever, self.index, self.items, requests, self.top_k, self.hybrid, allowed)
        if self.pruner is None:
            return found, None
        with part("score"):
            judged = score_candidates(
                self.pruner.model, self.pruner.features, requests, found.items, found.scores, self.item_vectors,
                found.users, pairs=self.pruner.pairs, lexical=found.lexical, states=self.pruner.states,
            )  # fmt: skip
        return found, judged

    def rate(self, requests: Requests, items: np.ndarray) -> np.ndarray | None:
        """The pruner's logits [B, K] of given candidates of some requests (-1 padded at the end), as if this retriever
        had proposed them; None without a pruner.
        """
        if self.pruner is None:
            return None
        users = np.concatenate(list(embed_requests(self.retriever, self.items, requests)))
        order, best = order_candidates(self.retriever, self.items, users, items)
        ranked = np.take_along_axis(items, order, 1)
        logits = score_candidates(
            self.pruner.model, self.pruner.features, requests, ranked, best, self.item_vectors, users,
            pairs=self.pruner.pairs, states=self.pruner.states,
        )[..., 0]  # fmt: skip
        found = np.empty_like(logits)
        np.put_along_axis(found, order, logits, 1)
        return found

    def fusion_fault(self) -> str:
        """One sentence where queries are fused otherwise than in the lists that the pruner learnt from, else ""."""
        here = None if self.hybrid is None else self.hybrid.settings
        if self.pruner is None or self.pruner.lexical == here:
            return ""
        learnt, found = (f"lexical: {one}" if one else "no lexical source" for one in (self.pruner.lexical, here))
        remedy = "its probabilities may be off; use the same here, or train it on candidates that are made so"
        return f"{self.pruner.folder} has learnt from lists made with {learnt}; here there is {found}: {remedy}."

    def about(self, data: Prepared, text: str | None = None, picture: Images | None = None) -> Self:
        """The same models and catalogue, asked about other users, or one query that is the only one of `data`: its
        words, or its picture as the retriever reads it (`read_picture`), or both.
        """
        features = _about(self.retriever.features, self.retriever.words, data, text)
        features.query_images = picture
        retriever = replace(self.retriever, data=data, features=features)
        if self.pruner is None:
            return replace(self, retriever=retriever)
        features = _about(self.pruner.features, self.pruner.words, data, text)
        pairs = self.pruner.pairs.about(data) if self.pruner.pairs is not None else None
        return replace(self, retriever=retriever, pruner=replace(self.pruner, features=features, pairs=pairs))


def arranged(lists: Lists, columns: np.ndarray) -> Lists:
    """The same lists with their items in another order, or fewer of them: [B, P] columns."""

    def taken(values: np.ndarray) -> np.ndarray:
        return np.take_along_axis(values, columns, 1)

    pruned, others = lists.pruner_scores, lists.others
    return replace(
        lists, items=taken(lists.items), scores=taken(lists.scores), retriever_scores=taken(lists.retriever_scores),
        pruner_scores=None if pruned is None else taken(pruned),
        others=None if others is None else np.take_along_axis(others, columns[..., None], 1),
    )  # fmt: skip


def read_sources(cascade: Cascade) -> list[str]:
    """The sources that the cascade's models read."""
    data, models = cascade.data, [cascade.retriever.model, *([cascade.pruner.model] if cascade.pruner else [])]
    there = {
        "text": any(data.catalogue.texts), "image": any(model.image is not None for model in models),
        "profile": bool(data.codes.user_category or data.codes.user_number), "context": bool(data.codes.context),
        "history": data.histories is not None,
        **{name: cascade.pruner is not None and name in cascade.pruner.features.notes for name in ("reviews", "ads")},
    }  # fmt: skip
    return [*(name for name in HIDEABLE if there[name]), *data.codes.item_vectors]


def _about(features: Features, words: TextReader | None, data: Prepared, text: str | None) -> Features:
    queries = words.read_once(text) if words is not None and text is not None else Texts()
    other = copy(features)
    other.data, other.query_texts, other.query_images, other.searches = data, queries, None, None
    return other


def prune(
    items: np.ndarray, scores: np.ndarray, logits: np.ndarray, chances: np.ndarray, *, top: int | None,
    least: np.ndarray | float = 0.0, others: np.ndarray | None = None,
) -> Lists:  # fmt: skip
    """Order candidates by the pruner, equal ones as the retriever has them, and keep what `decide` keeps.

    Args:
        items: [B, K] candidates, best first, padded with -1 at the end.
        scores: [B, K] of the retriever.
        logits: [B, K] of the pruner, -inf at padding.
        chances: [B, K] calibrated probabilities, negative at padding.
        top, least: what is kept.
        others: [B, K, G] probabilities of other targets.
    """
    order = np.argsort(-logits, axis=1, kind="stable")
    kept = decide(
        np.take_along_axis(chances, order, 1), top=top, least=least
    )  # the first few: a chance rises with the logit
    width = max(int(kept.sum(1).max(initial=0)), 1)

    def arranged(values: np.ndarray, missing: float) -> np.ndarray:
        return np.where(kept, np.take_along_axis(values, order, 1), missing)[:, :width].astype(values.dtype)

    chance, more = arranged(chances, 0).astype(np.float32), None
    if others is not None and others.shape[-1]:
        more = np.stack([arranged(one, 0) for one in np.moveaxis(others, -1, 0)], axis=-1)
    return Lists(
        items=arranged(items, -1), scores=chance, retriever_scores=arranged(scores, 0), pruner_scores=chance,
        candidates=items, candidate_scores=scores, others=more, ordered=np.take_along_axis(items, order, 1),
    )  # fmt: skip
