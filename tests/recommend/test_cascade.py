"""The cascade: what is kept, in which order, and which models go together."""

from dataclasses import replace

import numpy as np
import pytest

from recsys.config import parse_run
from recsys.data.requests import Requests, seen_items, serving_requests
from recsys.errors import InputError
from recsys.models.decision import DecisionConfig
from recsys.recommend.cascade import Cascade, OpenPruner, prune
from recsys.recommend.run import run_stage
from recsys.training.pruner_run import PrunerRun, train_pruner
from recsys.training.retriever_run import RetrieverRun, train_retriever

ITEMS = np.array([[4, 2, 9, 7], [1, 3, -1, -1]])
SCORES = np.array([[9.0, 8.0, 7.0, 6.0], [5.0, 4.0, -np.inf, -np.inf]], dtype=np.float32)
LOGITS = np.array([[0.0, 2.0, 1.0, 2.0], [0.5, 0.5, -np.inf, -np.inf]], dtype=np.float32)
CHANCES = np.array([[0.1, 0.6, 0.3, 0.6], [0.2, 0.2, -1, -1]])


def everybody(cascade: Cascade) -> Requests:
    return serving_requests(cascade.data, "valid", np.arange(len(cascade.data.tables.users)))


@pytest.mark.parametrize(
    ("top", "least", "wanted"),
    [
        (None, 0.0, [[2, 7, 9, 4], [1, 3, -1, -1]]),
        (3, 0.0, [[2, 7, 9], [1, 3, -1]]),
        (None, 0.25, [[2, 7, 9], [-1, -1, -1]]),
        (None, np.array([[0.4], [0.1]]), [[2, 7], [1, 3]]),  # a user's list and a query's
        (1, 0.2, [[2], [1]]),
        (None, 0.9, [[-1], [-1]]),
    ],
)
def test_candidates_are_ordered_by_the_pruner_and_cut_by_the_decision(top, least, wanted):
    lists = prune(ITEMS, SCORES, LOGITS, CHANCES, top=top, least=least)
    assert lists.items.tolist() == wanted
    assert lists.candidates is ITEMS


def test_every_score_stays_with_its_item():
    lists = prune(ITEMS, SCORES, LOGITS, CHANCES, top=3)
    assert lists.retriever_scores[0].tolist() == [8, 6, 7]
    np.testing.assert_allclose(lists.scores, [[0.6, 0.6, 0.3], [0.2, 0.2, 0]])
    np.testing.assert_array_equal(lists.pruner_scores, lists.scores)


def test_chances_that_are_equal_by_rounding_keep_the_order_of_the_logits():
    logits = np.array([[30.0, 31.0, 32.0]], dtype=np.float32)
    lists = prune(np.array([[5, 6, 7]]), np.zeros((1, 3), np.float32), logits, np.ones((1, 3)), top=2)
    assert lists.items.tolist() == [[7, 6]]


def test_lists_hold_no_seen_item_and_are_never_short(served):
    requests = everybody(served)
    lists = served.recommend(requests)
    assert lists.items.shape == (len(requests), 10)
    assert (lists.items >= 0).all()
    for row, seen in zip(lists.items, seen_items(served.data, requests), strict=True):
        assert not set(row.tolist()) & set(seen.tolist())
        assert len(set(row.tolist())) == len(row)


def test_the_pruner_only_reorders_what_the_retriever_proposed(served):
    lists = served.recommend(everybody(served))
    assert lists.candidates.shape[1] == 20
    for kept, proposed in zip(lists.items, lists.candidates, strict=True):
        assert set(kept.tolist()) <= set(proposed.tolist())
    alone = replace(served, pruner=None).recommend(everybody(served))
    np.testing.assert_array_equal(alone.candidates, lists.candidates)
    np.testing.assert_array_equal(alone.items, lists.candidates[:, :10])


def test_a_list_does_not_depend_on_who_else_is_asked_for(served):
    requests = everybody(served)
    whole = served.recommend(requests)
    few = served.recommend(requests.take(np.array([7, 3])))
    np.testing.assert_array_equal(few.items, whole.items[[7, 3]])
    np.testing.assert_allclose(few.scores, whole.scores[[7, 3]], rtol=1e-4, atol=1e-6)


def test_without_a_decision_the_pruners_own_holds(journey, tmp_path):
    own = parse_run(PrunerRun, [str(journey.config("pruner")), f"--runs={tmp_path}", "--decision.top=3"])
    run = train_pruner(own)
    config = journey.infer(f"--pruner={run}", "--decision.top=null", output=tmp_path)
    cascade = Cascade.open(config.retriever, config.pruner, config.data, config.candidates, config.decision)
    assert cascade.decision["queries"] == DecisionConfig(top=3)


@pytest.mark.parametrize("way", ["probability", "loss"])
def test_a_probability_or_a_loss_without_a_pruner_is_refused(journey, tmp_path, way):
    config = journey.infer("--pruner=null", f"--decision.{way}=0.5", output=tmp_path)
    with pytest.raises(InputError, match=rf"decision\.{way} needs a pruner"):
        run_stage("recommend", config)


def test_a_loss_asked_for_at_inference_is_the_probability_that_the_model_knows_for_it(journey, tmp_path):
    config = journey.infer("--decision.loss=0.3", "--decision.top=null", output=tmp_path)
    cascade = Cascade.open(config.retriever, config.pruner, config.data, config.candidates, config.decision)
    assert cascade.pruner is not None
    chance = dict(cascade.pruner.model.meaning["users"].promises.thresholds)[0.3]
    assert cascade.decision["users"] == DecisionConfig(probability=chance, loss=0.3)
    lists = cascade.recommend(everybody(cascade))
    assert (lists.items < 0).any()
    assert lists.scores[lists.items >= 0].min() >= chance
    with pytest.raises(InputError, match="less than this pruner can promise"):
        run_stage("recommend", journey.infer("--decision.loss=0.001", output=tmp_path))


def test_a_pruner_of_another_retriever_is_refused(journey, served, tmp_path):
    wide = parse_run(RetrieverRun, [str(journey.config("retriever")), f"--runs={tmp_path}", "--model.width=40"])
    config = journey.infer(f"--retriever={train_retriever(wide)}", output=tmp_path)
    with pytest.raises(InputError, match=r"trained beside another retriever.*width 32, here 40"):
        run_stage("recommend", config)


def test_a_cross_encoder_prunes_too(journey, tmp_path):
    text = {**journey.retriever["text"], "max_tokens": 32}
    model = {**journey.pruner, "text": text}
    config = journey.write("pruner", name="pairs", candidates=f"{journey.folder}/runs/infer/candidates", model=model)
    run = train_pruner(parse_run(PrunerRun, [str(config), f"--runs={tmp_path}"]))
    one = journey.infer(f"--pruner={run}", output=tmp_path)
    cascade = Cascade.open(one.retriever, one.pruner, one.data, one.candidates, one.decision)
    assert isinstance(cascade.pruner, OpenPruner)
    assert cascade.pruner.pairs is not None
    lists = cascade.recommend(everybody(cascade).take(np.arange(3)))
    assert (lists.items >= 0).all()
