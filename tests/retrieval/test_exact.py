"""Search by comparing all, in blocks, against one sort."""

import numpy as np
import pytest

from recsys.retrieval import exact
from recsys.retrieval.exact import ExactRows, exact_top


@pytest.mark.parametrize("k", [1, 5, 30])
@pytest.mark.parametrize("share", [None, 0.3])
def test_blocks_of_any_size_give_the_order_of_one_sort(k, share, monkeypatch):
    rng = np.random.default_rng(0)
    items, users = (rng.normal(size=(rows, 7)).astype(np.float32) for rows in (100, 11))
    allowed = None if share is None else rng.random(100) < share
    scores = users @ items.T
    if allowed is not None:
        scores[:, ~allowed] = -np.inf
    wanted = np.argsort(-scores, axis=1, kind="stable")[:, :k]
    best = np.take_along_axis(scores, wanted, 1)
    for block, queries in ((3, 2), (64, 4), (1000, 256)):
        monkeypatch.setattr(exact, "_BLOCK", block)
        monkeypatch.setattr(exact, "_QUERIES", queries)
        found, rows = ExactRows(vectors=items).search(users, k, allowed)
        np.testing.assert_allclose(found, best, rtol=1e-5)
        np.testing.assert_array_equal(rows, np.where(np.isneginf(best), -1, wanted))


def test_no_more_than_there_is_can_be_right():
    items = np.eye(3, dtype=np.float32)
    assert exact_top(items, items, 10).shape == (3, 3)
    assert exact_top(items, items[:0], 2).shape == (0, 2)
