"""(user, candidate) pairs as token ids: the user's side in words, then the candidate's, as a cross-encoder reads them.

[CLS] query [SEP] candidate [SEP], or [CLS] profile, latest titles (newest first) [SEP] candidate [SEP]. Everything was
tokenised once; a batch is a few gathers from the token caches, without any Python for a token.
"""

from collections.abc import Collection
from copy import copy
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from transformers import PreTrainedTokenizerFast

from recsys.batch import ApartBatch, TextBatch
from recsys.data.datasets import Past
from recsys.data.prepare import Prepared
from recsys.data.query_images import pictures_alone
from recsys.data.text import join_columns, plain_backend
from recsys.data.tokens import TokenCache, token_cache
from recsys.errors import InputError

SHORTEST = 16
"""Fewest max_tokens of a pair: special tokens and a few words of each side."""


@dataclass(frozen=True, kw_only=True)
class PairFrame:
    """The special tokens that a tokenizer puts around a pair, and around a single text."""

    before: np.ndarray  # tokens before the first text
    between: np.ndarray
    after: np.ndarray
    typed: bool  # whether the second text has another token type
    single: tuple[int, int]  # number of special tokens before and after a single text

    @classmethod
    def of(cls, tokenizer: PreTrainedTokenizerFast) -> "PairFrame":
        """Read off from how the tokenizer frames two texts of a letter each."""
        backend = plain_backend(tokenizer)
        pair, single = backend.encode("a", "a"), backend.encode("a")
        ids, texts = np.array(pair.ids), np.array([-1 if one is None else one for one in pair.sequence_ids])
        first, second = np.flatnonzero(texts == 0), np.flatnonzero(texts == 1)
        own = np.flatnonzero(np.array([one is not None for one in single.sequence_ids]))
        return cls(
            before=ids[: first[0]], between=ids[first[-1] + 1 : second[0]], after=ids[second[-1] + 1 :],
            typed=pair.type_ids[second[0]] == 1, single=(int(own[0]), len(single.ids) - 1 - int(own[-1])),
        )  # fmt: skip


@dataclass(frozen=True)
class Words:
    """Texts as token ids without special tokens, one after the other: text i is ids[starts[i]:][:lengths[i]]."""

    ids: np.ndarray  # [tokens] int32
    starts: np.ndarray  # [n] int64
    lengths: np.ndarray  # [n] int64

    @classmethod
    def cached(cls, cache: TokenCache, frame: PairFrame) -> "Words":
        """The inside of the texts of a token cache."""
        before, after = frame.single
        return cls(cache.ids, cache.offsets[:-1] + before, np.maximum(cache.lengths - before - after, 0))

    @classmethod
    def encode(cls, texts: list[str], tokenizer: PreTrainedTokenizerFast, max_tokens: int) -> "Words":
        """A few texts that are worth no cache."""
        found = plain_backend(tokenizer, max_tokens).encode_batch_fast(texts, add_special_tokens=False)
        lengths = np.array([len(one.ids) for one in found], dtype=np.int64)
        ids = np.array([token for one in found for token in one.ids], dtype=np.int32)
        return cls(ids, np.cumsum(lengths) - lengths, lengths)

    def emptied(self) -> "Words":
        """As many texts, without a word."""
        return Words(self.ids, self.starts, np.zeros_like(self.lengths))

    def gather(self, rows: np.ndarray, lengths: np.ndarray | None = None) -> np.ndarray:
        """[sum of lengths] ids of these texts, one after the other, each cut to its length."""
        sizes = self.lengths[rows] if lengths is None else lengths
        shift = self.starts[rows] - (np.cumsum(sizes) - sizes)
        return np.asarray(self.ids[np.repeat(shift, sizes) + np.arange(int(sizes.sum()))], dtype=np.int64)


class PairTexts:
    """Requests and their candidates as pairs. The user's side is at most half of a pair; the candidate has the rest."""

    def __init__(
        self, data: Prepared, tokenizer: PreTrainedTokenizerFast, *, title: list[str], max_tokens: int, history: int,
        folder: Path, hidden: Collection[str] = (), apart: Literal["late", "split"] | None = None,
    ) -> None:  # fmt: skip
        """`title` names the columns that stand for an item in a history; `folder` is that of the caches; of `hidden`
        sources (text, profile) nothing is said. `apart`: each side has `max_tokens` to itself, and is framed as a
        text (late), or as its half of a pair (split).
        """
        if max_tokens < SHORTEST:
            raise InputError(f"model.text.max_tokens is {max_tokens}; a pair of texts needs at least {SHORTEST}.")
        self.frame, self.max_tokens, self.history = PairFrame.of(tokenizer), max_tokens, history
        self.apart = apart
        self.tokenizer, self.pad = tokenizer, tokenizer.pad_token_id or 0

        def words(texts: list[str]) -> Words:
            return Words.cached(token_cache(texts, tokenizer, max_tokens, folder), self.frame)

        self.items = words(data.catalogue.texts)
        self.titles = words([f"{text};" for text in join_columns(data.tables.items, title)])
        values = data.codes.user_category
        facts = [f"{name}: {value}," for name, known in values.items() for value in known]
        self.facts = Words.encode(facts, tokenizer, max_tokens)
        self.first_fact = np.cumsum([0, *map(len, values.values())])[:-1]  # [P] row of each column's first value
        if "text" in hidden:
            self.items, self.titles = self.items.emptied(), self.titles.emptied()
        self.knows_profiles = "profile" not in hidden
        self.profile = data.profile
        self.queries = words(data.queries.texts) if data.queries is not None else None
        self.silent = pictures_alone(data.queries)  # of these nothing can be read

    def about(self, data: Prepared) -> "PairTexts":
        """The same catalogue, asked about other users or a few other queries."""
        other = copy(self)
        other.profile = data.profile
        texts = data.queries.texts if data.queries is not None else []
        other.queries = Words.encode(texts, self.tokenizer, self.max_tokens)
        other.silent = pictures_alone(data.queries)
        return other

    def fields(
        self, pasts: list[Past], users: np.ndarray, queries: np.ndarray, candidates: np.ndarray
    ) -> tuple[dict[str, Any], int]:
        """The fields of a PrunerBatch that hold the words of B requests, and how many tokens these are.

        The arguments are those of `batch`. Raises InputError for a query that is a picture alone.
        """
        if self.silent is not None and self.silent[queries[queries >= 0]].any():
            found = f"{int(self.silent.sum()):,} of {len(self.silent):,} queries are pictures alone"
            remedy = "give them words, or take a pruner that reads no pairs (model.text.mode: frozen), or none"
            raise InputError(f"This pruner reads words, and {found}; {remedy}.")
        if self.apart is None:
            pairs = self.batch(pasts, users, queries, candidates)
            return {"pairs": pairs}, int(pairs.mask.sum())
        distinct, row = np.unique(np.maximum(candidates, 0), return_inverse=True)
        asked = [self._framed(self._user_words(*request)) for request in zip(pasts, users, queries, strict=True)]
        words, opened = [self.items.gather(item) for item in distinct.reshape(-1, 1)], self.apart == "late"
        told = [self._framed(one, opened=opened) for one in words]
        apart = ApartBatch(
            request=self._padded(asked), candidate=self._padded(told),
            row=torch.from_numpy(np.where(candidates >= 0, row.reshape(candidates.shape), -1)),
        )  # fmt: skip
        return {"apart": apart}, int(apart.request.mask.sum()) + int(apart.candidate.mask.sum())

    def _framed(self, words: np.ndarray, *, opened: bool = True) -> np.ndarray:
        """A text with its special tokens; not `opened`: as the second one of a pair, which has none in front."""
        before, after = self.frame.before[: None if opened else 0], self.frame.after
        return np.concatenate([before, words[: self.max_tokens - len(before) - len(after)], after])

    def _padded(self, texts: list[np.ndarray]) -> TextBatch:
        whole = [one if len(one) else np.array([self.pad]) for one in texts]  # a tokenizer may frame nothing by nothing
        lengths = np.array([len(one) for one in whole])
        mask = np.arange(lengths.max()) < lengths[:, None]
        ids = np.full(mask.shape, self.pad, dtype=np.int64)
        ids[mask] = np.concatenate(whole)
        return TextBatch(ids=torch.from_numpy(ids), mask=torch.from_numpy(mask))

    def batch(self, pasts: list[Past], users: np.ndarray, queries: np.ndarray, candidates: np.ndarray) -> TextBatch:
        """All pairs of B requests.

        Args:
            pasts: B histories.
            users: [B] rows of the users table, -1 for nobody known.
            queries: [B] rows of the queries table, -1 for none.
            candidates: [B, K] rows of the items table; at padding (-1) a pair has no second text.

        Returns:
            [B * K, T] ids, mask and, where the tokenizer has them, token types.
        """
        heads = [self._head(*request) for request in zip(pasts, users, queries, strict=True)]
        ids, mask, second = self._join(heads, candidates)
        flat = (ids.shape[0] * ids.shape[1], ids.shape[2])
        part = torch.from_numpy(second.reshape(flat).astype(np.int64)) if self.frame.typed else None
        return TextBatch(ids=torch.from_numpy(ids.reshape(flat)), mask=torch.from_numpy(mask.reshape(flat)), part=part)

    def _head(self, past: Past, user: int, query: int) -> np.ndarray:
        """Everything before the candidate's words."""
        frame = self.frame
        room = self.max_tokens // 2 - len(frame.before) - len(frame.between)
        return np.concatenate([frame.before, self._user_words(past, user, query)[: max(room, 0)], frame.between])

    def _user_words(self, past: Past, user: int, query: int) -> np.ndarray:
        """The query; or what is known of the user, then what was had, newest first, so that the oldest is cut."""
        if query >= 0 and self.queries is not None:
            return self.queries.gather(np.array([query]))
        user = user if self.knows_profiles else -1
        known = self.profile[user] if user >= 0 else self.profile[:0].reshape(0, 0)  # [P, V] codes
        facts = (self.first_fact[:, None] + known - 1)[known > 0] if known.size else np.zeros(0, dtype=np.int64)
        titles = past.item[past.item >= 0][::-1][: self.history]
        return np.concatenate([self.facts.gather(facts), self.titles.gather(titles)])

    def _join(self, heads: list[np.ndarray], candidates: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """[B, K, T] ids, which are real, and which belong to the second text."""
        after = self.frame.after
        start = np.array([len(head) for head in heads], dtype=np.int64).reshape(-1, 1)
        rows = np.maximum(candidates, 0)
        sizes = np.minimum(self.items.lengths[rows], np.maximum(self.max_tokens - start - len(after), 0))
        sizes = np.where(candidates >= 0, sizes, 0)
        end = start + sizes  # [B, K]
        steps = np.arange(int(end.max(initial=0)) + len(after))
        ids = np.full((*candidates.shape, len(steps)), self.pad, dtype=np.int64)
        for number, head in enumerate(heads):
            ids[number, :, : len(head)] = head
        inside = (steps >= start[..., None]) & (steps < end[..., None])
        ids[inside] = self.items.gather(rows.ravel(), sizes.ravel())
        for place, token in enumerate(after):
            np.put_along_axis(ids, end[..., None] + place, token, axis=2)
        mask = steps < end[..., None] + len(after)
        return ids, mask, mask & (steps >= start[..., None])
