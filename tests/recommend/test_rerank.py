"""Re-ranking in the cascade and in a run: strength 0 changes no byte, quotas are met, parts are as one."""

import json
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from recsys.data.requests import serving_requests
from recsys.errors import InputError
from recsys.recommend.diversity import CalibrationConfig, DppConfig, MmrConfig, XquadConfig
from recsys.recommend.exposure import ExposureConfig
from recsys.recommend.recommender import Recommender
from recsys.recommend.rerank import (
    RerankConfig,
    Reranker,
    category_mixes,
    completed,
    dealt,
    own_mixes,
    popularity_groups,
    softmax,
)
from recsys.recommend.run import run_stage
from recsys.shards import Parts

ALL_OFF = (
    "--rerank.mmr.strength=0", "--rerank.dpp.strength=0", "--rerank.xquad.strength=0",
    "--rerank.calibration.strength=0", "--rerank.calibration.column=kind",
    "--rerank.order=[calibration, dpp, xquad, mmr]",
)  # fmt: skip
SHARES = "--rerank.exposure.least={torso: 0.4, tail: 0.2}"


def reranker(served, **parts) -> Reranker:
    columns = list(served.config.items.category)
    return Reranker.open(RerankConfig(**parts), served.data, columns, served.item_vectors, served.length)


def everybody(cascade):
    return serving_requests(cascade.data, "valid", np.arange(len(cascade.data.tables.users)))


def part_bytes(folder: Path) -> list[bytes]:
    return [path.read_bytes() for path in sorted(folder.glob("part-*.parquet"))]


def lists(folder: Path) -> pl.DataFrame:
    return Parts.read(folder).frame().collect()


@pytest.mark.parametrize("pruner", [(), ("--pruner=null",)])
def test_all_strengths_at_zero_change_no_byte(journey, tmp_path, pruner):
    plain = run_stage("recommend", journey.infer(*pruner, output=tmp_path / "plain"))
    ways = run_stage("recommend", journey.infer(*pruner, *ALL_OFF, output=tmp_path / "ways"))
    shares = run_stage("recommend", journey.infer(*pruner, "--rerank.exposure.each=0", output=tmp_path / "shares"))
    assert len(part_bytes(plain)) == 3
    assert part_bytes(plain) == part_bytes(ways) == part_bytes(shares)


def test_quotas_are_met_over_all_lists_of_a_run(journey, tmp_path):
    folder = run_stage("recommend", journey.infer(SHARES, output=tmp_path))
    told = json.loads((tmp_path / "infer/exposure.json").read_text())["groups"]
    found = {row["group"]: row for row in told}
    assert found["torso"]["missing"] == found["tail"]["missing"] == 0
    frame = lists(folder)
    assert (frame.group_by("user_id").len()["len"] == 10).all()
    assert frame.filter(pl.col("rank") == 1)["user_id"].n_unique() == 40
    assert found["tail"]["places"] >= 0.2 * len(frame)
    long = lists(tmp_path / "infer/pool")
    assert len(frame.join(long, on=["user_id", "item_id", "score"])) == len(frame)


def test_shards_and_part_sizes_change_no_list_of_a_run_with_quotas(journey, tmp_path):
    whole = lists(run_stage("recommend", journey.infer(SHARES, output=tmp_path / "whole")))
    for shard in ("2/3", "3/3", "1/3"):
        options = (SHARES, f"--shard={shard}", "--part=7")
        folder = run_stage("recommend", journey.infer(*options, output=tmp_path / "shards"))
    assert lists(folder).equals(whole)


def test_a_run_with_quotas_goes_on_from_its_pool(journey, tmp_path):
    folder = run_stage("recommend", journey.infer(SHARES, output=tmp_path))
    before = lists(folder)
    next(iter(folder.glob("part-*.json"))).unlink()
    pool = {path: path.stat().st_mtime_ns for path in (tmp_path / "infer/pool").glob("*.parquet")}
    assert lists(run_stage("recommend", journey.infer(SHARES, output=tmp_path))).equals(before)
    assert pool == {path: path.stat().st_mtime_ns for path in (tmp_path / "infer/pool").glob("*.parquet")}


def test_too_much_is_told_in_one_sentence(journey, tmp_path, capsys):
    run_stage("recommend", journey.infer("--rerank.exposure.least={unseen: 0.9}", output=tmp_path))
    assert "groups lack places, 'unseen'" in capsys.readouterr().err


def test_single_requests_are_answered_by_the_prices_of_the_run(journey, tmp_path):
    run_stage("recommend", journey.infer(SHARES, output=tmp_path))
    shop = Recommender.load(tmp_path / "infer")
    prices = shop.cascade.reranker.prices
    assert prices is not None
    assert (prices > 0).any()
    assert len(shop.recommend(history=["i003"], top=20)) == 10


def test_a_list_holds_the_same_candidates_in_another_order(served):
    ways = {
        "mmr": MmrConfig(strength=0.6), "dpp": DppConfig(strength=0.6),
        "xquad": XquadConfig(strength=0.6, mix="even"), "calibration": CalibrationConfig(strength=0.6, column="kind"),
    }  # fmt: skip
    requests = everybody(served)
    long = served.propose(requests, None)
    for name, config in ways.items():
        lists = served.reranked_by(RerankConfig(**{name: config})).recommend(requests)
        assert lists.items.shape == (len(requests), 10)
        assert (lists.items != long.items[:, :10]).any(), name
        for row, items in enumerate(lists.items.tolist()):
            places = [long.items[row].tolist().index(item) for item in items]
            np.testing.assert_array_equal(lists.scores[row], long.scores[row, places])
            np.testing.assert_array_equal(lists.retriever_scores[row], long.retriever_scores[row, places])


def test_ways_follow_one_another_in_the_order_that_is_said(served):
    parts = {"mmr": MmrConfig(strength=0.5), "xquad": XquadConfig(strength=0.5, mix="even")}
    requests = everybody(served)
    both = [
        served.reranked_by(RerankConfig(**parts, order=order)).recommend(requests).items
        for order in (["mmr", "xquad"], ["xquad", "mmr"])
    ]
    assert (both[0] != both[1]).any()


def test_blocks_of_requests_are_as_one(served, monkeypatch):
    one = reranker(served, dpp=DppConfig(strength=0.3), xquad=XquadConfig(strength=0.3))
    lists = served.propose(everybody(served), None)
    pasts = [np.arange(row % 5) for row in range(len(lists.items))]
    whole = one.order(lists.items, served.chances(lists), pasts)
    monkeypatch.setattr("recsys.recommend.rerank.BLOCK", 1)
    np.testing.assert_array_equal(one.order(lists.items, served.chances(lists), pasts), whole)


def test_an_own_mix_is_the_mean_of_what_was_had(served):
    mixes = category_mixes(served.data, ["kind"], "kind")
    assert mixes.shape == (60, 6)  # five kinds, and none
    np.testing.assert_allclose(mixes.sum(1), 1)
    own = own_mixes(mixes, [np.array([0, 5, 1]), np.zeros(0, dtype=np.int64)])
    assert sorted(own[0].round(3)) == [0, 0, 0, 0, 0.333, 0.667]  # items 0 and 5 are of one kind
    np.testing.assert_allclose(own[1], mixes.mean(0))


def test_the_tail_in_bands_has_equally_many_items_from_the_most_popular_on():
    popularity, segments = np.array([90, 9, 5, 4, 4, 1, 0]), np.array([0, 1, 2, 2, 2, 2, 3])
    names, groups = popularity_groups(popularity, segments, 2)
    assert names == ["head", "torso", "tail, band 1", "unseen", "tail, band 2"]
    assert groups.tolist() == [0, 1, 2, 2, 4, 4, 3]
    assert popularity_groups(popularity, segments, 1) == (["head", "torso", "tail", "unseen"], pytest.approx(segments))


def test_helpers_by_hand():
    items = np.array([[3, 1, -1], [-1, -1, -1]])
    chance = softmax(np.array([[1.0, 0.0, 9.0]] * 2), items, scale=2.0)
    np.testing.assert_allclose(chance, [[1 / (1 + np.exp(-2)), 1 - 1 / (1 + np.exp(-2)), 0], [0, 0, 0]])
    np.testing.assert_allclose(dealt(items, np.array([[0.2, 0.7, 0.9]] * 2)), [[0.7, 0.2, 0], [0, 0, 0]])
    assert completed(np.array([[2, 0]]), 4).tolist() == [[2, 0, 1, 3]]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"order": ["mmr", "ddp"]}, "names 'ddp'. Did you mean 'dpp'"),
        ({"order": ["mmr", "mmr"]}, "expected each name once"),
        ({"mmr": MmrConfig(strength=0.1), "order": ["dpp"]}, "lacks mmr, which is set"),
    ],
)
def test_an_order_that_cannot_be_is_refused(settings, message):
    with pytest.raises(InputError, match=message):
        RerankConfig(**settings)


def test_a_column_that_is_no_category_is_refused(served):
    with pytest.raises(InputError, match=r"names the column 'knd'; data\.items\.category has kind"):
        reranker(served, calibration=CalibrationConfig(strength=0.1, column="knd"))
    exposure = ExposureConfig(by="kind", least={"kind 9": 0.1})
    names = reranker(served, exposure=exposure).names
    with pytest.raises(InputError, match="names 'kind 9'; the groups of kind are none, kind 0"):
        exposure.quotas(names, 100)
