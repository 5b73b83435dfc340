"""The order of the requests that a retriever is asked for the second selection."""

import numpy as np

from recsys.data.requests import candidate_requests, join_requests, query_requests, target_requests, user_requests
from recsys.data.split import SECOND, TRAIN, VALID


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
