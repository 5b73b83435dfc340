"""Who is asked about, what they had, and what would have been right: requests for evaluation and for inference."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch

from recsys.batch import EvaluationBatch
from recsys.data.datasets import Features, Local, Past, search_past
from recsys.data.prepare import Prepared
from recsys.data.ragged import Ragged
from recsys.data.split import SECOND, STAGES, TRAIN, VALID, order_value


@dataclass(frozen=True, kw_only=True)
class Requests:
    """Requests in a fixed order. A request is a user at a moment, a query, or both."""

    users: np.ndarray  # [R] int64, -1 for nobody known
    queries: np.ndarray  # [R] int64, -1 for none
    ends: np.ndarray  # [R] int64, row of the layout where the visible history ends
    target_rows: Sequence[np.ndarray]  # items that are right, each [P]
    grades: Sequence[np.ndarray]
    moments: np.ndarray  # [R] int64, row of the layout whose context is the moment, -1 for unknown
    before: float = np.inf
    """Searches from this order value on are hidden; those after the first hidden row always are."""
    among: np.ndarray | None = None
    """[R] int8 stage whose items alone are listed (`split.items`); None: every item is, for all."""

    def __len__(self) -> int:
        return len(self.users)

    def take(self, rows: np.ndarray) -> "Requests":
        """Some of the requests."""
        return Requests(
            users=self.users[rows], queries=self.queries[rows], ends=self.ends[rows], moments=self.moments[rows],
            target_rows=[self.target_rows[row] for row in rows], grades=[self.grades[row] for row in rows],
            before=self.before, among=None if self.among is None else self.among[rows],
        )  # fmt: skip


def user_requests(data: Prepared, stage: int) -> Requests:
    """One request for each user with a target in `stage`: what came before the stage is seen, its targets are right."""
    histories = data.histories
    assert histories is not None
    rows = np.flatnonzero((histories.stage == stage) & histories.target)
    owner = np.searchsorted(histories.offsets, rows, side="right") - 1
    users, first = np.unique(owner, return_index=True)
    asked, items = np.divmod(np.unique(owner * len(data.catalogue) + histories.item[rows]), len(data.catalogue))
    sizes = np.unique(asked, return_counts=True)[1]
    return Requests(
        users=users, queries=np.full(len(users), -1), ends=histories.stage_end(stage - 1)[users], moments=rows[first],
        target_rows=Ragged(items, sizes), grades=Ragged(np.ones(len(items)), sizes),
    )  # fmt: skip


def target_requests(data: Prepared, stage: int, rows: np.ndarray | None = None) -> Requests:
    """One request for every target row of `stage`, or for some of them, at its own moment."""
    histories = data.histories
    assert histories is not None
    if rows is None:
        rows = np.flatnonzero((histories.stage == stage) & histories.target)
    users = np.searchsorted(histories.offsets, rows, side="right") - 1
    one = np.ones(len(rows), dtype=np.int64)
    return Requests(
        users=users, queries=-one, ends=rows, moments=rows,
        target_rows=Ragged(histories.item[rows].astype(np.int64), one), grades=Ragged(np.ones(len(rows)), one),
    )  # fmt: skip


def judged_requests(data: Prepared, stage: int) -> Requests:
    """One request for every row of `stage` whose answer is known either way, at its own moment: what its user did
    strictly before is seen, and a row that is no target has no right answer.
    """
    histories = data.histories
    assert histories is not None
    users = np.repeat(np.arange(len(histories)), np.diff(histories.offsets))
    new = (np.diff(users, prepend=-1) != 0) | (np.diff(histories.order, prepend=np.nan) != 0)
    moments = np.flatnonzero(new)  # the first row of each user's moments
    rows = np.flatnonzero(histories.stage == stage)
    right = histories.target[rows]
    items = histories.item[rows[right]].astype(np.int64)
    return Requests(
        users=users[rows], queries=np.full(len(rows), -1), moments=rows,
        ends=moments[np.searchsorted(moments, rows, side="right") - 1],
        target_rows=Ragged(items, right), grades=Ragged(np.ones(len(items)), right),
    )  # fmt: skip


def serving_requests(data: Prepared, until: str | float | None, users: np.ndarray) -> Requests:
    """One request for each of `users`: what came before `until` is seen; what came then is the moment and was right."""
    histories = data.histories
    none, empty = np.full(len(users), -1), [np.zeros(0, dtype=np.int64)] * len(users)
    if histories is None:
        return Requests(users=users, queries=none, ends=none * 0, moments=none, target_rows=empty, grades=empty)
    ends = histories.until(until)[users]
    plain = Requests(users=users, queries=none, ends=ends, moments=none, target_rows=empty, grades=empty)
    if until is None:
        return plain
    if until not in STAGES:
        return replace(plain, before=order_value(until))
    known = user_requests(data, STAGES[until])
    row = np.full(len(histories), -1)
    row[known.users] = np.arange(len(known))
    return replace(
        plain,
        moments=np.where(row[users] >= 0, known.moments[row[users]], -1) if len(known) else none,
        target_rows=[known.target_rows[at] if at >= 0 else empty[0] for at in row[users]],
        grades=[known.grades[at] if at >= 0 else empty[0] for at in row[users]],
    )


def query_requests(
    data: Prepared, rows: np.ndarray, until: str | float | None = None, stage: int | None = None
) -> Requests:
    """One request for each query, with its relevant items; what its user did before it and before `until` is seen.

    By `split.items`, items of `stage` alone are listed.
    """
    assert data.queries is not None
    found, held = [data.queries.relevant(int(row)) for row in rows], data.catalogue.stage
    if held is not None and stage is not None:
        found = [(item[held[item] == stage], grade[held[item] == stage]) for item, grade in found]
    return Requests(
        users=data.queries.user[rows], queries=rows,
        ends=_search_ends(data, rows, until), moments=np.full(len(rows), -1),
        before=np.inf if until is None or until in STAGES else order_value(until),
        target_rows=[item[grade > 0] for item, grade in found], grades=[grade[grade > 0] for _, grade in found],
        among=None if held is None or stage is None else np.full(len(rows), stage, dtype=np.int8),
    )  # fmt: skip


def search_requests(data: Prepared, until: str | float | None) -> Requests:
    """One request for each query; where `until` names a split, only queries of that split have an answer."""
    stage = STAGES.get(str(until))
    requests = query_requests(data, np.arange(len(data.queries or ())), until, stage)
    if until not in STAGES:
        return requests
    judged, empty = set(answered_queries(data, STAGES[until]).tolist()), np.zeros(0, dtype=np.int64)
    return replace(
        requests,
        target_rows=[one if row in judged else empty for row, one in enumerate(requests.target_rows)],
        grades=[one if row in judged else empty for row, one in enumerate(requests.grades)],
    )


def _search_ends(data: Prepared, rows: np.ndarray, until: str | float | None) -> np.ndarray:
    """[R] int64: the row where the history of a search's user ends, -1 where user or time are not known."""
    queries, histories = data.queries, data.histories
    ends = np.full(len(rows), -1)
    if queries is None or histories is None:
        return ends
    limits = histories.until(until)
    for place in np.flatnonzero((queries.user[rows] >= 0) & ~np.isnan(queries.order[rows])):
        user, order = int(queries.user[rows[place]]), float(queries.order[rows[place]])
        ends[place] = min(histories.row_at(user, order), limits[user])
    return ends


def request_pasts(features: Features, requests: Requests) -> list[Past]:
    """The visible history of each request, at its moment where that is known."""
    whom = zip(requests.users, requests.queries, requests.ends, requests.moments, strict=True)
    return [
        _past(features, int(user), int(query), int(end), int(moment), requests.before)
        for user, query, end, moment in whom
    ]


def moment_orders(data: Prepared, requests: Requests) -> np.ndarray:
    """[R] float64 order value of each request's moment: what was said later is not known. Infinite: it is now."""
    found = np.full(len(requests), requests.before)
    if data.histories is not None and len(data.histories.order):
        found = np.where(requests.moments >= 0, data.histories.order[np.maximum(requests.moments, 0)], found)
    if data.queries is None:
        return found
    asked = np.append(data.queries.order, np.nan)[requests.queries]  # a request without a query takes the last
    return np.fmin(asked, found)


def _past(features: Features, user: int, query: int, end: int, moment: int, before: float) -> Past:
    past = _whole_past(features, user, query, end, moment, before)
    return past.last(0) if "history" in features.hidden else past


def _whole_past(features: Features, user: int, query: int, end: int, moment: int, before: float) -> Past:
    histories = features.data.histories
    if query >= 0:
        return search_past(features, query, end, before)
    if histories is None or user < 0:
        return features.latest(user, end, before)
    if end < histories.offsets[user + 1]:
        before = min(before, float(histories.order[end]))
    if moment < 0:
        return features.latest(user, end, before)
    return features.latest(user, end, before, int(histories.stage[moment])).at(histories.context[moment])


def seen_items(data: Prepared, requests: Requests) -> list[np.ndarray]:
    """What is not listed for a request: what its user already had, the earlier target events, unless it is a search;
    and, by `split.items`, what is of another stage.
    """
    whom = zip(requests.users, requests.queries, requests.ends, strict=True)
    had = [_had(data, int(user), int(end) if query < 0 else -1) for user, query, end in whom]
    held = data.catalogue.stage
    if held is None or requests.among is None:
        return had
    others = {stage: np.flatnonzero(held != stage) for stage in np.unique(requests.among)}
    return [np.union1d(items, others[stage]) for items, stage in zip(had, requests.among, strict=True)]


def _had(data: Prepared, user: int, end: int) -> np.ndarray:
    histories = data.histories
    if histories is None or user < 0 or end < 0:
        return np.zeros(0, dtype=np.int64)
    rows = slice(int(histories.offsets[user]), end)
    return np.unique(histories.item[rows][histories.target[rows]]).astype(np.int64)


def evaluation_batches(
    features: Features, requests: Requests, *, batch_size: int = 128, part: int = 0, parts: int = 1
) -> Iterator[EvaluationBatch]:
    """The requests dealt to one of several processes, in batches; uneven shares are fine."""
    mine = np.arange(len(requests))[part::parts]
    for start in range(0, len(mine), batch_size):
        yield evaluation_batch(features, requests.take(mine[start : start + batch_size]))


def evaluation_batch(features: Features, requests: Requests) -> EvaluationBatch:
    """Requests as tensors; item rows are rows of the whole catalogue."""
    data = features.data
    pasts = request_pasts(features, requests)
    seen = seen_items(data, requests)
    width = max((len(items) for items in requests.target_rows), default=0)
    targets = np.full((len(requests), max(width, 1)), -1, dtype=np.int64)
    grades = np.zeros(targets.shape, dtype=np.float32)
    for number, (items, grade) in enumerate(zip(requests.target_rows, requests.grades, strict=True)):
        targets[number, : len(items)], grades[number, : len(items)] = items, grade
    return EvaluationBatch(
        users=features.users(pasts, requests.users, requests.queries, Local(None, len(data.catalogue))),
        step=torch.tensor([len(past.item) for past in pasts]),
        targets=torch.from_numpy(targets),
        grades=torch.from_numpy(grades),
        seen_row=torch.from_numpy(np.repeat(np.arange(len(seen)), [len(items) for items in seen])),
        seen_item=torch.from_numpy(np.concatenate(seen)),
    )


def validation_requests(data: Prepared, tasks: list[str], stage: int = VALID) -> dict[str, Requests]:
    """Requests of the valid split for each task that has some: `valid` for users, `valid_query` for queries."""
    found = {}
    if "next_item" in tasks and data.histories is not None:
        found["valid"] = user_requests(data, stage)
    if "query_to_item" in tasks and data.queries is not None:
        found["valid_query"] = query_requests(data, answered_queries(data, stage), stage=stage)
    return {name: requests for name, requests in found.items() if len(requests)}


def candidate_requests(data: Prepared, tasks: list[str]) -> list[tuple[str, Requests]]:
    """Everything that a retriever of these tasks is asked for the second selection: ("second" | "valid", requests).

    A request's number is its place in all of them, one after the other: every target of the stage "second", the
    queries of train and second with a relevant item, then the valid users and the valid queries.
    """
    second = []
    if "next_item" in tasks and data.histories is not None:
        second.append(target_requests(data, SECOND))
    if "query_to_item" in tasks and data.queries is not None:
        known = np.concatenate([answered_queries(data, TRAIN), answered_queries(data, SECOND)])
        second.append(query_requests(data, np.sort(known), stage=TRAIN))
    valid = validation_requests(data, tasks).values()
    return [("second", one) for one in second if len(one)] + [("valid", one) for one in valid]


def answered_queries(data: Prepared, stage: int) -> np.ndarray:
    """Rows of the queries of a stage that have a relevant item, in their order."""
    assert data.queries is not None
    return np.unique(data.queries.owner()[data.pairs(stage)])


def join_requests(parts: list[Requests]) -> Requests:
    """All requests of several, one after the other."""
    return Requests(
        users=np.concatenate([one.users for one in parts]), queries=np.concatenate([one.queries for one in parts]),
        ends=np.concatenate([one.ends for one in parts]), moments=np.concatenate([one.moments for one in parts]),
        target_rows=[target for one in parts for target in one.target_rows],
        grades=[grade for one in parts for grade in one.grades], before=min(one.before for one in parts),
        among=_joined_stages(parts),
    )  # fmt: skip


def _joined_stages(parts: list[Requests]) -> np.ndarray | None:
    """[R] of all; of several, all or none have them: a split by items is one of queries alone."""
    stages = [one.among for one in parts if one.among is not None]
    return np.concatenate(stages) if stages else None
