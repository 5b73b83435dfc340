"""A pruner's or a retriever's word on train queries, and a retriever that learns from it."""

import json

import numpy as np
import polars as pl
import pytest

from recsys.cli import main
from recsys.data.requests import answered_queries, query_requests
from recsys.data.split import TRAIN
from recsys.errors import InputError
from recsys.recommend.run import run_stage


@pytest.fixture
def taught(journey, tmp_path):
    return run_stage("teach", journey.infer(output=tmp_path))


def test_every_train_query_has_the_pruners_logits_of_its_candidates(taught, served):
    frame = pl.read_parquet(taught / "part-*.parquet")
    rows = answered_queries(served.data, TRAIN)
    found, logits = served.judge(query_requests(served.data, rows, stage=TRAIN))
    keys, items = served.data.tables.queries["query_id"].gather(rows), served.item_ids
    for row, key in enumerate(keys):
        own = frame.filter(pl.col("query_id") == key)
        assert own["item_id"].to_list() == items.gather(found.items[row]).to_list()
        np.testing.assert_allclose(own["logit"].to_numpy(), logits[row], rtol=1e-4, atol=1e-4)
    assert json.loads((taught / "DONE").read_text()) == {"requests": len(rows), "rows": len(frame)}


def test_a_finished_output_is_left_as_it_is(taught, journey, tmp_path, monkeypatch):
    monkeypatch.setattr("recsys.recommend.cascade.Cascade.judge", pytest.fail)
    assert run_stage("teach", journey.infer(output=tmp_path)) == taught


def test_without_a_pruner_the_retriever_teaches_its_own_logits(journey, served, tmp_path):
    frame = pl.read_parquet(run_stage("teach", journey.infer("--pruner=null", output=tmp_path)) / "part-*.parquet")
    rows = answered_queries(served.data, TRAIN)
    found, _ = served.judge(query_requests(served.data, rows, stage=TRAIN))
    assert frame["item_id"].to_list() == served.item_ids.gather(found.items.ravel()).to_list()
    scale = served.retriever.model.log_scale.exp().item()
    np.testing.assert_allclose(frame["logit"], found.scores.ravel() * scale, rtol=1e-4, atol=1e-4)


def test_what_is_fused_with_words_is_no_teacher(journey, tmp_path):
    with pytest.raises(InputError, match=r"set pruner: RUN, or lexical: null"):
        run_stage("teach", journey.infer("--pruner=null", "--lexical.candidates=20", output=tmp_path))


@pytest.mark.parametrize("kind", ["kl", "margin_mse"])
def test_a_student_comes_nearer_to_its_teacher(taught, journey, tmp_path, kind):
    """Without a word on what is right: with a thousandfold weight the softmax over the batch counts for nothing."""
    config = str(journey.config("retriever"))
    common = [f"--runs={tmp_path}", "--tasks=[query_to_item]", "--optim.epochs=8"]
    teacher = [f"--teacher.logits={taught}", f"--teacher.kind={kind}", "--teacher.weight=1000"]
    distance = {}
    for name, more in (("plain", []), ("student", teacher)):
        assert main(["train", config, f"--name={name}", *common, *more]) == 0
        distance[name] = _distance(journey, tmp_path, name, pl.read_parquet(taught / "part-*.parquet"))
    assert distance["student"] < distance["plain"]


def _distance(journey, tmp_path, name: str, teacher: pl.DataFrame) -> float:
    """Mean over queries of the divergence of the student's softmax over the candidates from the teacher's."""
    from recsys.recommend.cascade import Cascade

    config = journey.infer(f"--retriever={tmp_path}/{name}", "--pruner=null", output=tmp_path)
    student = Cascade.open(config.retriever, None, config.data, 60, config.decision)
    rows = answered_queries(student.data, TRAIN)
    found, _ = student.judge(query_requests(student.data, rows, stage=TRAIN))
    keys, each = student.data.tables.queries["query_id"].gather(rows), []
    scale = float(student.retriever.model.scale)
    for row, key in enumerate(keys):
        scores = dict(zip(student.item_ids.gather(found.items[row]), found.scores[row] * scale, strict=True))
        own = teacher.filter(pl.col("query_id") == key)
        wanted, given = own["logit"].to_numpy(), np.array([scores[item] for item in own["item_id"]])
        log_p, log_q = (values - np.log(np.exp(values).sum()) for values in (wanted, given))
        each.append((np.exp(log_p) * (log_p - log_q)).sum())
    return float(np.mean(each))
