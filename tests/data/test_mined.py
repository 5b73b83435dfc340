"""Hard negatives: what stays of a table, and what is drawn from it."""

from pathlib import Path

import numpy as np
import polars as pl
import pytest

from recsys.data.mined import Mined, read_mined
from recsys.data.prepare import Prepared, prepare
from recsys.errors import InputError
from recsys.tables import DataConfig
from recsys.tables.config import InteractionsConfig, ItemsConfig, RelevanceConfig

ITEMS = [f"i{number}" for number in range(8)]


@pytest.fixture
def config(tmp_path: Path) -> DataConfig:
    tables = {
        "items": pl.DataFrame({"item_id": ITEMS, "title": ITEMS}),
        "queries": pl.DataFrame({"query_id": [10, 11, 12], "query": ["a", "b", "c"], "split": ["train"] * 3}),
        "relevance": pl.DataFrame({"query_id": [10, 10, 11], "item_id": ["i1", "i2", "i3"], "grade": [1, 0, 2]}),
        "interactions": pl.DataFrame(
            {"user_id": ["u", "u", "v"], "item_id": ["i1", "i2", "i1"], "position": [0, 1, 0]}
        ),
        "users": pl.DataFrame({"user_id": ["u", "v", "w"]}),
    }
    for name, table in tables.items():
        table.write_parquet(tmp_path / f"{name}.parquet")
    return DataConfig(
        root=str(tmp_path), cache=str(tmp_path / "cache"), items=ItemsConfig(text=["title"]),
        interactions=InteractionsConfig(order="position"), relevance=RelevanceConfig(grade="grade"),
    )  # fmt: skip


@pytest.fixture
def data(config: DataConfig) -> Prepared:
    return prepare(config)


def lists(mined: Mined) -> list[list[int]]:
    return [part.tolist() for part in np.split(mined.item, mined.offsets[1:-1])]


def test_lists_of_queries_lose_what_is_relevant_and_what_nobody_knows(
    config: DataConfig, data: Prepared, tmp_path: Path
):
    pairs = [(12, "i7"), (10, "i4"), (10, "i1"), (10, "i2"), (10, "i4"), (11, "i3"), (99, "i5"), (12, "i99")]
    pl.DataFrame(pairs, schema=["query_id", "item_id"], orient="row").write_parquet(tmp_path / "mined.parquet")
    found = read_mined(tmp_path / "mined.parquet", 3, data, config)
    assert (found.count, found.users) == (3, None)
    assert lists(found.queries) == [[2, 4], [], [7]]  # grade 0 is not relevant


def test_a_folder_of_recommendations_gives_lists_of_users(config: DataConfig, data: Prepared, tmp_path: Path):
    for part, user in enumerate(("w", "u")):
        table = pl.DataFrame({"user_id": [user] * 2, "item_id": ["i5", "i6"], "rank": [1, 2]})
        table.write_parquet(tmp_path / f"part-{part}.parquet")
    found = read_mined(tmp_path, 1, data, config)
    assert found.queries is None
    assert lists(found.users) == [[5, 6], [], [5, 6]]


def test_what_is_drawn_depends_on_seed_epoch_and_row_alone():
    mined = Mined(offsets=np.array([0, 4, 4, 9]), item=np.array([1, 3, 5, 7, 2, 4, 6, 8, 9]))
    together = mined.draw(np.array([0, 1, 2]), 2, seed=0, epoch=1)
    alone = [mined.draw(np.array([row]), 2, seed=0, epoch=1) for row in range(3)]
    assert together.tolist() == np.unique(np.concatenate(alone)).tolist()
    assert len(alone[1]) == 0
    assert set(alone[0]) <= {1, 3, 5, 7}
    drawn = {tuple(mined.draw(np.array([2]), 2, seed=seed, epoch=epoch)) for seed in range(4) for epoch in range(4)}
    assert len(drawn) > 4
    assert set().union(*drawn) == {2, 4, 6, 8, 9}


@pytest.mark.parametrize(
    ("table", "message"),
    [
        (None, r"is no Parquet file and no folder"),
        ({"item_id": ["i1"]}, r"expected item_id and query_id or user_id"),
        ({"query_id": [10]}, r"expected item_id and query_id or user_id"),
        ({"query_id": ["ten"], "item_id": ["i1"]}, r"of another type than the tables' own"),
    ],
)
def test_a_table_that_cannot_be_used_is_one_sentence(
    config: DataConfig, data: Prepared, tmp_path: Path, table: dict | None, message: str
):
    path = tmp_path / "mined.parquet"
    if table is not None:
        pl.DataFrame(table).write_parquet(path)
    with pytest.raises(InputError, match=message):
        read_mined(path, 1, data, config)


def test_a_file_that_is_no_parquet_is_one_sentence(config: DataConfig, data: Prepared, tmp_path: Path):
    (tmp_path / "mined.parquet").write_text("no")
    with pytest.raises(InputError, match="is not readable Parquet"):
        read_mined(tmp_path / "mined.parquet", 1, data, config)
