"""What was seen, and what is left of each list, against sets and loops."""

import numpy as np
import pytest

from recsys.retrieval import unseen
from recsys.retrieval.unseen import Seen, first_kept


@pytest.mark.parametrize("table", [1, 64, 1 << 22])
def test_what_was_seen_is_what_a_set_holds(table, monkeypatch):
    monkeypatch.setattr(unseen, "_TABLE", table)
    rng = np.random.default_rng(0)
    seen = [rng.permutation(50)[: rng.integers(0, 30)] for _ in range(20)]
    rows, items = rng.permutation(20)[:12], rng.integers(-1, 50, (12, 40))
    wanted = [[item in set(seen[row].tolist()) for item in own] for row, own in zip(rows, items.tolist(), strict=True)]
    assert Seen(seen, 49).holds(rows, items)[items >= 0].tolist() == np.array(wanted)[items >= 0].tolist()


def test_who_has_seen_nothing_holds_nothing():
    assert not Seen([np.zeros(0, dtype=np.int64)] * 3, 9).holds(np.arange(3), np.arange(9).reshape(3, 3)).any()


@pytest.mark.parametrize("share", [0.3, 0.9])
def test_the_first_kept_are_those_of_a_loop(share):
    rng = np.random.default_rng(1)
    items, scores, kept = rng.permutation(200).reshape(10, 20), rng.normal(size=(10, 20)), rng.random((10, 20)) < share
    found, values = first_kept(items, scores, kept, 8)
    for row in range(10):
        left = np.flatnonzero(kept[row])[:8]
        assert found[row].tolist() == items[row, left].tolist() + [-1] * (8 - len(left))
        assert values[row].tolist() == scores[row, left].tolist() + [-np.inf] * (8 - len(left))
