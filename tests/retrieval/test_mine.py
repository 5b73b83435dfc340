"""Hard negatives against a plain sort: the window of ranks, the margin, and that nothing right is among them."""

import json
from copy import copy
from dataclasses import replace
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from recsys.cli import main
from recsys.config import read_part
from recsys.data.mined import MineConfig, read_mined
from recsys.data.requests import answered_queries, query_requests, target_requests
from recsys.data.split import TRAIN, VALID
from recsys.errors import InputError
from recsys.retrieval.embed import OpenRetriever, embed_items, embed_requests
from recsys.retrieval.mine import mine, print_audit, right_items
from recsys.tables import DataConfig


@pytest.fixture(scope="module")
def opened(journey) -> OpenRetriever:
    config = read_part(journey.config("retriever"), "data", DataConfig)
    assert config is not None
    return OpenRetriever.open(journey.folder / "runs/retriever", config)


def rows(folder: Path) -> pl.DataFrame:
    return pl.concat([pl.read_parquet(part) for part in sorted(folder.glob("part-*.parquet"))])


def plain(opened: OpenRetriever, kind: str, config: MineConfig) -> list[tuple[object, str]]:
    """Pairs of ids, by a sort of all items for one request after the other."""
    data, items, found = opened.data, embed_items(opened), []
    if kind == "query":
        requests = query_requests(data, answered_queries(data, TRAIN))
        ids = data.tables.queries["query_id"].gather(requests.queries).to_list()
    else:
        every = target_requests(data, TRAIN)
        requests = every.take(np.array([np.flatnonzero(every.users == user)[-1] for user in np.unique(every.users)]))
        ids = data.tables.users["user_id"].gather(requests.users).to_list()
    names = data.tables.items["item_id"].to_list()
    vectors = np.concatenate(list(embed_requests(opened, items, requests)))
    for number, known in enumerate(right_items(opened, requests)):
        scores = items @ vectors[number]
        order = [item for item in np.argsort(-scores, kind="stable") if item not in set(known.tolist())]
        order = order[: config.last]
        best = max(scores[item] for item in requests.target_rows[number])
        limit = best - config.margin * np.std(scores[order])
        kept = [item for item in order[config.first - 1 :] if scores[item] <= limit]
        found += [(ids[number], names[item]) for item in kept]
    return found


@pytest.mark.parametrize("config", [MineConfig(last=12), MineConfig(first=4, last=9, margin=0.8)])
def test_negatives_are_those_of_a_plain_sort(opened, tmp_path, config):
    mine(opened, tmp_path, config, last_round=None, overwrite=False, part=7)
    for kind in ("query", "user"):
        found = rows(tmp_path / kind)
        assert list(zip(found[f"{kind}_id"], found["item_id"], strict=True)) == plain(opened, kind, config)
        assert found["rank"].is_between(config.first, config.last).all()


def test_nothing_right_is_a_negative_and_the_audit_says_so(opened, tmp_path):
    audits = mine(opened, tmp_path, MineConfig(last=60, margin=0.0), last_round=None, overwrite=False)
    relevance = opened.data.tables.relevance
    wrong = rows(tmp_path / "query").join(relevance, on=["query_id", "item_id"], how="semi")
    assert len(wrong) == 0
    histories, tables = opened.data.histories, opened.data.tables
    train = {
        (tables.users["user_id"][user], tables.items["item_id"][int(item)])
        for user in range(len(tables.users))
        for item, stage in zip(
            histories.item[histories.offsets[user] : histories.offsets[user + 1]],
            histories.stage[histories.offsets[user] : histories.offsets[user + 1]], strict=True,
        )
        if stage == TRAIN
    }  # fmt: skip
    found = rows(tmp_path / "user")
    assert not train & set(zip(found["user_id"], found["item_id"], strict=True))
    for kind, one in audits.items():
        assert (one.right, one.twice) == (0, 0)
        assert one.negatives == len(rows(tmp_path / kind))
        assert json.loads((tmp_path / kind / "audit.json").read_text())["negatives"] == one.negatives
    assert "right after all 0" in print_audit(audits)


def test_a_margin_leaves_out_what_is_too_near(opened, tmp_path):
    near = mine(opened, tmp_path / "near", MineConfig(last=20, margin=0.0), last_round=None, overwrite=False)
    far = mine(opened, tmp_path / "far", MineConfig(last=20, margin=1.0), last_round=None, overwrite=False)
    for kind in ("query", "user"):
        assert far[kind].negatives < near[kind].negatives
        assert far[kind].negatives + far[kind].too_near == near[kind].negatives + near[kind].too_near


def test_the_overlap_with_the_last_round_is_told(opened, tmp_path):
    mine(opened, tmp_path / "one", MineConfig(last=20), last_round=None, overwrite=False)
    same = mine(opened, tmp_path / "two", MineConfig(last=20), last_round=tmp_path / "one", overwrite=False)
    assert {one.overlap for one in same.values()} == {1.0}
    lower = MineConfig(first=11, last=40)
    others = mine(opened, tmp_path / "three", lower, last_round=tmp_path / "one", overwrite=False)
    assert all(one.overlap is not None and 0 < one.overlap < 1 for one in others.values())


def test_mined_negatives_are_read_for_queries_and_users(opened, tmp_path):
    mine(opened, tmp_path, MineConfig(last=20), last_round=None, overwrite=False)
    found = read_mined(tmp_path, 3, opened.data, opened.config)
    assert found.queries is not None
    assert found.users is not None
    assert len(found.queries.item) == len(rows(tmp_path / "query"))
    assert len(found.users.item) == len(rows(tmp_path / "user"))


def test_mining_again_keeps_what_is_there_and_another_window_is_refused(opened, tmp_path):
    mine(opened, tmp_path, MineConfig(last=20), last_round=None, overwrite=False)
    times = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("part-*.parquet")}
    mine(opened, tmp_path, MineConfig(last=20), last_round=None, overwrite=False)
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("part-*.parquet")} == times
    with pytest.raises(InputError, match="other inputs"):
        mine(opened, tmp_path, MineConfig(last=21), last_round=None, overwrite=False)


def test_the_command_mines_and_a_training_takes_it(journey, tmp_path, capsys):
    arguments = [str(journey.config("infer")), f"--runs={tmp_path}", "--mine.last=15"]
    assert main(["infer", "mine", *arguments]) == 0
    assert "right after all 0" in capsys.readouterr().err
    learn = [
        str(journey.config("retriever")), f"--runs={tmp_path}", "--name=again", "--negatives.hard=2",
        f"--negatives.mined={tmp_path}/infer/mined",
    ]  # fmt: skip
    assert main(["train", *learn]) == 0


def test_impossible_windows_are_refused():
    with pytest.raises(InputError, match="first <= last"):
        MineConfig(first=5, last=4)
    with pytest.raises(InputError, match="margin"):
        MineConfig(margin=-1.0)


def test_parts_of_another_size_are_not_gone_on_with(opened, tmp_path):
    mine(opened, tmp_path, MineConfig(last=20), last_round=None, overwrite=False, part=8)
    with pytest.raises(InputError, match="other inputs"):
        mine(opened, tmp_path, MineConfig(last=20), last_round=None, overwrite=False, part=16)


def test_a_last_round_that_is_not_there_is_refused(opened, tmp_path):
    with pytest.raises(InputError, match=r"last_round .*no query/part"):
        mine(opened, tmp_path / "new", MineConfig(last=20), last_round=tmp_path / "nothing", overwrite=False)


def test_items_that_are_held_out_are_no_negatives(opened, tmp_path):
    stage = np.where(np.arange(len(opened.data.catalogue)) % 3 == 0, VALID, TRAIN).astype(np.int8)
    data = replace(opened.data, catalogue=replace(opened.data.catalogue, stage=stage))
    features = copy(opened.features)
    features.data = data
    held = replace(opened, data=data, features=features)
    requests = query_requests(data, answered_queries(data, TRAIN), stage=TRAIN)
    for known in right_items(held, requests):
        assert np.isin(np.flatnonzero(stage == VALID), known).all()
