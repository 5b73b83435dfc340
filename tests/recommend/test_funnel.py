"""What each stage hands on, against plain loops over the same lists."""

from dataclasses import replace

import numpy as np
import pytest

from recsys.data.filters import Filters
from recsys.data.requests import seen_items, serving_requests
from recsys.recommend.funnel import Funnel
from recsys.recommend.run import run_stage
from recsys.results import read_results


def everybody(cascade):
    return serving_requests(cascade.data, "valid", np.arange(len(cascade.data.tables.users)))


def test_sizes_ceilings_and_gains_are_those_of_a_plain_loop(served):
    requests = everybody(served)
    funnel, lists = Funnel(served), served.recommend(requests)
    for rows in np.array_split(np.arange(len(requests)), 3):
        funnel.add(served.recommend(requests.take(rows), funnel), requests.take(rows))
    for found, items in zip(funnel.stages(), (lists.candidates, lists.ordered, lists.items), strict=True):
        hits, gains = [], []
        for row, targets in zip(items.tolist(), requests.target_rows, strict=True):  # one target each
            hits.append(targets[0] in row)
            gains.append(1 / np.log2(row.index(targets[0]) + 2) if targets[0] in row[:10] else 0)
        assert found["recall"] == found["ideal_ndcg@10"] == pytest.approx(np.mean(hits))
        assert found["ndcg@10"] == pytest.approx(np.mean(gains))
        assert found["out"] == (items >= 0).sum(1).mean()
        assert found["requests"] == found["answered"] == len(requests)


def test_each_stage_is_given_what_the_one_before_hands_on(served):
    funnel, requests = Funnel(served), everybody(served)
    funnel.add(served.recommend(requests, funnel), requests)
    stages = funnel.stages()
    assert [one["name"] for one in stages] == ["retriever", "pruner", "lists"]
    assert [one["in"] for one in stages] == [60, 20, 20]
    assert sum(one["share"] for one in stages) == pytest.approx(1)
    assert all(one["seconds"] > 0 for one in stages)


def test_the_clock_changes_no_list(served):
    requests = everybody(served)
    timed, plain = served.recommend(requests, Funnel(served)), served.recommend(requests)
    np.testing.assert_array_equal(timed.items, plain.items)
    np.testing.assert_array_equal(timed.scores, plain.scores)


def test_without_an_answer_there_is_nothing_to_tell(served):
    funnel, requests = Funnel(served), serving_requests(served.data, None, np.arange(3))
    funnel.add(served.recommend(requests, funnel), requests)
    assert funnel.stages() == []


def test_a_run_keeps_the_cascade_of_users_and_of_searches(journey, tmp_path):
    for command in ("recommend", "search", "recommend"):  # the last finds its lists finished, and leaves all as it is
        run_stage(command, journey.infer(output=tmp_path))
    found = read_results(tmp_path / "infer")["cascade"]
    assert set(found) == {"valid", "valid_query"}
    lists = {name: rows[-1] for name, rows in found.items()}
    stages = {one["name"]: one["metrics"] for one in read_results(tmp_path / "infer")["stages"]}
    assert lists["valid"]["ndcg@10"] == pytest.approx(stages["pruned lists"]["ndcg@10"])
    assert lists["valid_query"]["ndcg@10"] == pytest.approx(stages["pruned lists, valid_query"]["ndcg@10"])
    assert lists["valid_query"]["answered"] == 20


def test_without_a_pruner_the_funnel_has_two_stages(journey, tmp_path):
    run_stage("recommend", journey.infer("--pruner=null", output=tmp_path))
    assert [one["name"] for one in read_results(tmp_path / "infer")["cascade"]["valid"]] == ["retriever", "lists"]


def test_lists_that_filters_cut_short_are_counted_and_said(served):
    data, requests = served.data, everybody(served)
    none, some = np.zeros(len(data.catalogue), dtype=np.bool_), np.zeros(len(data.tables.users), dtype=np.int64)
    few = np.arange(len(data.catalogue)) < 15
    filters = Filters(
        stock=few, everywhere=~none, regions={}, limit=np.full(len(few), -np.inf), region=some - 1, age=some + np.nan
    )
    limited = replace(served, retriever=replace(served.retriever, data=replace(data, filters=filters)))
    lists, funnel = limited.recommend(requests), Funnel(limited)
    funnel.add(lists, requests)
    left = few.sum() - np.array([few[seen].sum() for seen in seen_items(data, requests)])
    np.testing.assert_array_equal((lists.candidates >= 0).sum(1), left)
    assert funnel.shortage().startswith(
        f"{len(requests)} of {len(requests)} requests have fewer than 20 candidates: no"
    )
    assert funnel.stages()[0]["short"] == len(requests)


def test_without_filters_nothing_is_said_of_short_lists(served):
    funnel, requests = Funnel(served), everybody(served)
    funnel.add(served.recommend(requests), requests)
    assert funnel.shortage() == ""
    assert not any("short" in stage for stage in funnel.stages())
