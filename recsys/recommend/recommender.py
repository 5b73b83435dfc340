"""The cascade from Python: one user or one query at a time."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Self

import numpy as np

from recsys.config import parse_run, read_part
from recsys.data.datasets import Features
from recsys.data.prepare import Histories, Prepared, Queries
from recsys.data.requests import Requests
from recsys.errors import InputError, nearest
from recsys.models.pruner import DecisionConfig
from recsys.recommend.cascade import Cascade
from recsys.recommend.run import InferRun
from recsys.retrieval.embed import encode_texts
from recsys.tables import DataConfig


@dataclass(frozen=True, kw_only=True)
class Recommendation:
    """One line of a list."""

    rank: int
    item_id: Any
    score: float
    retriever_score: float
    pruner_score: float | None


class Recommender:
    """Answers single requests with the models of a run.

    >>> shop = Recommender.load("runs/shop")
    >>> shop.recommend(history=["i00017", "i00403"], context={"device": "phone"})
    >>> shop.search("waterproof backpack")
    """

    def __init__(self, cascade: Cascade) -> None:
        self.cascade = cascade
        self._rows = {item: row for row, item in enumerate(cascade.item_ids.to_list())}

    @classmethod
    def load(cls, run: str | Path) -> Self:
        """The cascade of an inference run (RUN/infer.yaml), or the retriever of a training run (RUN/config.yaml)."""
        run = Path(run)
        if (run / "infer.yaml").is_file():
            config = parse_run(InferRun, [str(run / "infer.yaml")])
            return cls(Cascade.open(config.retriever, config.pruner, config.data, config.candidates, config.decision))
        if not (run / "config.yaml").is_file():
            raise InputError(f"{run} is no run: neither infer.yaml nor config.yaml is there. Train first, or give the folder of a run.")
        data = read_part(run / "config.yaml", "data", DataConfig)
        if data is None:
            raise InputError(f"{run}/config.yaml has no `data`; expected the folder of a training run.")
        return cls(Cascade.open(str(run), None, data, 100, DecisionConfig()))

    def recommend(
        self, history: list[Any], *, context: dict[str, str] | None = None, profile: dict[str, str] | None = None, top: int = 10
    ) -> list[Recommendation]:
        """Items for somebody with this history.

        Args:
            history: item ids, oldest first; they are not recommended again. May be empty.
            context: values of the context columns at this moment.
            profile: values of the user's category columns.
            top: length of the list.
        """
        data = self.cascade.data
        items = np.array([self._row(item) for item in history], dtype=np.int32)
        moment = self._codes(context or {}, data.codes.context, "context")
        one = replace(
            data,
            histories=_one_history(items, moment),
            profile=self._profile(profile or {}),
            profile_number=np.full((1, data.profile_number.shape[1]), np.nan, dtype=np.float32),
            queries=None,
        )
        return self._ask(one, None, user=0, query=-1, top=top)

    def search(self, text: str, *, top: int = 10) -> list[Recommendation]:
        """Items for a query."""
        if not text.strip():
            raise InputError("The query is empty; give at least one word.")
        if self.cascade.retriever.model.text is None:
            raise InputError("This retriever has no text encoder, so it cannot search; train one with model.text.")
        none = np.zeros(0, dtype=np.int64)
        query = Queries(
            texts=[text], user=np.array([-1]), order=np.array([np.nan]), stage=np.zeros(1, dtype=np.int8),
            offsets=np.zeros(2, dtype=np.int64), item=none, grade=none.astype(np.float32),
        )  # fmt: skip
        return self._ask(replace(self.cascade.data, queries=query), text, user=-1, query=0, top=top)

    def _ask(self, data: Prepared, text: str | None, *, user: int, query: int, top: int) -> list[Recommendation]:
        cascade, empty = self.cascade, [np.zeros(0, dtype=np.int64)]
        own = self._features(data, cascade.retriever.features, cascade.retriever.folder, cascade.retriever.model.text, text)
        pruner = cascade.pruner_features
        if pruner is not None and cascade.pruner is not None and cascade.pruner_folder is not None:
            pruner = self._features(data, pruner, cascade.pruner_folder, cascade.pruner.text, text)
        end = 0 if data.histories is None or user < 0 else len(data.histories.item) - 1
        requests = Requests(
            users=np.array([user]), queries=np.array([query]), ends=np.array([end]), moments=np.array([end if user >= 0 else -1]),
            target_rows=empty, grades=empty,
        )  # fmt: skip
        lists = cascade.on(data, own, pruner).recommend(requests)
        ids = cascade.item_ids
        return [
            Recommendation(
                rank=place + 1, item_id=ids[int(item)], score=float(lists.scores[0, place]),
                retriever_score=float(lists.retriever_scores[0, place]),
                pruner_score=None if lists.pruner_scores is None else float(lists.pruner_scores[0, place]),
            )
            for place, item in enumerate(lists.items[0][:top]) if item >= 0
        ]  # fmt: skip

    def _features(self, data: Prepared, known: Features, folder: Path, encoder: Any, text: str | None) -> Features:
        queries = known.query_texts
        if text is not None and encoder is not None:
            queries = encode_texts(folder, encoder, [text], self.cascade.config, cached=False)
        return Features(data, known.item_texts, queries, max_items=known.max_items)

    def _row(self, item: Any) -> int:
        if item not in self._rows:
            hint = nearest(str(item), (str(known) for known in list(self._rows)[:5000]))
            raise InputError(f"Unknown item {item!r} in the history; expected an id of the items table.{hint}")
        return self._rows[item]

    def _profile(self, profile: dict[str, str]) -> np.ndarray:
        codes = self._codes(profile, self.cascade.data.codes.user_category, "profile")
        width = self.cascade.data.profile.shape[2]
        return np.pad(codes[None, :, None], ((0, 0), (0, 0), (0, width - 1)))

    @staticmethod
    def _codes(values: dict[str, str], known: dict[str, list[str]], what: str) -> np.ndarray:
        """[columns] int64 codes; a value that training has not seen is missing, a column that it has not is an error."""
        for name in values:
            if name not in known:
                raise InputError(f"Unknown {what} column {name!r}.{nearest(name, known)} Known: {', '.join(known) or 'none'}.")
        places = [(known[name], values.get(name)) for name in known]
        return np.array([all_.index(str(value)) + 1 if str(value) in all_ else 0 for all_, value in places], dtype=np.int64)


def _one_history(items: np.ndarray, moment: np.ndarray) -> Histories:
    """A layout with one user: the history, and one row more that only carries the moment."""
    size = len(items) + 1
    context = np.zeros((size, len(moment)), dtype=np.int32)
    context[-1] = moment
    count = np.arange(size)
    return Histories(
        offsets=np.array([0, size]), item=np.append(items, 0).astype(np.int32), order=count.astype(np.float64), position=count,
        event=np.zeros(size, dtype=np.int16), target=np.ones(size, dtype=bool), stage=np.zeros(size, dtype=np.int8), context=context,
    )  # fmt: skip

