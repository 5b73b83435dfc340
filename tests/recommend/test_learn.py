"""Impressions: what was shown is counted, what was planted is found, and a broken table is refused."""

import numpy as np
import polars as pl
import pytest

from recsys.cli import main
from recsys.data.sources.shop import write_shop
from recsys.errors import InputError
from recsys.metrics.clicks import examination_error, fit_examination
from recsys.recommend.learn import learn, print_learnt, read_impressions
from recsys.recommend.loop import ExploreConfig
from recsys.recommend.run import run_stage

IDS = pl.Series("item_id", ["a", "b", "c", "d"])
ROWS = {
    "list_id": ["x", "x", "y", "y"], "item_id": ["a", "b", "b", "c"], "rank": [1, 2, 1, 2],
    "clicked": [True, False, True, False], "propensity": [1.0, 0.5, 1.0, 0.25],
}  # fmt: skip


def written(tmp_path, **columns):
    path = tmp_path / "impressions.parquet"
    pl.DataFrame({**ROWS, **columns}).write_parquet(path)
    return path


def test_rows_become_arrays(tmp_path):
    found = read_impressions(written(tmp_path), IDS)
    assert found.items.tolist() == [0, 1, 1, 2]
    assert found.ranks.tolist() == [0, 1, 0, 1]
    assert found.lists.tolist() == [1, 1, 2, 2]
    assert found.propensity.tolist() == [1.0, 0.5, 1.0, 0.25]


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"item_id": ["a", "b", "?", "c"]}, "no row of the items table in 1 rows, row 3 first"),
        ({"rank": [1, 2, 1, 0]}, "rank is below 1 in 1 rows, row 4 first"),
        ({"propensity": [1.0, 0.0, 1.0, 2.0]}, "not above 0 and at most 1 in 2 rows, row 2 first"),
    ],
)
def test_values_that_cannot_be_are_refused(tmp_path, columns, message):
    path = written(tmp_path, **columns)
    with pytest.raises(InputError, match=message):
        read_impressions(path, IDS)


def test_a_table_without_its_columns_is_refused(tmp_path):
    path = tmp_path / "other.csv"
    pl.DataFrame({"item_id": ["a"]}).write_csv(path)
    with pytest.raises(InputError, match="has no list_id; expected rows with list_id, item_id, rank, clicked"):
        read_impressions(path, IDS)
    with pytest.raises(InputError, match="cannot be read"):
        read_impressions(tmp_path / "none.parquet", IDS)


def test_what_was_shown_is_counted(served, tmp_path):
    ids = served.item_ids
    some = {**ROWS, "item_id": [ids[0], ids[1], ids[1], ids[2]]}
    seen = read_impressions(written(tmp_path, **some), ids)
    found = learn(served.data, ids, seen, ExploreConfig(clicks=1, misses=4))
    rows = found.items.head(4)
    assert rows["shown"].to_list() == [1, 2, 1, 0]
    assert rows["drawn"].to_list() == [0, 1, 1, 0]
    assert rows["clicks"].to_list() == [1, 1, 0, 0]
    assert rows["rate"][3] == 0.2  # the prior alone
    assert found.examination[0] == 1
    assert "never shown" in print_learnt(found)


def test_the_shops_own_lists_tell_how_places_are_looked_at(tmp_path):
    write_shop(tmp_path / "shop", size=200)
    ids = pl.read_parquet(tmp_path / "shop/items.parquet")["item_id"]
    seen = read_impressions(tmp_path / "shop/impressions.parquet", ids)
    planted = np.arange(1, 11) ** -0.8
    found = fit_examination(seen.items, seen.ranks, seen.clicked, 10)
    error = examination_error(seen.items, seen.ranks, seen.clicked, seen.lists, 10)
    assert (np.abs(found - planted)[1:] < 3 * error[1:] + 0.03).all()


def test_the_command_leaves_a_row_for_each_item(journey, tmp_path, capsys):
    config = journey.infer(output=tmp_path)
    run_stage("recommend", config)
    lists = pl.read_parquet(config.folder / "recommendations/part-*.parquet")
    rng = np.random.default_rng(0)
    shown = lists.select(list_id="user_id", item_id="item_id", rank="rank").with_columns(
        clicked=pl.Series(rng.random(len(lists)) < 0.3 / lists["rank"].to_numpy())
    )
    shown.write_parquet(tmp_path / "shown.parquet")
    assert main(["learn", str(config.folder), str(tmp_path / "shown.parquet")]) == 0
    assert "looked at" in capsys.readouterr().out
    learnt = pl.read_parquet(config.folder / "learnt.parquet")
    assert len(learnt) == 60
    assert learnt["shown"].sum() == len(lists)
    assert main(["learn", str(config.folder)]) == 2
