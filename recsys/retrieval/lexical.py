"""Words in common: BM25 over the items' texts, with bm25s; the one file that imports it."""

import re
import unicodedata
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import bm25s
import numpy as np
from bm25s.stopwords import STOPWORDS_EN

from recsys.errors import InputError

_SPACELESS = (  # scripts that put no space between words: Han, kana, Hangul, Thai, Lao, Myanmar, Khmer
    "\u0e00-\u0eff\u1000-\u109f\u1100-\u11ff\u1780-\u17d3\u3005-\u3007\u3041-\u309f\u30a1-\u30ff\u3130-\u318f"
    "\u31f0-\u31ff\u3400-\u4dbf\u4e00-\u9fff\uac00-\ud7a3\uf900-\ufaff\U00020000-\U000323af"
)
_MARKS = "".join(chr(code) for code in range(0x370, 0x10000) if unicodedata.category(chr(code)).startswith("M"))
_BLOCK = 1 << 22  # scores held at one time
_ACCENTS = re.compile("[\u0300-\u036f]")
_RUNS = re.compile(f"([{_SPACELESS}]+)|((?:(?![{_SPACELESS}])[\\w{_MARKS}])+)")  # \w has no vowel signs


@dataclass(frozen=True, kw_only=True)
class LexicalConfig:
    """BM25 as a second source of candidates for queries, and how its list is fused with the retriever's."""

    k1: float = 1.2
    """How fast a word that stands again in an item stops to count more."""
    b: float = 0.75
    """How much a long text is held against an item, 0 to 1."""
    stop_words: Literal["english"] | None = None
    """Words that count nowhere: English ones, or none; frequent words weigh little anyway."""
    candidates: int = 100
    """Items that BM25 proposes for a query, beside those of the retriever."""
    fuse: Literal["rank", "weight"] = "weight"
    """weight: z(retriever) + weight * z(BM25), each standardised over the candidates of both lists. rank: reciprocal
    rank fusion."""
    weight: float | None = 0.75
    """Of BM25 (fuse weight); 1: both count alike. null: the best on the queries that the retriever is not trained on
    (split.second_queries); where there are none, on train queries, which it scores better than any other, so that the
    weight then found is too small."""

    share: float | None = None
    """Share of a list's places that BM25's own proposals take; the retriever's best have the others, and the fused
    scores say the order alone: for a retriever that finds nearly all that BM25 does. null: they say who is in it, too.
    """

    def __post_init__(self) -> None:
        if self.share is not None and not 0 <= self.share <= 1:
            raise InputError(f"lexical.share is {self.share}; expected a share from 0 to 1, or null.")
        if self.k1 < 0 or not 0 <= self.b <= 1:
            raise InputError(f"lexical: k1 is {self.k1} and b {self.b}; expected k1 of at least 0 and b from 0 to 1.")
        if self.candidates < 1:
            raise InputError(f"lexical.candidates is {self.candidates}; expected at least 1.")
        if self.weight is not None and not 0 <= self.weight < float("inf"):
            raise InputError(f"lexical.weight is {self.weight}; expected a number of at least 0, or null to learn it.")


def words_of(text: str) -> list[str]:
    """The words of a text in any language, in their order.

    Compatible forms are one (NFKC), case and Latin, Greek and Cyrillic accents do not count, other scripts keep their
    marks. Where a script puts no space between words (`_SPACELESS`), a run of it gives each of its characters and each
    pair of neighbours.
    """
    decomposed = unicodedata.normalize("NFKD", unicodedata.normalize("NFKC", text).casefold())
    plain = unicodedata.normalize("NFC", _ACCENTS.sub("", decomposed))
    found: list[str] = []
    for run, word in _RUNS.findall(plain):
        found += [word] if word else [*run, *(run[at : at + 2] for at in range(len(run) - 1))]
    return found


class LexicalIndex:
    """BM25 over N texts; row n is item n.

    score(query, item) = sum over the query's distinct words t of
    ln(1 + (N - n_t + 0.5) / (n_t + 0.5)) * f / (f + k1 * (1 - b + b * L / mean L)), with f how often t stands in the
    item, n_t the items that hold t, L the words of the item: Robertson and Zaragoza 2009 with k3 = 0 (in a query of
    whole sentences the word that stands twice is mostly "the") and the idf of Lucene, which is never negative (Kamphuis
    et al. 2020; the default of bm25s). An item that shares a word with the query scores above 0, all others 0.
    """

    def __init__(self, texts: Sequence[str], config: LexicalConfig) -> None:
        self.size, self.stop = len(texts), frozenset(STOPWORDS_EN if config.stop_words else ())
        self.vocabulary: dict[str, int] = {}
        rows = [[self.vocabulary.setdefault(word, len(self.vocabulary)) for word in self.words(one)] for one in texts]
        self.bm25 = bm25s.BM25(k1=config.k1, b=config.b, method="lucene")
        if self.vocabulary:
            self.bm25.index((rows, self.vocabulary), create_empty_token=False, show_progress=False)

    def __len__(self) -> int:
        return self.size

    def words(self, text: str) -> list[str]:
        """The words of a text that count."""
        return [word for word in words_of(text) if word not in self.stop]

    def scores(self, texts: Sequence[str]) -> np.ndarray:
        """[B, N] float32 scores of all items; for queries of one block (`blocks`), so that memory stays flat."""
        out = np.zeros((len(texts), self.size), dtype=np.float32)
        for row, text in zip(out, texts, strict=True):
            row[:] = self._scores(text)
        return out

    def search(self, texts: Sequence[str], k: int) -> tuple[np.ndarray, np.ndarray]:
        """The k best items of each query, among those that share a word with it.

        Returns:
            items [B, k] int64, -1 where fewer are left, and scores [B, k] float32, there -inf; best first, equal scores
            to the smaller item.
        """
        items = np.full((len(texts), k), -1, dtype=np.int64)
        scores = np.full((len(texts), k), -np.inf, dtype=np.float32)
        for rows in self.blocks(len(texts)):
            items[rows], scores[rows] = best_scored(self.scores(texts[rows]), k)
        return items, scores

    def blocks(self, count: int) -> Iterator[slice]:
        """`count` queries, cut so that the scores of all items fit into some 16 MiB at a time."""
        width = min(max(_BLOCK // max(self.size, 1), 1), 256)
        return (slice(start, min(start + width, count)) for start in range(0, count, width))

    def _scores(self, text: str) -> np.ndarray:
        """[N] float32."""
        known = [self.vocabulary[word] for word in dict.fromkeys(self.words(text)) if word in self.vocabulary]
        return self.bm25.get_scores_from_ids(known) if known else np.zeros(self.size, dtype=np.float32)


def best_scored(scores: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    """The k largest scores above 0 of each row of [B, N]: items and scores as `LexicalIndex.search` returns them."""
    items = np.full((len(scores), k), -1, dtype=np.int64)
    values = np.full((len(scores), k), -np.inf, dtype=np.float32)
    for row, own in enumerate(scores):
        found = np.flatnonzero(own > 0)
        if len(found) > k:
            least = np.partition(own[found], -k)[-k]
            found = found[own[found] >= least]  # all that are equal to the last; which of them stay is decided below
        found = found[np.argsort(-own[found], kind="stable")[:k]]
        items[row, : len(found)], values[row, : len(found)] = found, own[found]
    return items, values
