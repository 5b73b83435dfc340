"""A pruner's run from a folder of candidates to a model folder that scores as the trainer did."""

import json
from dataclasses import asdict, replace

import numpy as np
import polars as pl
import pytest
import torch

from recsys.config import TextConfig
from recsys.data.datamodule import LoaderConfig
from recsys.data.datasets import Features, Texts
from recsys.data.lists import CandidateLists
from recsys.data.split import SECOND
from recsys.errors import InputError
from recsys.models.checkpoint import load_pruner
from recsys.models.decision import DecisionConfig
from recsys.models.pruner import PrunerConfig
from recsys.recommend.score import open_pairs, score_candidates
from recsys.results import read_requests, stage_name
from recsys.training.optim import OptimConfig
from recsys.training.pruner_run import PrunerRun, hold_out, train_pruner
from recsys.training.run import TrainerConfig

SMALL = PrunerConfig(width=16, layers=1, heads=2, history=4)
WORDS = TextConfig(model="config:", mode="full", width=16, layers=1, heads=2, max_tokens=24, vocab=200)


def run_of(cascade, tmp_path, model: PrunerConfig = SMALL, **changes) -> PrunerRun:
    values = {
        "task": "pruner", "name": "small", "runs": str(tmp_path / "runs"), "data": cascade.config, "model": model,
        "candidates": str(cascade.candidates), "decision": DecisionConfig(top=3), "calibrate": 0.3,
        "loader": LoaderConfig(batch_size=4), "optim": OptimConfig(epochs=2, lr=1e-2),
        "trainer": TrainerConfig(accelerator="cpu", threads=1), **changes,
    }  # fmt: skip
    return PrunerRun(**values)


def held_out(cascade) -> int:
    return len(hold_out(CandidateLists.read(cascade.candidates, cascade.data).sets["second"], 0.3)[1])


def stages(folder) -> dict[str, dict[str, float]]:
    return {stage["name"]: stage["metrics"] for stage in json.loads((folder / "results.json").read_text())["stages"]}


MODELS = {
    "joint": SMALL,
    "cross-encoder": replace(SMALL, text=WORDS),
    "split": replace(SMALL, text=replace(WORDS, layers=2), split=1),
    "late": replace(SMALL, text=WORDS, late=True, evidence="after"),
}


@pytest.fixture(scope="module", params=MODELS)
def trained(request, cascades, tmp_path_factory):
    """A finished run of each kind of encoder, trained once for several tests."""
    tmp_path = tmp_path_factory.mktemp("run")
    cascade = cascades.make(tmp_path)
    return cascade, train_pruner(run_of(cascade, tmp_path, MODELS[request.param]))


def test_a_run_reports_the_retriever_and_the_pruner_on_the_same_candidates(trained):
    _, folder = trained
    found = stages(folder)
    assert list(found) == ["retriever", "pruner", "retriever, valid_query", "pruner, valid_query"]
    assert found["retriever"]["queries"] == found["pruner"]["queries"] == 12
    assert found["retriever"]["recall@20"] == found["pruner"]["recall@20"]
    assert 0 <= found["pruner"]["ece"] <= 1
    assert "ece" not in found["retriever"]
    assert all(0 <= found[name][measure] <= 1 for name in found for measure in ("dropped@95", "dropped@99"))


def test_what_is_dropped_stands_beside_the_run_without_any_id(trained):
    _, folder = trained
    content = json.loads((folder / "pruning.json").read_text())
    assert list(content) == ["decision", "promises", "sets"]
    for name, one in content["sets"].items():
        suffix = "" if name == "valid" else f", {name}"
        for stage in ("pruner", "retriever"):
            assert one[stage]["dropped@95"] == stages(folder)[f"{stage}{suffix}"]["dropped@95"]
        assert one["ece"] == stages(folder)[f"pruner{suffix}"]["ece"]
        assert sum(one["reliability"]["count"]) == one["relevant"] + one["others"]


def test_a_wanted_loss_becomes_a_probability_of_the_exported_model(cascades, tmp_path):
    cascade = cascades.make(tmp_path, users=60)
    config = run_of(cascade, tmp_path, decision=DecisionConfig(loss=0.11))
    folder = train_pruner(config)
    model = load_pruner(folder / "model")
    assert model.decision.loss == 0.11
    promises = model.meaning["users"].promises
    lists = CandidateLists.read(cascade.candidates, cascade.data)
    _, held = hold_out(lists.sets["second"], config.calibrate)
    assert (promises.lists, promises.relevant) == (len(held), (lists.table(held)[2] > 0).sum())
    decided = json.loads((folder / "pruning.json").read_text())["decision"]["users"]
    assert decided == {**asdict(model.decision), "probability": dict(promises.thresholds)[0.11]}


def test_a_loss_that_the_held_out_lists_cannot_bound_is_refused_before_training(cascade, tmp_path):
    config = run_of(cascade, tmp_path, decision=DecisionConfig(loss=0.001))
    with pytest.raises(InputError, match="needs at least 999 relevant candidates"):
        train_pruner(config)
    assert not config.folder.exists()


@pytest.mark.parametrize("kind", ["temperature", "isotonic"])
def test_other_calibrations_are_exported_and_keep_the_order(cascade, tmp_path, kind):
    model = load_pruner(train_pruner(run_of(cascade, tmp_path, calibration=kind)) / "model")
    for asks, one in ((False, "users"), (True, "queries")):
        calibration = model.meaning[one].calibration
        assert (len(calibration.corners) > 0) == (kind == "isotonic")
        assert calibration.shift == 0.0
        chances = model.probability(np.linspace(-12, 3, 50, dtype=np.float32), np.array(asks))
        assert (np.diff(chances) >= 0).all()


def test_the_values_of_each_request_have_the_means_that_are_reported(trained):
    _, folder = trained
    rows = read_requests(folder)
    found = rows.group_by("stage", "set").agg(pl.len(), pl.col("ndcg@10", "recall@10", "mrr").mean())
    assert len(found) == 4
    for row in found.iter_rows(named=True):
        wanted = stages(folder)[stage_name(row["stage"], row["set"])]
        assert row["len"] == wanted["queries"]
        for name in ("ndcg@10", "recall@10", "mrr"):
            assert row[name] == pytest.approx(wanted[name], abs=2**-32)


def test_the_model_folder_scores_exactly_what_the_trainer_said(trained):
    cascade, folder = trained
    model = load_pruner(folder / "model")
    lists = CandidateLists.read(cascade.candidates, cascade.data)
    rows = lists.sets["valid"]
    item, score, label = lists.table(rows)
    pairs = open_pairs(folder / "model", model, cascade.data, cascade.config)
    features = Features(cascade.data, Texts(), Texts(), max_items=50)
    logits = score_candidates(
        model,
        features,
        lists.requests.take(rows),
        item,
        score,
        lists.item_vectors,
        lists.user_vectors[rows],
        5,
        pairs=pairs,
    )[..., 0]
    order = np.argsort(-logits, axis=1, kind="stable")
    right = np.take_along_axis(label, order, axis=1)[:, :10] > 0
    gain = (right / np.log2(np.arange(2, 12))).sum(1).mean()
    assert stages(folder)["pruner"]["ndcg@10"] == pytest.approx(gain, abs=1e-6)


def test_the_model_folder_knows_its_calibration_and_decision(trained):
    cascade, folder = trained
    content = json.loads((folder / "model/config.json").read_text())
    model = load_pruner(folder / "model")
    assert content["decision"] == {"top": 3, "probability": None, "loss": None}
    meaning = content["meaning"]["users"]
    assert meaning["promises"]["lists"] == held_out(cascade)
    assert (meaning["calibration"]["scale"], meaning["calibration"]["shift"]) != (1.0, 0.0)
    assert {**asdict(model.meaning["users"].calibration), "corners": []} == meaning["calibration"]
    assert (folder / "model/codes.json").is_file()


def test_an_order_that_can_be_learnt_is_learnt(cascades, tmp_path):
    """The right item's vector is the request's own: the retriever's made-up scores do not know it."""
    cascade = cascades.make(tmp_path, users=60, items=30)
    lists = CandidateLists.read(cascade.candidates, cascade.data)
    items = np.array(lists.item_vectors)
    users = np.stack([items[right[0]] for right in lists.requests.target_rows])
    np.save(cascade.candidates / "user_vectors.npy", users)
    config = run_of(cascade, tmp_path, optim=OptimConfig(epochs=12, lr=1e-2), loader=LoaderConfig(batch_size=16))
    found = stages(train_pruner(config))
    assert found["pruner"]["ndcg@10"] > found["retriever"]["ndcg@10"] + 0.1


def test_the_same_run_twice_gives_the_same_weights_and_figures(cascade, tmp_path):
    first, second = (train_pruner(run_of(cascade, tmp_path, name=name)) for name in ("one", "two"))
    assert (first / "model/model.safetensors").read_bytes() == (second / "model/model.safetensors").read_bytes()
    assert (first / "results.json").read_text().split('"seconds"')[0] == (second / "results.json").read_text().split(
        '"seconds"'
    )[0]


def test_what_is_decided_beforehand_is_held_out_whatever_the_share():
    rows, decided = np.arange(300), np.repeat([-1, 0, 1], 100)
    learnt, held = hold_out(rows, 0.1, decided)
    assert set(range(100, 200)) <= set(learnt.tolist())
    assert set(range(200, 300)) <= set(held.tolist())
    assert held[held < 100].tolist() == [row for row in hold_out(rows, 0.1)[1].tolist() if row < 100]
    assert not len(hold_out(rows, 0.0, decided)[1])


def test_evidence_weighed_afterwards_rests_on_queries_that_the_retriever_does_not_know(cascades, tmp_path):
    cascade = cascades.make(tmp_path, second_queries=0.4)
    config = run_of(cascade, tmp_path, replace(SMALL, text=WORDS, evidence="after"))
    model = load_pruner(train_pruner(config) / "model")
    lists = CandidateLists.read(cascade.candidates, cascade.data)
    asked = lists.requests.queries[lists.sets["second"]]
    unknown = (asked >= 0) & (cascade.data.queries.stage[asked] == SECOND)
    assert 0 < unknown.sum() < (asked >= 0).sum()
    decided = np.where(asked >= 0, unknown, -1)
    assert model.meaning["users"].promises.lists == len(hold_out(lists.sets["second"], 0.3, decided)[1])
    assert not torch.equal(model.weights, torch.zeros(2))


def test_late_interaction_learns_from_words_alone():
    with pytest.raises(InputError, match=r"set model\.evidence: after"):
        replace(SMALL, text=WORDS, late=True)
    with pytest.raises(InputError, match="cross-encoder"):
        replace(SMALL, late=True, evidence="after")


def test_evidence_weighed_afterwards_needs_lists_and_texts(cascade, tmp_path):
    with pytest.raises(InputError, match="cross-encoder"):
        replace(SMALL, evidence="after")
    with pytest.raises(InputError, match="calibrate is 0"):
        run_of(cascade, tmp_path, replace(SMALL, text=WORDS, evidence="after"), calibrate=0.0)


def test_layers_that_are_called_one_by_one_are_not_compiled(cascade, tmp_path):
    split = replace(SMALL, text=replace(WORDS, layers=2), split=1)
    with pytest.raises(InputError, match=r"set trainer\.compile: false"):
        run_of(cascade, tmp_path, split, trainer=TrainerConfig(accelerator="cpu", threads=1, compile=True))


def test_lists_are_held_out_by_their_number_and_at_least_one():
    rows = np.arange(5000)
    learnt, held = hold_out(rows, 0.1)
    assert 400 < len(held) < 600
    assert np.array_equal(np.sort(np.concatenate([learnt, held])), rows)
    assert np.isin(hold_out(rows[:1000], 0.1)[1], held).all()
    assert len(hold_out(rows[:3], 1e-9)[1]) == 1
    assert len(hold_out(rows, 0.0)[1]) == 0


def test_without_calibration_probabilities_are_those_of_the_bare_logits(cascade, tmp_path):
    model = load_pruner(train_pruner(run_of(cascade, tmp_path, calibrate=0.0)) / "model")
    found = model.probability(np.array([[0.3]]), np.array([False]))
    np.testing.assert_allclose(found, torch.sigmoid(torch.tensor([[0.3]])), rtol=1e-6)


def test_wrong_candidates_leave_no_run_behind(cascade, tmp_path):
    config = run_of(cascade, tmp_path, candidates=str(tmp_path / "nowhere"))
    with pytest.raises(InputError, match="no folder of candidates"):
        train_pruner(config)
    assert not config.folder.exists()


def test_a_cross_encoder_without_pairs_is_refused(trained):
    cascade, folder = trained
    model = load_pruner(folder / "model")
    if not model.config.reads_pairs:
        assert open_pairs(folder / "model", model, cascade.data, cascade.config) is None
        return
    lists = CandidateLists.read(cascade.candidates, cascade.data)
    item, score, _ = lists.table(np.array([0]))
    features = Features(cascade.data, Texts(), Texts(), max_items=5)
    with pytest.raises(InputError, match="open_pairs"):
        score_candidates(
            model, features, lists.requests.take(np.array([0])), item, score, lists.item_vectors, lists.user_vectors[:1]
        )


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"sampled": 0}, "at least 1"),
        ({"calibrate": 1.0}, "0 to 0.9"),
        ({"calibrate": 0.0, "decision": DecisionConfig(loss=0.1)}, "calibrate is 0"),
    ],
)
def test_impossible_runs_are_refused(cascade, tmp_path, changes, message):
    with pytest.raises(InputError, match=message):
        run_of(cascade, tmp_path, **changes)
