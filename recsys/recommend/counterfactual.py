"""What a score would be without something: the cascade is asked again, with single pieces of evidence taken away.

A score is the pruner's logit, or without a pruner what the retriever orders by. The candidates of a request stay those
that were proposed; what is taken from the request changes the scores of all of them, and so their mean, their deviation
and the item's rank among them, which a pruner reads. All that is taken from the items of one request is judged in one
row, for a candidate sees the request and itself, and no other candidate.
"""

from collections.abc import Iterator, Sequence
from copy import copy
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor

from recsys.batch import ItemBatch, NoteBatch, PrunerBatch, UserBatch
from recsys.data.features import Features, Local
from recsys.data.pairs import Words as PairWords
from recsys.data.pasts import Past
from recsys.data.requests import Requests, moment_orders, request_pasts
from recsys.errors import InputError
from recsys.recommend.cascade import Cascade
from recsys.recommend.deletions import (
    Asked,
    Gone,
    hides,
    items_without,
    numbers_of,
    past_without,
    reworded,
    users_without,
)
from recsys.recommend.standing import LexicalSource, Said, evidence
from recsys.recommend.words import Words
from recsys.retrieval.candidates import Found, retrieve
from recsys.retrieval.embed import TextReader

_STATES = 1 << 13  # candidates that are judged at one time, padding included
_PAIRS = 1 << 9  # the same, where each is a pair of texts
_ROWS = 128  # requests at one time, at most

Side = tuple[int, Gone]
"""A request or an item, and what is gone of it."""


@dataclass(frozen=True, kw_only=True)
class _Block:
    """Some requests, each without something, and the items that are asked about."""

    rows: list[Side]
    items: list[Side]  # [S] distinct
    words: list[frozenset[str] | None]  # [S] that are left in a changed text, for a lexical source; None: all
    place: np.ndarray  # [B, K] into `items`, -1 padded
    asked: np.ndarray  # [B, K] rows of the items table, -1 padded
    users: Tensor  # [B, D] the retriever's vectors
    vectors: Tensor  # [S, D or more]

    @property
    def requests(self) -> np.ndarray:
        """[B] numbers of the requests."""
        return np.array([request for request, _ in self.rows])

    def has_word(self, row: int, word: str) -> np.ndarray:
        """[K] whether each item of a row still has a word that it had."""
        left = (self.words[at] for at in self.place[row])
        return np.array([words is None or word in words for words in left])


class Counterfactuals:
    """Scores of candidates of some requests without this or that. Requests are told by their number among these."""

    def __init__(self, cascade: Cascade, requests: Requests, words: Words, found: Found | None = None) -> None:
        """`words` cuts texts into what can be taken away; `found` are the candidates, where they are known already."""
        if cascade.hybrid is not None and cascade.hybrid.config.fuse == "rank":
            raise InputError("Ranks that are fused have no scores to be explained; set lexical.fuse: weight.")
        retriever = cascade.retriever
        self.cascade, self.requests, self.words = cascade, requests, words
        self.found = found or retrieve(
            retriever, cascade.index, cascade.items, requests, cascade.top_k, cascade.hybrid
        )  # fmt: skip
        self.pasts = request_pasts(retriever.features, requests)
        self.before = moment_orders(cascade.data, requests)
        self.lexical = LexicalSource(cascade, requests)
        self._texts: dict[tuple[int, str], np.ndarray] = {}  # by reader
        self._items: dict[Side, Tensor] = {}

    @torch.no_grad()
    def scores(self, asked: Sequence[Asked]) -> np.ndarray:
        """[n] float32 scores, each without what is gone."""
        out, rows = np.empty(len(asked), dtype=np.float32), dict[Side, dict[Side, list[int]]]()
        for number, one in enumerate(asked):
            request, item = one.sides()
            rows.setdefault(request, {}).setdefault(item, []).append(number)
        for some in self._blocks(rows):
            block = self._block(some, [list(rows[one]) for one in some])
            for request, found in zip(some, self._score(block), strict=True):
                for numbers, score in zip(rows[request].values(), found, strict=False):  # behind them is padding
                    out[numbers] = score
        return out

    def _blocks(self, rows: dict[Side, dict[Side, list[int]]]) -> Iterator[list[Side]]:
        """The requests, those with as many items together, so that little is padded."""
        most = _PAIRS if self.cascade.pruner is not None and self.cascade.pruner.pairs is not None else _STATES
        order = sorted(rows, key=lambda one: (-len(rows[one]), one[0]))
        start = 0
        while start < len(order):
            count = min(max(most // len(rows[order[start]]), 1), _ROWS)
            yield order[start : start + count]
            start += count

    def _block(self, rows: list[Side], items: list[list[Side]]) -> _Block:
        distinct = list(dict.fromkeys(item for some in items for item in some))
        number = {item: place for place, item in enumerate(distinct)}
        place = np.full((len(rows), max(map(len, items))), -1)
        for row, some in enumerate(items):
            place[row, : len(some)] = [number[item] for item in some]
        asked = np.where(place >= 0, np.array([item for item, _ in distinct])[place], -1)
        words = [self.lexical.words(self.item_text(*one)) if one[1] else None for one in distinct]
        return _Block(
            rows=rows, items=distinct, words=words, place=place, asked=asked, users=self._user_vectors(rows),
            vectors=self._vectors(distinct),
        )  # fmt: skip

    # ---- the retriever ----

    def user_batch(self, rows: list[Side]) -> tuple[UserBatch, Tensor]:
        """The requests as the retriever reads them, and the state of each that answers."""
        retriever = self.cascade.retriever
        pasts = [past_without(self.pasts[request], gone) for request, gone in rows]
        local = Local(None, len(self.cascade.data.catalogue))
        batch = self._users(retriever.features, retriever.words, rows, pasts, local)
        return batch, torch.tensor([len(past.item) for past in pasts])

    def _user_vectors(self, rows: list[Side]) -> Tensor:
        batch, step = self.user_batch(rows)
        states = self.cascade.retriever.model.encode_users(batch, self.catalogue)
        return states[torch.arange(len(rows)), step]

    @cached_property
    def catalogue(self) -> Tensor:
        """[N, D or more] of all items, as the retriever's history encoder reads them."""
        return torch.from_numpy(np.array(self.cascade.items, dtype=np.float32))  # those mapped from disk are read only

    def _vectors(self, items: list[Side]) -> Tensor:
        """[S, D or more] of the items, what `encode_items` gives; each is made once."""
        self._items.update({one: self.catalogue[one[0]] for one in items if not one[1]})
        missing = [one for one in items if one not in self._items]
        if missing:
            retriever = self.cascade.retriever
            rows = np.array([row for row, _ in missing])
            batch = self._item_batch(retriever.features, retriever.words, rows, [gone for _, gone in missing])
            self._items.update(zip(missing, retriever.model.encode_items(batch), strict=True))
        return torch.stack([self._items[one] for one in items])

    # ---- how an item stands ----

    def _score(self, block: _Block) -> np.ndarray:
        """[B, K] scores; padding means nothing."""
        requests, hybrid, pruner = block.requests, self.cascade.hybrid, self.cascade.pruner
        own, listed = self._said(block, block.asked), self._said(block, self.found.items[requests])
        scores, all_scores = own.dense, listed.dense
        if hybrid is not None:
            pool, asks = self._said(block, self.lexical.pool[requests]), self.requests.queries[requests, None] >= 0
            scores, all_scores = (
                np.where(asks, one.fused(pool, hybrid.config.weight or 0.0), one.dense) for one in (own, listed)
            )
        if pruner is None:
            return scores.astype(np.float32)
        lexical = (own.lexical, listed.lexical) if pruner.model.lexical else ()
        batch = self._batch(block, evidence(scores, own.items, all_scores, listed.items, *lexical))
        return pruner.model(batch, pruner.states).numpy()

    def _said(self, block: _Block, items: np.ndarray) -> Said:
        """Of whole lists, or of the items that are asked about, with what is gone of these."""
        changed = items is block.asked
        known = torch.from_numpy(np.maximum(block.place if changed else items, 0))
        vectors = block.vectors if changed else self.catalogue
        dense = self.cascade.retriever.model.score(block.users, vectors[known]).numpy()
        return Said(items=items, dense=dense, lexical=self._lexical(block, items))

    def _lexical(self, block: _Block, items: np.ndarray) -> np.ndarray:
        """[B, C] BM25: the sum over the query's words that are left on both sides; that an item's text is shorter by
        what is gone of it is not counted.
        """
        found = np.zeros(items.shape)
        if self.cascade.hybrid is None:
            return found
        for row, (request, gone) in enumerate(block.rows):
            if self.requests.queries[request] >= 0:
                told = self.lexical.words(self.query_text(request, gone))
                for word, scores in self.lexical.scores(request, np.maximum(items[row], 0), told).items():
                    found[row] += scores * (block.has_word(row, word) if items is block.asked else 1.0)
        return found

    # ---- the pruner ----

    def _batch(self, block: _Block, told: np.ndarray) -> PrunerBatch:
        pruner, data = self.cascade.pruner, self.cascade.data
        assert pruner is not None
        pasts = [self._pruner_past(request, gone) for request, gone in block.rows]
        had = np.unique(np.concatenate([past.item for past in pasts]))
        had = had[had >= 0]
        local = Local(had, len(data.catalogue))
        local.size = len(had) + len(block.items)  # searches stand behind both
        rows = np.concatenate([had, [row for row, _ in block.items]]).astype(np.int64)
        gone = [*[frozenset[Any]()] * len(had), *[gone for _, gone in block.items]]
        before = self.before[block.requests]
        vectors = self.cascade.retriever.model.vectors
        return PrunerBatch(
            users=self._users(pruner.features, pruner.words, block.rows, pasts, local),
            items=self._item_batch(pruner.features, pruner.words, rows, gone),
            item_vector=torch.cat([vectors(self.catalogue)[had], vectors(block.vectors)]).float(),
            user_vector=block.users.float(),
            candidate=torch.from_numpy(np.where(block.place >= 0, block.place + len(had), -1)),
            retriever_score=torch.zeros(block.place.shape), label=torch.zeros(block.place.shape),
            reviews=self._notes("reviews", block, before), ads=self._notes("ads", block, before),
            neighbours=pruner.features.neighbours(pasts, self.requests.users[block.requests], block.asked),
            evidence=torch.from_numpy(told), **self._pair_texts(block, pasts),
        )  # fmt: skip

    def _pruner_past(self, request: int, gone: Gone) -> Past:
        assert self.cascade.pruner is not None
        return past_without(self._pruner_pasts[request], gone).last(self.cascade.pruner.model.config.history)

    @cached_property
    def _pruner_pasts(self) -> list[Past]:
        """As long as the retriever's: what is older takes the place of what is gone."""
        assert self.cascade.pruner is not None
        return request_pasts(self.cascade.pruner.features, self.requests)

    def _notes(self, name: str, block: _Block, before: np.ndarray) -> NoteBatch | None:
        assert self.cascade.pruner is not None
        notes = self.cascade.pruner.features.note_batch(name, block.asked, before)
        if notes is None:
            return None
        gone = np.array([hides(one, name) for _, one in block.items])
        return replace(notes, row=notes.row.masked_fill(torch.from_numpy(gone[block.place])[..., None], -1))

    def _pair_texts(self, block: _Block, pasts: list[Past]) -> dict[str, Any]:
        """The words of both sides, for an encoder of pairs."""
        assert self.cascade.pruner is not None
        pairs = self.cascade.pruner.pairs
        if pairs is None:
            return {}
        other, requests = copy(pairs), block.requests
        other.items = PairWords.encode([self.item_text(*one) for one in block.items], pairs.tokenizer, pairs.max_tokens)
        queries = [self.query_text(*one) if self.requests.queries[one[0]] >= 0 else "" for one in block.rows]
        other.queries, other.silent = PairWords.encode(queries, pairs.tokenizer, pairs.max_tokens), None
        users = self.requests.users[requests]
        if pairs.profile.shape[1]:
            other.profile = self._profiles(block.rows)
            users = np.where(users >= 0, np.arange(len(users)), -1)
        asks = np.where(self.requests.queries[requests] >= 0, np.arange(len(queries)), -1)
        return other.fields(pasts, users, asks, block.place)[0]

    def _profiles(self, rows: list[Side]) -> np.ndarray:
        """[B, P, V] codes of the profiles; here, what is gone is not said at all."""
        users = self.requests.users[[request for request, _ in rows]]
        codes = self.cascade.data.profile[np.maximum(users, 0)].copy()
        for row, (_, gone) in enumerate(rows):
            codes[row, [at for at in numbers_of(gone, "profile") if at < codes.shape[1]]] = 0
            if hides(gone, "profile"):
                codes[row] = 0
        return codes

    # ---- batches of both ----

    def _users(
        self, features: Features, reader: TextReader | None, rows: list[Side], pasts: list[Past], local: Local
    ) -> UserBatch:
        requests, gone = np.array([request for request, _ in rows]), [gone for _, gone in rows]
        batch = features.users(pasts, self.requests.users[requests], self.requests.queries[requests], local)
        sizes = [len(values) for values in self.cascade.data.codes.user_category.values()]
        batch = users_without(batch, gone, [len(past.item) for past in pasts], sizes)
        changed = [row for row, one in enumerate(gone) if numbers_of(one, "query")]
        if reader is None or not changed or batch.query_vector is None or batch.query is None:
            return batch
        texts = [self.query_text(*rows[row]) for row in changed]
        return reworded(batch, changed, self._read(reader, texts), texts)

    def _item_batch(
        self, features: Features, reader: TextReader | None, rows: np.ndarray, gone: Sequence[Gone]
    ) -> ItemBatch:
        codes = self.cascade.data.codes
        sizes = [len(values) for values in codes.item_category.values()]
        batch = items_without(features.items(rows), gone, sizes, list(codes.item_vectors))
        hidden = self.cascade.retriever.model.items.no_text is None  # words are all that there is
        changed = [
            row for row, one in enumerate(gone) if numbers_of(one, "word") or (hidden and hides(one, "text"))
        ]  # fmt: skip
        if reader is None or not changed or batch.text_vector is None:
            return batch
        vectors = batch.text_vector.clone()
        vectors[changed] = self._read(reader, [self.item_text(int(rows[row]), gone[row]) for row in changed])
        return replace(batch, text_vector=vectors)

    def query_text(self, request: int, gone: Gone) -> str:
        """The query of a request without some words."""
        queries = self.cascade.data.queries
        assert queries is not None
        return self.words.without(queries.texts[self.requests.queries[request]], numbers_of(gone, "query"))

    def item_text(self, item: int, gone: Gone) -> str:
        """The text of an item without some words."""
        if hides(gone, "text"):
            return ""
        return self.words.without(self.cascade.data.catalogue.texts[item], numbers_of(gone, "word"))

    def _read(self, reader: TextReader, texts: list[str]) -> Tensor:
        """[n, W] vectors of texts; each is made once."""
        missing = [text for text in dict.fromkeys(texts) if (id(reader), text) not in self._texts]
        if missing:
            found = reader.read_all(missing)
            self._texts.update({(id(reader), text): one for text, one in zip(missing, found, strict=True)})
        return torch.from_numpy(np.stack([self._texts[id(reader), text] for text in texts]))
