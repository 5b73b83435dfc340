"""What a teacher said: read by id, drawn by seed, epoch and row alone."""

from pathlib import Path

import numpy as np
import polars as pl
import pytest

from recsys.data.taught import Taught, read_taught
from recsys.errors import InputError

TAUGHT = Taught(
    offsets=np.array([0, 4, 4, 6]), item=np.array([3, 5, 7, 9, 2, 4]),
    logit=np.array([1, 2, 3, 4, 5, 6], dtype=np.float32), count=3,
)  # fmt: skip


def test_the_target_comes_first_and_others_are_drawn_anew_in_every_epoch() -> None:
    seen = set()
    for epoch in range(40):
        items, scores = TAUGHT.draw(np.array([0, 1, 2, 2]), np.array([7, 7, 4, 8]), seed=0, epoch=epoch)
        assert items.shape == scores.shape == (4, 3)
        assert items[0, 0] == 7
        assert (items[1] == -1).all()
        assert items[2].tolist() == [4, 2, -1]
        assert items[3, 0] == -1
        assert set(items[3, 1:].tolist()) == {2, 4}
        known = dict(zip(TAUGHT.item.tolist(), TAUGHT.logit.tolist(), strict=True))
        assert all(score == known.get(item, 0) for item, score in zip(items.ravel(), scores.ravel(), strict=True))
        seen |= set(items[0, 1:].tolist())
    assert seen == {3, 5, 9}


def test_a_draw_does_not_depend_on_who_stands_beside_it() -> None:
    whole, _ = TAUGHT.draw(np.array([2, 0]), np.array([2, 3]), seed=1, epoch=4)
    alone, _ = TAUGHT.draw(np.array([0]), np.array([3]), seed=1, epoch=4)
    assert whole[1].tolist() == alone[0].tolist()


def test_a_table_is_read_by_ids_and_what_nobody_knows_is_left_out(cascade, tmp_path: Path) -> None:
    rows = [(3, "i7", 0.5), (3, "i2", -1.0), (0, "i9", 2.0), (99, "i1", 1.0), (0, "nothing", 1.0)]
    pl.DataFrame(rows, schema=["query_id", "item_id", "logit"], orient="row").write_parquet(tmp_path / "taught.parquet")
    found = read_taught(tmp_path / "taught.parquet", 4, cascade.data, cascade.config)
    assert np.diff(found.offsets).tolist() == [1, 0, 0, 2, *[0] * 6]
    assert (found.item.tolist(), found.logit.tolist(), found.count) == ([9, 2, 7], [2.0, -1.0, 0.5], 4)


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"query_id": [1], "item_id": ["i1"]}, "expected query_id, item_id and logit"),
        ({"query_id": [1], "item_id": ["i1"], "logit": [float("nan")]}, "no finite number"),
        ({"query_id": [1], "item_id": ["i1"], "logit": [None]}, "no finite number"),
        ({"query_id": [77], "item_id": ["i1"], "logit": [1.0]}, "no query and item of this data set"),
        ({"query_id": [1, 1], "item_id": ["i1", "i1"], "logit": [1.0, 2.0]}, "twice"),
        ({"query_id": ["x"], "item_id": ["i1"], "logit": [1.0]}, "cannot be read"),
        (None, "is no Parquet file"),
    ],
)
def test_a_table_that_cannot_be_learnt_from_is_refused(cascade, tmp_path: Path, columns, message: str) -> None:
    path = tmp_path / "taught.parquet"
    if columns is not None:
        pl.DataFrame(columns).write_parquet(path)
    with pytest.raises(InputError, match=message):
        read_taught(path, 4, cascade.data, cascade.config)
