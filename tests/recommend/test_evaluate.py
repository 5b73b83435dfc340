"""Written lists score what the trainer said, and the baselines what plain loops say."""

from dataclasses import replace

import numpy as np
import polars as pl
import pytest

from recsys.cli import main
from recsys.data.requests import Requests, answered_queries, seen_items, serving_requests, user_requests
from recsys.data.split import VALID
from recsys.recommend.evaluate import evaluate_baselines, evaluate_lists, list_ranks, padded
from recsys.recommend.run import run_stage
from recsys.results import read_requests, read_results, stage_name

LIST_METRICS = ("recall@10", "ndcg@10", "hit_rate@10", "map@10", "coverage@10", "gini@10", "novelty@10", "queries")


def stages(folder) -> dict[str, dict[str, float]]:
    return {stage["name"]: stage["metrics"] for stage in read_results(folder)["stages"]}


def same(one: dict[str, float], other: dict[str, float]) -> bool:
    """Equal to the last digit in all that a list of ten can tell, segments included."""
    names = [*LIST_METRICS, *(name for name in one if name.startswith("recall@10/"))]
    return {name: one[name] for name in names} == {name: other[name] for name in names}


@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
def test_the_retrievers_lists_score_exactly_what_its_trainer_said(journey, tmp_path, precision):
    from recsys.config import parse_run
    from recsys.training.retriever_run import RetrieverRun, train_retriever

    options = [f"--runs={tmp_path}", "--name=trained", f"--trainer.precision={precision}"]
    run = train_retriever(parse_run(RetrieverRun, [str(journey.config("retriever")), *options]))
    run_stage("recommend", journey.infer(f"--retriever={run}", "--pruner=null", output=tmp_path))
    found = stages(tmp_path / "infer")
    assert found["retriever"] == stages(run)["retriever"]
    assert same(found["retrieved lists"], found["retriever"])


def test_lists_of_a_dynamic_representation_score_exactly_what_its_trainer_said(journey, tmp_path):
    options = [f"--runs={tmp_path}", "--name=dynamic", "--model.dynamic.width=8", "--model.dynamic.candidates=12"]
    assert main(["train", str(journey.config("retriever")), *options]) == 0
    for count in ("10", "12"):
        models = [f"--retriever={tmp_path}/dynamic", "--pruner=null", f"--candidates={count}"]
        run_stage("recommend", journey.infer(*models, output=tmp_path / count))
        found = stages(tmp_path / count / "infer")
        assert same(found["retrieved lists"], found["retriever"])


def test_the_pruned_lists_score_exactly_what_the_pruners_trainer_said(journey, tmp_path):
    run_stage("recommend", journey.infer(output=tmp_path))
    found = stages(tmp_path / "infer")
    assert found["pruner"] == stages(journey.folder / "runs/pruner")["pruner"]
    assert same(found["pruned lists"], found["pruner"])


def test_a_list_that_is_the_whole_catalogue_has_the_full_rankings_mrr(journey, tmp_path):
    run_stage("recommend", journey.infer("--pruner=null", "--candidates=60", "--decision.top=null", output=tmp_path))
    found = stages(tmp_path / "infer")
    assert found["retrieved lists"] == pytest.approx({**found["retrieved lists"], "mrr": found["retriever"]["mrr"]})


def test_stages_stand_in_the_order_of_the_journey(journey, tmp_path):
    for _ in range(2):  # a second run replaces them
        run_stage("recommend", journey.infer(output=tmp_path))
        names = list(stages(tmp_path / "infer"))
        assert [name for name in names if "," not in name] == [
            "popularity", "Markov", "retriever", "pruner", "pruned lists",
        ]  # fmt: skip
        assert len(set(names)) == len(names)


def test_the_values_of_each_request_have_the_means_that_are_reported(journey, tmp_path):
    for command in ("recommend", "search"):
        run_stage(command, journey.infer(output=tmp_path))
    found = read_requests(tmp_path / "infer").group_by("stage", "set").agg(pl.col("ndcg@10", "mrr").mean())
    wanted = stages(tmp_path / "infer")
    assert {stage_name(*pair) for pair in found.select("stage", "set").rows()} == set(wanted)
    for stage, group, gain, reciprocal in found.rows():
        figures = wanted[stage_name(stage, group)]
        assert (gain, reciprocal) == pytest.approx((figures["ndcg@10"], figures["mrr"]), abs=2**-32)


def test_a_request_has_the_same_number_in_training_and_in_a_file_of_users(journey, tmp_path):
    run_stage("recommend", journey.infer(output=tmp_path))
    pl.DataFrame({"user_id": ["u007", "u002"]}).write_csv(tmp_path / "users.csv")
    run_stage("recommend", journey.infer(f"--users={tmp_path}/users.csv", "--name=some", output=tmp_path))
    whole, some = (read_requests(tmp_path / name).filter(stage="pruned lists") for name in ("infer", "some"))
    trained = read_requests(journey.folder / "runs/pruner").filter(stage="pruner", set="valid")
    key = ["request", "target", "segment"]
    assert whole.sort("request").select(key).equals(trained.sort("request").select(key))
    assert some["request"].to_list() == [7, 2]
    pairs = some.join(whole, on="request")
    assert (pairs["target"] == pairs["target_right"]).all()


def test_searches_are_judged_by_the_queries_of_the_split(journey, served, tmp_path):
    run_stage("recommend", journey.infer(output=tmp_path))
    before = stages(tmp_path / "infer")
    run_stage("search", journey.infer(output=tmp_path))
    after = stages(tmp_path / "infer")
    judged = answered_queries(served.data, VALID)
    assert 0 < len(judged) < 20
    assert after["pruned lists, valid_query"]["queries"] == len(judged)
    assert {name: after[name] for name in before} == before
    run_stage("recommend", journey.infer(output=tmp_path))
    assert stages(tmp_path / "infer") == after


def test_a_rank_is_the_place_in_the_list_and_a_miss_is_behind_all_items():
    items = np.array([[5, 3, 8], [1, -1, -1]])
    targets = np.array([[8, 4, -1], [1, -1, -1]])
    assert list_ranks(items, targets, 100).tolist() == [[2, 100, -1], [0, -1, -1]]


def test_targets_are_padded_to_the_longest():
    requests = Requests(
        users=np.arange(2), queries=np.full(2, -1), ends=np.zeros(2), moments=np.full(2, -1),
        target_rows=[np.array([4, 7]), np.zeros(0, dtype=np.int64)], grades=[np.array([1.0, 2.0]), np.zeros(0)],
    )  # fmt: skip
    targets, grades = padded(requests)
    assert targets.tolist() == [[4, 7], [-1, -1]]
    assert grades.tolist() == [[1, 2], [0, 0]]


def test_requests_without_an_answer_do_not_count(journey, served, tmp_path):
    users = pl.DataFrame({"user_id": ["u003", "u001"]})
    users.write_csv(tmp_path / "users.csv")
    config = journey.infer(f"--users={tmp_path}/users.csv", "--part=1", output=tmp_path)
    run_stage("recommend", config)
    assert stages(tmp_path / "infer")["pruned lists"]["queries"] == 2


def test_lists_are_read_in_any_order_of_rows(served, tmp_path):
    requests = user_requests(served.data, VALID).take(np.arange(5))
    ids = pl.Series("user_id", ["a", "b", "c", "d", "e"])
    lists = served.recommend(requests)
    rows = [
        (ids[row], rank + 1, served.item_ids[int(item)])
        for row, items in enumerate(lists.items)
        for rank, item in enumerate(items)
    ]
    frame = pl.DataFrame(rows, schema=["user_id", "rank", "item_id"], orient="row")

    class Written:
        def __init__(self, frame: pl.DataFrame, name: str) -> None:
            self.file = tmp_path / name
            frame.write_parquet(self.file)

        def path(self, _: int):
            return self.file

    plain, mixed = Written(frame, "plain"), Written(frame.sample(fraction=1, shuffle=True, seed=1), "mixed")
    wanted = evaluate_lists(served, requests, ids, plain, part=5).metrics
    assert evaluate_lists(served, requests, ids, mixed, part=5).metrics == wanted
    hits = [items.tolist().index(target[0]) if target[0] in items else None for items, target in zip(
        lists.items, requests.target_rows, strict=True)]  # fmt: skip
    assert wanted["recall@10"] == pytest.approx(sum(hit is not None for hit in hits) / 5)


def test_the_baselines_are_ranked_among_unseen_items_alone(served):
    requests = serving_requests(served.data, "valid", np.arange(len(served.data.tables.users)))
    found = evaluate_baselines(served, requests)
    counts = served.data.popularity()
    hits = 0
    for targets, seen in zip(requests.target_rows, seen_items(served.data, requests), strict=True):
        left = [item for item in np.argsort(-counts, kind="stable").tolist() if item not in set(seen.tolist())]
        hits += len(set(left[:10]) & set(targets.tolist()))
    assert found["popularity"].metrics["recall@10"] == pytest.approx(hits / found["popularity"].metrics["queries"])
    assert set(found) == {"popularity", "Markov"}


def test_the_baselines_learn_from_train_rows_alone(served):
    histories = served.data.histories
    hidden = np.where(histories.stage >= VALID, 0, histories.item).astype(np.int32)
    blind = replace(served, retriever=replace(
        served.retriever, data=replace(served.data, histories=replace(histories, item=hidden))))  # fmt: skip
    requests = serving_requests(served.data, "valid", np.arange(len(served.data.tables.users)))
    found, wanted = ({name: one.metrics for name, one in evaluate_baselines(cascade, requests).items()} for cascade in (
        blind, served))  # fmt: skip
    assert found == wanted
