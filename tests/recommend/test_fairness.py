"""Fairness of a run: its figures are those of its own lists and rows, and small groups are not told."""

import json

import numpy as np
import polars as pl
import pytest

from recsys.recommend.run import run_stage
from recsys.results import read_requests
from recsys.shards import Parts


@pytest.fixture(scope="module")
def run(journey, tmp_path_factory):
    config = journey.infer("--part=16", output=tmp_path_factory.mktemp("fairness"))
    run_stage("recommend", config)
    return config.folder


@pytest.fixture(scope="module")
def told(run):
    return json.loads((run / "results.json").read_text())["fairness"]["valid"]


def test_ndcg_of_a_group_is_the_mean_over_its_users(journey, run, told):
    users = pl.read_parquet(journey.folder / "tables/users.parquet")
    rows = read_requests(run).filter(pl.col("stage") == "pruned lists")
    found = {column["column"]: column["measures"]["ndcg@10"] for column in told["users"]}
    for group in found["age"]["told"]:
        mine = users["age"].to_numpy()[rows["request"].to_numpy()] == group["name"]
        assert group["people"] == mine.sum()
        assert group["value"]["mean"] == pytest.approx(rows["ndcg@10"].to_numpy()[mine].mean())
    values = [group["value"]["mean"] for group in found["age"]["told"]]
    assert found["age"]["gap"]["mean"] == pytest.approx(max(values) - min(values))


def test_groups_of_fewer_than_ten_are_withheld(told):
    towns = {column["column"]: column["measures"]["ndcg@10"] for column in told["users"]}["town"]
    assert towns["withheld"] >= 1  # six users have none
    assert all(group["people"] >= 10 for group in towns["told"])


def test_exposure_is_the_share_of_places(run, told):
    items = told["items"][0]["groups"]
    assert sum(group["exposure"]["mean"] for group in items) == pytest.approx(1)
    assert sum(group["items"] for group in items) == 60
    frame = Parts.read(run / "recommendations").frame().collect()
    assert len(frame) == 400
    assert np.isfinite([group["exposure"]["low"] for group in items]).all()
