"""What a hash of requests notices, and what it does not."""

from dataclasses import replace

import numpy as np
import pytest

from recsys.data.asked import requests_hash
from recsys.data.requests import query_requests, serving_requests


@pytest.fixture
def users(cascade):
    return serving_requests(cascade.data, "valid", np.array([2, 5]))


def changed(data, name, row, value):
    """The data with one entry of the layout changed."""
    column = np.array(getattr(data.histories, name))
    column[row] = value
    return replace(data, histories=replace(data.histories, **{name: column}))


def test_the_same_rows_have_the_same_hash(cascade, users):
    assert requests_hash(cascade.data, users) == requests_hash(cascade.data, users)
    assert requests_hash(cascade.data, users) != requests_hash(cascade.data, users.take(np.array([1, 0])))


@pytest.mark.parametrize(("name", "value"), [("item", 29), ("order", -1.0), ("event", 1), ("target", False)])
def test_a_row_that_is_seen_is_noticed_and_another_users_is_not(cascade, users, name, value):
    data, offsets = cascade.data, cascade.data.histories.offsets
    before = requests_hash(data, users)
    assert requests_hash(changed(data, name, int(offsets[2]), value), users) != before
    assert requests_hash(changed(data, name, int(offsets[3]), value), users) == before


def test_a_row_that_is_not_seen_yet_is_not_noticed(cascade, users):
    data = cascade.data
    last = int(data.histories.offsets[3]) - 1
    assert last > users.moments[0]
    assert requests_hash(changed(data, "item", last, 29), users) == requests_hash(data, users)


def test_a_profile_is_noticed_where_it_is_its_users(cascade, users):
    data = cascade.data
    before = requests_hash(data, users)
    for user, same in ((2, False), (3, True)):
        profile = data.profile.copy()
        profile[user] += 1
        assert (requests_hash(replace(data, profile=profile), users) == before) is same


def test_the_words_of_a_query_are_noticed(cascade):
    data, requests = cascade.data, query_requests(cascade.data, np.array([0, 4]))
    before = requests_hash(data, requests)
    for query, same in ((4, False), (5, True)):
        texts = [text + (" more" if row == query else "") for row, text in enumerate(data.queries.texts)]
        assert (requests_hash(replace(data, queries=replace(data.queries, texts=texts)), requests) == before) is same


def test_whose_a_search_is_and_of_which_split_is_noticed(cascade, users):
    data = cascade.data
    before = requests_hash(data, users)
    owner, stage = data.queries.user.copy(), data.queries.stage.copy()
    owner[5], stage[5] = 2, 2
    for changes in ({"user": owner}, {"stage": stage}):
        assert requests_hash(replace(data, queries=replace(data.queries, **changes)), users) != before


def test_a_search_that_stands_in_a_history_is_noticed(cascade, users):
    data = cascade.data
    texts = [text + (" more" if row == 5 else "") for row, text in enumerate(data.queries.texts)]
    assert int(data.queries.user[5]) == 5
    other = replace(data, queries=replace(data.queries, texts=texts))
    assert requests_hash(other, users) != requests_hash(data, users)


def test_the_picture_of_a_query_is_noticed(cascade):
    data, requests = cascade.data, query_requests(cascade.data, np.array([0, 4]))
    shown = [f"{row}" for row in range(10)]
    before = requests_hash(replace(data, queries=replace(data.queries, pictures=shown)), requests)
    assert before != requests_hash(data, requests)
    for query, same in ((4, False), (5, True)):
        other = replace(data.queries, pictures=["other" if row == query else one for row, one in enumerate(shown)])
        assert (requests_hash(replace(data, queries=other), requests) == before) is same
