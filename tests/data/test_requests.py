"""Requests against loops over the tables, and the order of those for the second selection."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from recsys.data.datasets import Features, Texts
from recsys.data.prepare import Prepared, prepare
from recsys.data.requests import (
    candidate_requests,
    evaluation_batch,
    evaluation_batches,
    join_requests,
    query_requests,
    request_pasts,
    seen_items,
    serving_requests,
    target_requests,
    user_requests,
    validation_requests,
)
from recsys.data.split import SECOND, STAGES, TEST, TRAIN, VALID
from recsys.tables import DataConfig, InteractionsConfig, ItemsConfig, QueriesConfig, RelevanceConfig, SplitConfig

USERS, ITEMS, QUERIES = 12, 15, 80
SPLITS = {
    "last": SplitConfig(by="last", second=1, valid_queries=0.2),
    "time": SplitConfig(by="time", valid_from=15, test_from=22, second=1, valid_queries=0.2),
}


def made_up(folder: Path, split: SplitConfig) -> Prepared:
    """Views and purchases, items that come again, and searches at times that events share."""
    rng, count = np.random.default_rng(1), 150
    tables = {
        "items": {"item_id": range(ITEMS), "title": [f"thing {item}" for item in range(ITEMS)]},
        "interactions": {
            "user_id": rng.integers(0, USERS, count),
            "item_id": rng.integers(0, ITEMS, count),
            "timestamp": rng.integers(0, 30, count),
            "event": rng.choice(["view", "buy", "buy"], count),
            "page": rng.choice(["home", "list"], count),
        },
        "queries": {
            "query_id": range(QUERIES),
            "query": [f"word {query}" for query in range(QUERIES)],
            "user_id": [None if query % 9 == 0 else query % USERS for query in range(QUERIES)],
            "timestamp": rng.integers(0, 30, QUERIES).astype(float),
        },
        "relevance": {
            "query_id": [query for query in range(QUERIES - 3) for _ in range(3)],
            "item_id": [(query + 2 * place) % ITEMS for query in range(QUERIES - 3) for place in range(3)],
            "grade": [2.0, 0.0, 1.0] * (QUERIES - 3),
        },
    }
    folder.mkdir()
    for name, columns in tables.items():
        pl.DataFrame(columns).write_parquet(folder / f"{name}.parquet")
    return prepare(DataConfig(
        root=str(folder), cache=str(folder / "cache"), items=ItemsConfig(text=["title"]), split=split,
        interactions=InteractionsConfig(event="event", target_events=["buy"], context=["page"]),
        queries=QueriesConfig(user="user_id", order="timestamp"), relevance=RelevanceConfig(grade="grade"),
    ))  # fmt: skip


@pytest.fixture(scope="module", params=list(SPLITS))
def data(request, tmp_path_factory) -> Prepared:
    return made_up(tmp_path_factory.mktemp("requests") / "tables", SPLITS[request.param])


def reader(data: Prepared, *, max_items: int = 100, searches: bool = True) -> Features:
    vectors = np.arange(len(data.queries), dtype=np.float32)[:, None]
    return Features(data, Texts(), Texts(vectors=vectors), max_items=max_items, searches=searches)


def rows_of(data: Prepared, user: int) -> list[int]:
    return list(range(data.histories.offsets[user], data.histories.offsets[user + 1]))


def searches_before(data: Prepared, user: int, order: float, stage: int) -> set[int]:
    queries = data.queries
    return {
        q for q in range(QUERIES) if queries.user[q] == user and queries.order[q] < order and queries.stage[q] <= stage
    }


@pytest.mark.parametrize("stage", [SECOND, VALID, TEST])
def test_a_user_is_asked_once_for_what_came_in_a_stage(data, stage):
    requests, histories = user_requests(data, stage), data.histories
    expected = {}
    for user in range(USERS):
        targets = [row for row in rows_of(data, user) if histories.stage[row] == stage and histories.target[row]]
        if targets:
            hidden = min(row for row in rows_of(data, user) if histories.stage[row] >= stage)
            expected[user] = (hidden, targets[0], sorted({int(histories.item[row]) for row in targets}))
    assert requests.users.tolist() == sorted(expected)
    for place, user in enumerate(requests.users.tolist()):
        found = (requests.ends[place], requests.moments[place], requests.target_rows[place].tolist())
        assert found == expected[user]
        assert requests.grades[place].tolist() == [1.0] * len(expected[user][2])


def test_every_target_of_a_stage_is_asked_at_its_own_moment(data):
    requests, histories = target_requests(data, SECOND), data.histories
    rows = [row for row in range(len(histories.item)) if histories.stage[row] == SECOND and histories.target[row]]
    assert requests.ends.tolist() == requests.moments.tolist() == rows
    assert [one.tolist() for one in requests.target_rows] == [[histories.item[row]] for row in rows]
    assert all(row in rows_of(data, user) for user, row in zip(requests.users.tolist(), rows, strict=True))


@pytest.mark.parametrize("until", [None, "valid", "test", 15, "1970-01-01T00:00:15"])
def test_who_is_served_sees_nothing_from_until_on(data, until):
    users = np.array([3, 0, 11, 5])
    requests, histories = serving_requests(data, until, users), data.histories
    assert requests.users.tolist() == users.tolist()
    for user, end, past in zip(users, requests.ends, request_pasts(reader(data), requests), strict=True):
        first, last = rows_of(data, user)[0], rows_of(data, user)[-1] + 1
        limit = 15 if until in (15, "1970-01-01T00:00:15") else np.inf
        hidden = [row for row in range(first, last) if until in STAGES and histories.stage[row] >= STAGES[until]]
        visible = [row for row in range(first, last) if row not in hidden and histories.order[row] < limit]
        assert end == first + len(visible)
        assert past.item[past.item >= 0].tolist() == histories.item[visible].tolist()
        limit = min([limit, *(float(histories.order[row]) for row in range(end, last))])
        stage = TEST if not hidden or requests.moments[users.tolist().index(user)] < 0 else STAGES[until]
        assert set(past.query[past.query >= 0].tolist()) == searches_before(data, user, limit, stage)


@pytest.mark.parametrize("stage", ["valid", "test"])
def test_serving_until_a_stage_asks_what_training_is_judged_by(data, stage):
    judged = user_requests(data, STAGES[stage])
    served = serving_requests(data, stage, judged.users)
    one, other = (evaluation_batch(reader(data, max_items=6), requests) for requests in (judged, served))
    for name in ("step", "targets", "grades", "seen_row", "seen_item"):
        assert getattr(one, name).tolist() == getattr(other, name).tolist()
    for name in ("history", "position", "event", "context", "query_vector"):
        assert getattr(one.users, name).tolist() == getattr(other.users, name).tolist()


def test_a_user_without_rows_in_a_stage_is_served_and_has_nothing_right(data):
    known = set(user_requests(data, TEST).users.tolist())
    requests = serving_requests(data, "test", np.arange(USERS))
    for user in range(USERS):
        assert (requests.moments[user] >= 0) == (user in known)
        assert bool(len(requests.target_rows[user])) == (user in known)


def test_without_interactions_everybody_is_new(cascade):
    config = cascade.config
    plain = prepare(DataConfig(
        root=config.root, cache=config.cache, items=config.items, users=config.users, queries=config.queries,
        relevance=config.relevance, tables={"interactions": ""},
    ))  # fmt: skip
    features = Features(plain, Texts(), Texts(vectors=np.eye(10, dtype=np.float32)), max_items=5)
    users = evaluation_batch(features, serving_requests(plain, None, np.array([2, 4])))
    assert users.step.tolist() == [0, 0]
    assert users.users.profile.tolist() == plain.profile[[2, 4]].tolist()
    asked = query_requests(plain, np.arange(10))
    assert asked.users.tolist() == plain.queries.user.tolist()
    assert evaluation_batch(features, asked).users.profile.tolist() == plain.profile[asked.users].tolist()


@pytest.mark.parametrize("until", [None, "valid", 12])
def test_a_query_is_asked_with_what_its_user_had_done_before_it(data, until):
    rows = np.array([5, 0, 40, 79])
    requests, queries, histories = query_requests(data, rows, until), data.queries, data.histories
    assert requests.queries.tolist() == rows.tolist()
    assert requests.users.tolist() == queries.user[rows].tolist()
    pasts = request_pasts(reader(data), requests)
    for place, query in enumerate(rows):
        own, grades = queries.relevant(query)
        assert requests.target_rows[place].tolist() == own[grades > 0].tolist()
        assert requests.grades[place].tolist() == grades[grades > 0].tolist()
        user, order = int(queries.user[query]), float(queries.order[query])
        before = [row for row in rows_of(data, user) if histories.order[row] < order] if user >= 0 else []
        if until == "valid":
            before = [row for row in before if histories.stage[row] < VALID]
        limit = min(order, 12) if until == 12 else order
        before = [row for row in before if histories.order[row] < limit]
        assert pasts[place].item[pasts[place].item >= 0].tolist() == histories.item[before].tolist()
        assert requests.ends[place] == (rows_of(data, user)[0] + len(before) if user >= 0 else -1)
        found = set(pasts[place].query[pasts[place].query >= 0].tolist())
        assert found == (searches_before(data, user, limit, queries.stage[query]) if user >= 0 else set())


def test_seen_are_the_target_events_that_are_visible_and_a_search_hides_nothing(data):
    histories, requests = data.histories, user_requests(data, VALID)
    for user, end, found in zip(requests.users, requests.ends, seen_items(data, requests), strict=True):
        visible = [row for row in rows_of(data, user) if row < end and histories.target[row]]
        assert found.tolist() == sorted({int(histories.item[row]) for row in visible})
    assert all(len(found) == 0 for found in seen_items(data, query_requests(data, np.arange(QUERIES))))


def test_an_evaluation_batch_holds_what_the_requests_say(data):
    features, requests = reader(data, max_items=4, searches=False), user_requests(data, VALID)
    batch, histories = evaluation_batch(features, requests), data.histories
    for row, (user, end, moment) in enumerate(zip(requests.users, requests.ends, requests.moments, strict=True)):
        first = max(rows_of(data, user)[0], end - 4)
        step = int(batch.step[row])
        assert batch.users.history[row, :step].tolist() == histories.item[first:end].tolist()
        assert batch.users.context[row, step].tolist() == histories.context[moment].tolist()
        assert batch.users.history_mask[row].sum() == step
        real = batch.targets[row] >= 0
        assert batch.targets[row][real].tolist() == requests.target_rows[row].tolist()
        assert batch.grades[row].tolist() == [1.0] * int(real.sum()) + [0.0] * int((~real).sum())
        assert batch.seen_item[batch.seen_row == row].tolist() == seen_items(data, requests)[row].tolist()


def test_requests_are_dealt_to_processes_without_loss_or_repetition(data):
    features, requests = reader(data), user_requests(data, VALID)
    whole = evaluation_batch(features, requests).step.tolist()
    parts = [
        [
            step
            for batch in evaluation_batches(features, requests, batch_size=2, part=part, parts=3)
            for step in batch.step.tolist()
        ]
        for part in range(3)
    ]
    assert [part == whole[number::3] for number, part in enumerate(parts)] == [True] * 3
    assert not list(evaluation_batches(features, requests.take(np.zeros(0, dtype=np.int64))))


def test_validation_asks_users_and_the_queries_that_have_an_answer(data):
    found = validation_requests(data, ["next_item", "query_to_item"])
    assert list(found) == ["valid", "valid_query"]
    queries = found["valid_query"].queries
    assert queries.tolist() == [q for q in range(QUERIES - 3) if data.queries.stage[q] == VALID]
    assert list(validation_requests(data, ["query_to_item"])) == ["valid_query"]


def test_requests_are_second_targets_then_train_queries_then_valid_users_and_queries(cascade):
    data = cascade.data
    groups = candidate_requests(data, ["next_item", "query_to_item"])
    train, valid = (np.flatnonzero(data.queries.stage == stage) for stage in (TRAIN, VALID))
    expected = [target_requests(data, SECOND), query_requests(data, train)]
    expected += [user_requests(data, VALID), query_requests(data, valid)]
    assert [stage for stage, _ in groups] == ["second", "second", "valid", "valid"]
    for (_, found), wanted in zip(groups, expected, strict=True):
        for name in ("users", "queries", "ends"):
            np.testing.assert_array_equal(getattr(found, name), getattr(wanted, name))


def test_queries_kept_from_the_retriever_are_asked_among_the_train_queries(tmp_path):
    data = made_up(tmp_path / "data", SplitConfig(by="last", second_queries=0.3))
    (_, asked), _ = candidate_requests(data, ["query_to_item"])
    assert set(data.queries.stage[asked.queries].tolist()) == {TRAIN, SECOND}
    assert (np.diff(asked.queries) > 0).all()


def test_a_task_that_the_retriever_does_not_have_is_not_asked(cascade):
    users, queries = (candidate_requests(cascade.data, [task]) for task in ("next_item", "query_to_item"))
    assert [stage for stage, _ in users] == [stage for stage, _ in queries] == ["second", "valid"]
    assert all((one.queries < 0).all() for _, one in users)
    assert all((one.queries >= 0).all() for _, one in queries)


def test_the_history_of_a_second_target_ends_before_it(cascade):
    (_, second), *_ = candidate_requests(cascade.data, ["next_item"])
    histories = cascade.data.histories
    for row, end in enumerate(second.ends):
        assert histories.item[end] == second.target_rows[row][0]
        assert histories.stage[end] == SECOND


def test_joined_requests_are_numbered_on(cascade):
    parts = [one for _, one in candidate_requests(cascade.data, ["next_item", "query_to_item"])]
    joined = join_requests(parts)
    assert len(joined) == sum(map(len, parts))
    assert joined.queries[len(parts[0])] == parts[1].queries[0]
    np.testing.assert_array_equal(joined.target_rows[-1], parts[-1].target_rows[-1])


def test_items_of_one_stage_are_ranked_among_themselves(data: Prepared):
    stage = np.where(np.arange(len(data.catalogue)) % 3 == 0, VALID, TRAIN).astype(np.int8)
    held = replace(data, catalogue=replace(data.catalogue, stage=stage))
    requests = validation_requests(held, ["query_to_item"])["valid_query"]
    assert (requests.among == VALID).all()
    assert set(requests.queries.tolist()) == set(held.queries.owner()[held.pairs(VALID)].tolist())
    for query, right in zip(requests.queries, requests.target_rows, strict=True):
        items, grades = held.queries.relevant(int(query))
        assert right.tolist() == items[(grades > 0) & (items % 3 == 0)].tolist()
    others = np.flatnonzero(stage != VALID)
    assert all(np.isin(others, seen).all() for seen in seen_items(held, requests))
    some = requests.take(np.array([1, 0]))
    assert some.among.tolist() == [VALID, VALID]
    assert join_requests([some, some]).among.tolist() == [VALID] * 4
