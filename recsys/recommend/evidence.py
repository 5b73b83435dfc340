"""What carried the score of each recommendation: pieces of evidence, each with its worth.

The worth of a piece is the score with it minus the score without it (leave-one-out). Of long texts only those words are
left out that integrated gradients propose. Whole sources, which can stand in for one another, share what they are worth
(`shares.py`).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import polars as pl
import torch

from recsys.data.requests import Requests
from recsys.data.text import join_columns
from recsys.recommend.cascade import Cascade, read_sources
from recsys.recommend.counterfactual import Counterfactuals
from recsys.recommend.deletions import Asked, Kind, Unit, entry_keys
from recsys.recommend.gradients import item_words
from recsys.recommend.shares import shared_worths
from recsys.recommend.words import Words, is_chinese
from recsys.retrieval.candidates import Found

LEAST = 1e-4
"""Worth from which on a piece counts as evidence: below it is rounding."""


@dataclass(frozen=True, kw_only=True)
class Evidence:
    """One piece that carried a score, or worked against it."""

    kind: Kind
    name: str
    """Id of an item of the history, "search" for a search in it, the word, the column, or the source."""
    value: str
    """What it says: title or query, the word, the column's value; empty for a source."""
    worth: float
    """Score with it minus score without it; of a source, its share."""
    event: str = ""
    """Of an item of the history: what was done with it last, where that is known; "target" where it is only known that
    it was had."""


@dataclass(frozen=True, kw_only=True)
class Explained:
    """One recommendation and its evidence, the best first."""

    request: int
    """Number among the requests."""
    item: int
    """Row of the items table."""
    score: float
    evidence: list[Evidence]
    words: list[tuple[str, float]]
    """The words of the item's text and their integrated gradients; empty where words are not explained."""


@dataclass(frozen=True, kw_only=True)
class Catalogue:
    """The texts of a data set that evidence is told in."""

    titles: list[str]
    """Of each item."""
    fields: dict[str, list[str]]
    """Of each category and number column of the items, the cells as text."""
    profile: dict[str, list[str]]
    """Likewise of the users."""
    words: Words

    @cached_property
    def rows(self) -> list[dict[str, str]]:
        """Of each item the columns that may be named, with their values: none that the users table has, too."""
        names = [name for name in self.fields if name not in self.profile]
        cells = zip(*(self.fields[name] for name in names), strict=True) if names else [()] * len(self.titles)
        return [{name: cell for name, cell in zip(names, row, strict=True) if cell} for row in cells]

    @cached_property
    def chinese(self) -> list[bool]:
        """Of each item, whether its title is Chinese."""
        return [is_chinese(title) for title in self.titles]

    @classmethod
    def of(cls, cascade: Cascade) -> "Catalogue":
        """From the tables and the roles of their columns."""
        items, users, roles = cascade.data.tables.items, cascade.data.tables.users, cascade.config
        fields = [*roles.items.category, *roles.items.number]
        profile = [name for name in [*roles.users.category, *roles.users.number] if name in users.columns]
        titles = join_columns(items, roles.items.text[:1] or [roles.items.id])
        known = known_words(items, [roles.items.id, *roles.items.text])
        return cls(
            titles=[title or str(row) for title, row in zip(titles, items[roles.items.id], strict=True)],
            fields={name: join_columns(items, [name]) for name in fields},
            profile={name: join_columns(users, [name]) for name in profile}, words=Words(known),
        )  # fmt: skip


def known_words(items: pl.DataFrame, without: Sequence[str]) -> set[str]:
    """The values of the columns of strings, or of lists of them, that have no role as id or text."""
    kinds = (pl.String, pl.List(pl.String))
    columns = [items[name].explode() if items[name].dtype == pl.List else items[name]
               for name in items.columns if name not in without and items[name].dtype in kinds]  # fmt: skip
    return {value for column in columns for value in column.drop_nulls().unique()}


class Explainer:
    """Finds the evidence of lists."""

    def __init__(self, cascade: Cascade, *, history: int, words: int) -> None:
        """`history`: latest entries of a history that are left out; `words`: words of a text that are, at most."""
        self.cascade, self.history, self.words = cascade, history, words
        self.catalogue = Catalogue.of(cascade)
        self.sources = [Unit.source(name) for name in read_sources(cascade)]

    def open(self, requests: Requests, found: Found | None = None) -> Counterfactuals:
        """Scores of these requests without this or that."""
        return Counterfactuals(self.cascade, requests, self.catalogue.words, found)

    def explain(self, without: Counterfactuals, pairs: Sequence[tuple[int, int]]) -> list[Explained]:
        """The evidence of (request, item) pairs."""
        parts, base = self.gradients(without, pairs), without.scores([Asked(*pair) for pair in pairs])
        pieces = [[unit for unit in own if unit.kind != "source"] for own in self.units(without, pairs, parts)]
        worths = self.worths(without, pairs, pieces, base)
        shares = shared_worths(without, pairs, [[frozenset({source}) for source in self.sources]] * len(pairs))
        return [
            self._explained(without, pair, float(score), {**worth, **dict(zip(self.sources, share, strict=True))}, part)
            for pair, score, worth, share, part in zip(pairs, base, worths, shares, parts, strict=True)
        ]

    def units(
        self, without: Counterfactuals, pairs: Sequence[tuple[int, int]], parts: Sequence[np.ndarray]
    ) -> list[list[Unit]]:
        """What can be taken from each pair; `parts` are the gradients of the item's words."""
        shared = {request: self.request_units(without, request) for request, _ in pairs}
        asked = zip(pairs, parts, strict=True)
        return [[*shared[request], *self.item_units(item, part)] for (request, item), part in asked]

    def worths(
        self, without: Counterfactuals, pairs: Sequence[tuple[int, int]], units: Sequence[list[Unit]], base: np.ndarray
    ) -> list[dict[Unit, float]]:
        """Of each unit of each pair: the score of the pair, `base`, minus the score without the unit."""
        asked = [Asked(*pair, frozenset({unit})) for pair, own in zip(pairs, units, strict=True) for unit in own]
        left = iter(without.scores(asked).tolist())
        return [
            {unit: score - next(left) for unit in own} for score, own in zip(base.tolist(), units, strict=True)
        ]  # fmt: skip

    def request_units(self, without: Counterfactuals, request: int) -> list[Unit]:
        """What can be taken from a request: the latest entries, words of the query, known columns, sources."""
        keys = entry_keys(without.pasts[request])[::-1]
        _, first = np.unique(keys, return_index=True)
        found = [Unit("history", int(key)) for key in keys[np.sort(first)][: self.history]]
        query, user, data = without.requests.queries[request], without.requests.users[request], self.cascade.data
        if query >= 0 and data.queries is not None:
            found += [Unit("query", at) for at in range(len(self.catalogue.words.spans(data.queries.texts[query])))]
        if user >= 0:
            found += [Unit("profile", at) for at in _known(data.profile[user], data.profile_number[user])]
        moment = without.pasts[request].next_context[-1]
        found += [Unit("context", at) for at in np.flatnonzero(moment > 0).tolist()]
        return [*found, *(unit for unit in self.sources if unit.of_request)]

    def item_units(self, item: int, part: np.ndarray) -> list[Unit]:
        """What can be taken from an item: the words that gradients propose, known columns, sources."""
        best = np.argsort(-part, kind="stable")[: self.words]
        data, named = self.cascade.data.catalogue, len(self.cascade.config.items.number)  # popularity is no field
        fields = [Unit("field", at) for at in _known(data.category[item], data.number[item, :named])]
        words = [Unit("word", at) for at in np.sort(best).tolist()]
        return [*words, *fields, *(unit for unit in self.sources if not unit.of_request)]

    def gradients(self, without: Counterfactuals, pairs: Sequence[tuple[int, int]]) -> list[np.ndarray]:
        """Of each word of each item's text; empty where there are no words to be explained."""
        retriever = self.cascade.retriever
        texts = [self.cascade.data.catalogue.texts[item] for _, item in pairs]
        if retriever.words is None or not self.words or not any(texts) or retriever.features.item_texts.vectors is None:
            return [np.zeros(0)] * len(pairs)
        users = torch.from_numpy(without.found.users[[request for request, _ in pairs]])
        items = retriever.features.items(np.array([item for _, item in pairs]))
        return item_words(retriever.model, retriever.words, self.catalogue.words, items, users, texts)

    def _explained(
        self, without: Counterfactuals, pair: tuple[int, int], score: float, worths: dict[Unit, float], part: np.ndarray
    ) -> Explained:
        request, item = pair
        found = [self.tell(without, request, item, unit, worth) for unit, worth in worths.items()]
        words = self.catalogue.words.words(self.cascade.data.catalogue.texts[item]) if len(part) else []
        return Explained(
            request=request, item=item, score=score, words=list(zip(words, part.tolist(), strict=True)),
            evidence=sorted(found, key=lambda one: -one.worth),
        )  # fmt: skip

    def tell(self, without: Counterfactuals, request: int, item: int, unit: Unit, worth: float) -> Evidence:
        """A piece in words."""
        data, catalogue = self.cascade.data, self.catalogue
        match unit.kind:
            case "history" if unit.at >= 0:
                name = str(self.cascade.item_ids[unit.at])
                event = self._event(without, request, unit.at)
                return Evidence(kind="history", name=name, value=catalogue.titles[unit.at], worth=worth, event=event)
            case "history":
                assert data.queries is not None
                return Evidence(kind="history", name="search", value=data.queries.texts[-2 - unit.at], worth=worth)
            case "query" | "word":
                text = without.query_text(request, frozenset()) if unit.kind == "query" else data.catalogue.texts[item]
                word = catalogue.words.words(text)[unit.at]
                return Evidence(kind=unit.kind, name=word, value=word, worth=worth)
            case "field":
                name, cells = list(catalogue.fields.items())[unit.at]
                return Evidence(kind="field", name=name, value=cells[item], worth=worth)
            case "profile":
                name, cells = list(catalogue.profile.items())[unit.at]
                return Evidence(kind="profile", name=name, value=cells[without.requests.users[request]], worth=worth)
            case "context":
                name, values = list(data.codes.context.items())[unit.at]
                code = int(without.pasts[request].next_context[-1][unit.at])
                return Evidence(kind="context", name=name, value=values[code - 1], worth=worth)
            case "source":
                return Evidence(kind="source", name=unit.name, value="", worth=worth)

    def _event(self, without: Counterfactuals, request: int, item: int) -> str:
        past, roles = without.pasts[request], self.cascade.config.interactions
        codes = past.event[past.item == item]
        names = [self.cascade.data.codes.event[code - 1] for code in codes.tolist() if code > 0]
        had = [name for name in names if roles.target_events is None or name in roles.target_events]
        if had or not names:
            return had[-1] if had else "target"
        return names[-1]


def _known(codes: np.ndarray, numbers: np.ndarray) -> list[int]:
    """Which columns hold something: [C, V] codes of categories, then [M] numbers."""
    return np.flatnonzero(np.concatenate([(codes > 0).any(-1), ~np.isnan(numbers)])).tolist()


def evidence_frame(found: Sequence[Sequence[Evidence]]) -> pl.Series:
    """Pieces of each recommendation, as a list of structs: kind, name, value, worth, event."""
    names = {"kind": pl.String, "name": pl.String, "value": pl.String, "worth": pl.Float32, "event": pl.String}
    rows = [[{name: getattr(one, name) for name in names} for one in own] for own in found]
    return pl.Series("evidence", rows, dtype=pl.List(pl.Struct(names)))
