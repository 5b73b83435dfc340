"""What stands in a history: items and, where they are wanted, searches at their place."""

from dataclasses import dataclass, replace

import numpy as np

from recsys.data.prepare import Queries


@dataclass(frozen=True, kw_only=True)
class Past:
    """Entries of one history, oldest first. Exactly one of item and query is >= 0."""

    item: np.ndarray  # [H] int64
    query: np.ndarray  # [H] int64
    event: np.ndarray  # [H] int64
    position: np.ndarray  # [H] int64
    order: np.ndarray  # [H] float64
    next_context: np.ndarray  # [H + 1, X] int64, the moment of the event after each entry

    @classmethod
    def empty(cls, contexts: int) -> "Past":
        """Nobody's history."""
        none = np.zeros(0, dtype=np.int64)
        moment = np.zeros((1, contexts), dtype=np.int64)
        return cls(item=none, query=none, event=none, position=none, order=none.astype(np.float64), next_context=moment)

    def merge(self, queries: np.ndarray, order: np.ndarray) -> "Past":
        """The same with searches at their place: after every event that is not later than they are."""
        if not len(queries):
            return self
        rank = np.argsort(np.concatenate([self.order, order]), kind="stable")
        none = np.full(len(queries), -1, dtype=np.int64)
        return Past(
            item=np.concatenate([self.item, none])[rank],
            query=np.concatenate([self.query, queries])[rank],
            event=np.concatenate([self.event, none * 0])[rank],
            position=np.arange(len(rank)),
            order=np.concatenate([self.order, order])[rank],
            next_context=np.zeros((len(rank) + 1, self.next_context.shape[1]), dtype=np.int64),
        )

    def steps(self, number: np.ndarray, order: np.ndarray) -> np.ndarray:
        """How many entries stand before an event: its `number` of items, and the searches earlier than its `order`."""
        return number + np.searchsorted(self.order[self.query >= 0], order, side="left")

    def last(self, count: int) -> "Past":
        """The latest `count` entries."""
        skip = max(len(self.item) - count, 0)
        cut = {name: getattr(self, name)[skip:] for name in ("item", "query", "event", "position", "order")}
        return Past(**cut, next_context=self.next_context[skip:])

    def at(self, context: np.ndarray) -> "Past":
        """The same, asked at a moment with these context codes [X]."""
        moments = self.next_context.copy()
        moments[-1] = context
        return replace(self, next_context=moments)


class Searches:
    """Each known user's searches in time order."""

    def __init__(self, queries: Queries) -> None:
        known = np.flatnonzero((queries.user >= 0) & ~np.isnan(queries.order))
        self.query = known[np.lexsort((queries.order[known], queries.user[known]))]
        self.user, self.order, self.stage = (
            values[self.query] for values in (queries.user, queries.order, queries.stage)
        )

    def between(self, user: int, since: float, end: float, stage: int) -> tuple[np.ndarray, np.ndarray]:
        """Queries of `user` with since <= order < end and of no later stage than `stage`, and their order values."""
        first, last = np.searchsorted(self.user, [user, user + 1])
        start, stop = first + np.searchsorted(self.order[first:last], [since, end])
        rows = np.arange(start, stop)
        rows = rows[self.stage[rows] <= stage]
        return self.query[rows], self.order[rows]
