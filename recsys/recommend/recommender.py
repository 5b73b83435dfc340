"""The cascade from Python: one user or one query at a time."""

from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any, Self

import numpy as np
import polars as pl

from recsys.config import parse_run, read_part
from recsys.data.codes import in_bands
from recsys.data.prepare import Histories, Queries
from recsys.data.requests import Requests
from recsys.errors import InputError, nearest
from recsys.models.decision import DecisionConfig
from recsys.recommend.cascade import Cascade
from recsys.recommend.expose import priced
from recsys.recommend.serve import open_cascade
from recsys.recommend.settings import InferRun
from recsys.retrieval.embed import read_picture
from recsys.tables import DataConfig


@dataclass(frozen=True, kw_only=True)
class Recommendation:
    """One line of a list."""

    rank: int
    """From 1."""
    item_id: Any
    score: float
    """What the list is ordered by: the pruner's probability, or the retriever's score where there is no pruner."""
    retriever_score: float
    pruner_score: float | None


class Recommender:
    """Answers single requests with the models of a run.

    >>> shop = Recommender.load("runs/shop")
    >>> shop.recommend(history=["i00017", "i00403"], context={"device": "phone"})
    >>> shop.search("waterproof backpack")
    >>> shop.search(image="backpack.jpg")
    """

    def __init__(self, cascade: Cascade) -> None:
        self.cascade = cascade
        self._rows = {item: row for row, item in enumerate(cascade.item_ids.to_list())}

    @classmethod
    def load(cls, run: str | Path) -> Self:
        """The cascade of an inference run (RUN/infer.yaml), or the retriever of a training run (RUN/config.yaml)."""
        run = Path(run)
        if (run / "infer.yaml").is_file():
            one = parse_run(InferRun, [str(run / "infer.yaml")])
            return cls(priced(open_cascade(one, search=True).reranked_by(one.rerank), run))
        data = read_part(run / "config.yaml", "data", DataConfig) if (run / "config.yaml").is_file() else None
        if data is None:
            raise InputError(f"{run} is no run: it has neither infer.yaml nor a config.yaml with `data`. Train first.")
        return cls(Cascade.open(str(run), None, data, 100, DecisionConfig()))

    def recommend(
        self,
        history: list[Any],
        *,
        events: list[str] | None = None,
        context: dict[str, Any] | None = None,
        profile: dict[str, Any] | None = None,
        top: int = 10,
    ) -> list[Recommendation]:
        """Items for somebody with this history; at most `top` of those that the run's decision keeps.

        Args:
            history: item ids, oldest first; may be empty. What was had (a target event) is not recommended again.
            events: for each item its event, e.g. "view"; None: every item was had.
            context: values of the context columns at this moment.
            profile: values of the user's category and number columns, and those of region and age.
            top: longest list.

        Raises:
            InputError: an unknown item or column, or a retriever that answers queries only.
        """
        if self.cascade.retriever.model.users.out is None:
            raise InputError("This retriever answers queries and knows nothing of histories; use search(text).")
        if events is not None and len(events) != len(history):
            raise InputError(f"Found {len(events)} events for {len(history)} items; expected one for each.")
        layout = self._one_history(history, events, context or {})
        data = self.cascade.data
        alike = None if data.neighbours is None else data.neighbours.of_a_stranger()
        one = replace(data, histories=layout, queries=None, neighbours=alike, **self._profile(profile or {}))
        end = np.array([len(history)])
        return self._lists(self.cascade.about(one), top, user=0, query=-1, end=end, moment=end)

    def search(self, text: str = "", *, image: str | Path | bytes | None = None, top: int = 10) -> list[Recommendation]:
        """Items for a query of somebody unknown, at most `top`: words, a picture (a file, or its bytes), or both.

        Raises InputError if it is empty, or not to be read.
        """
        words = text if text.strip() else None
        if words is None and image is None:
            raise InputError("The query is empty; give at least one word, or a picture.")
        if words is not None and self.cascade.retriever.words is None:
            raise InputError("This retriever has no text encoder, so it cannot search; train one with model.text.")
        picture = None if image is None else read_picture(self.cascade.retriever, image)
        one = replace(self.cascade.data, queries=_one_query(words or "", shown=picture is not None))
        none = np.array([-1])
        return self._lists(self.cascade.about(one, words, picture), top, user=-1, query=0, end=none, moment=none)

    @staticmethod
    def _lists(
        cascade: Cascade, top: int, *, user: int, query: int, end: np.ndarray, moment: np.ndarray
    ) -> list[Recommendation]:
        unknown = [np.zeros(0, dtype=np.int64)]
        requests = Requests(
            users=np.array([user]), queries=np.array([query]), ends=end, moments=moment, target_rows=unknown,
            grades=unknown,
        )  # fmt: skip
        lists, ids = cascade.recommend(requests), cascade.item_ids
        pruned = lists.pruner_scores
        return [
            Recommendation(
                rank=place + 1, item_id=ids[item], score=float(lists.scores[0, place]),
                retriever_score=float(lists.retriever_scores[0, place]),
                pruner_score=None if pruned is None else float(pruned[0, place]),
            )
            for place, item in enumerate(lists.items[0, :top].tolist()) if item >= 0
        ]  # fmt: skip

    def _one_history(self, history: list[Any], events: list[str] | None, context: dict[str, Any]) -> Histories:
        """A layout with one user: the history, and one row more that only carries the moment."""
        data, roles, size = self.cascade.data, self.cascade.config.interactions, len(history) + 1
        _check_names(context, data.codes.context, "context")
        moment = [_code(known, context.get(name)) for name, known in data.codes.context.items()]
        had = roles.target_events
        named = events if events is not None else [had[0] if had else None] * len(history)
        count = np.arange(size)
        return Histories(
            offsets=np.array([0, size]), item=np.array([*map(self._row, history), 0], dtype=np.int32),
            order=np.append(np.arange(size - 1, dtype=np.float64), np.inf), position=count,
            event=np.array([*(_code(data.codes.event, event) for event in named), 0], dtype=np.int16),
            target=np.array([*(events is None or had is None or event in had for event in named), False]),
            stage=np.zeros(size, dtype=np.int8),
            context=np.array([[0] * len(moment)] * len(history) + [moment], dtype=np.int32).reshape(size, -1),
        )  # fmt: skip

    def _row(self, item: Any) -> int:
        if item not in self._rows:
            known = next(iter(self._rows))
            some = map(str, islice(self._rows, 20_000))
            hint = nearest(str(item), some) if isinstance(item, type(known)) else ""
            raise InputError(f"Unknown item {item!r} in the history; expected an item's id, such as {known!r}.{hint}")
        return self._rows[item]

    def _profile(self, profile: dict[str, Any]) -> dict[str, Any]:
        """What `Prepared` says of users, of one user."""
        codes = self.cascade.data.codes
        users, filters = self.cascade.config.users, self.cascade.data.filters
        limits = {} if filters is None else dict.fromkeys(name for name in (users.region, users.age) if name)
        _check_names(profile, {**codes.user_category, **codes.user_number, **limits}, "profile")
        banded = in_bands(pl.DataFrame({name: [profile.get(name)] for name in codes.user_bands}), codes.user_bands)
        given = {**profile, **{column.name: column[0] for column in banded}}
        category = [[_code(known, given.get(name))] for name, known in codes.user_category.items()]
        number = [
            (float(profile[name]) - middle) / spread if profile.get(name) is not None else np.nan
            for name, (middle, spread) in codes.user_number.items()
        ]
        return {
            "profile": np.array(category, dtype=np.int64).reshape(1, -1, 1),
            "profile_number": np.array([number], dtype=np.float32),
            "filters": filters and filters.about(profile.get(users.region or ""), profile.get(users.age or "")),
        }


def _check_names(values: dict[str, Any], known: dict[str, Any], what: str) -> None:
    for name in values:
        if name not in known:
            columns = ", ".join(known) or "none"
            raise InputError(f"Unknown {what} column {name!r}.{nearest(name, known)} The model knows: {columns}.")


def _code(known: list[str], value: Any) -> int:
    """Code of a value, written as the tables' values are; 0 for none and for one that training has not seen."""
    text = None if value is None else pl.Series([value]).cast(pl.String)[0]
    return known.index(text) + 1 if text in known else 0


def _one_query(text: str, *, shown: bool) -> Queries:
    none = np.zeros(0, dtype=np.int64)
    return Queries(
        texts=[text], pictures=["shown"] if shown else None,
        user=np.array([-1]), order=np.array([np.nan]), stage=np.zeros(1, dtype=np.int8),
        offsets=np.zeros(2, dtype=np.int64), item=none, grade=none.astype(np.float32),
    )  # fmt: skip
