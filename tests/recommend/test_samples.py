"""The examples that the report shows."""

import json
from dataclasses import replace

import numpy as np
import polars as pl
import pytest

from recsys.data.requests import serving_requests
from recsys.recommend.samples import HISTORY, write_samples


@pytest.fixture
def users(served, tmp_path) -> list[dict]:
    requests = serving_requests(served.data, "valid", np.arange(40))
    write_samples(tmp_path / "samples.json", served, requests, count=3)
    return json.loads((tmp_path / "samples.json").read_text())["users"]


def test_a_sample_tells_what_was_had_proposed_and_kept(served, users):
    assert len(users) == 3
    for user in users:
        assert 0 < len(user["history"]) <= HISTORY
        assert (len(user["candidates"]), len(user["recommendations"])) == (20, 10)
        assert [item["rank"] for item in user["recommendations"]] == list(range(1, 11))
        assert user["recommendations"][0]["score"] == max(item["score"] for item in user["recommendations"])
        proposed = {item["item_id"] for item in user["candidates"]}
        assert {item["item_id"] for item in user["recommendations"]} <= proposed


def test_a_card_tells_title_details_and_whether_it_was_right(served, users):
    item = users[0]["candidates"][0]
    row = served.data.tables.items.row(by_predicate=pl.col("item_id") == item["item_id"], named=True)
    assert item["title"] == row["title"]
    assert item["detail"].startswith(row["kind"])
    for user in users:
        right = {item["item_id"] for item in user["candidates"] if item["is_target"]}
        assert right <= {user["target"]["item_id"]}


def test_rarely_taken_items_are_marked(served, users):
    counts = dict(zip(served.item_ids, served.data.popularity().tolist(), strict=True))
    marks = {item["item_id"]: item["is_tail"] for user in users for item in user["candidates"]}
    order = sorted(marks, key=lambda item: (-counts[item], item))
    assert [marks[item] for item in order] == sorted(marks[item] for item in order)
    assert set(marks.values()) == {True, False}


def test_profiles_leave_out_what_is_not_known(users):
    assert all(
        set(user["profile"]) <= {"age", "town", "orders", "visits"} and "None" not in user["profile"].values()
        for user in users
    )


def test_a_picture_is_named_by_its_place_below_the_data(served, tmp_path):
    items = served.data.tables.items.with_columns(image=np.array(["a.png"] * 60, dtype=object))
    tables = replace(served.data.tables, items=items)
    config = replace(served.config, root=str(tmp_path), items=replace(served.config.items, image="image"))
    other = replace(served, config=config, retriever=replace(
        served.retriever, data=replace(served.data, tables=tables)))  # fmt: skip
    write_samples(tmp_path / "samples.json", other, serving_requests(served.data, None, np.arange(2)), count=1)
    user = json.loads((tmp_path / "samples.json").read_text())["users"][0]
    assert user["candidates"][0]["image"] == str(tmp_path.resolve() / "a.png")
    assert user["target"] is None


def test_the_same_seed_draws_the_same_users(served, users, tmp_path):
    requests = serving_requests(served.data, "valid", np.arange(40))
    write_samples(tmp_path / "again.json", served, requests, count=3)
    assert json.loads((tmp_path / "again.json").read_text())["users"] == users
