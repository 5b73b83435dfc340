"""What a pruner is given after training, and what is measured of it as a filter."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch

from recsys.data.datasets import Features, Texts
from recsys.data.lists import CandidateLists, list_evaluations
from recsys.errors import InputError
from recsys.metrics.pruning import least_relevant, safe_threshold
from recsys.models.decision import KINDS, DecisionConfig, Meaning, resolve
from recsys.models.pruner import Pruner, PrunerConfig
from recsys.models.towers import Sizes
from recsys.training.pruning import (
    LOSSES,
    Measured,
    Scored,
    check_loss,
    figures,
    fit_calibration,
    fit_weights,
    score_lists,
    settle,
    weigh,
    write_pruning,
)


def drawn(rows: int = 4000, lists: int = 40, searches: int = 0) -> Scored:
    """Logits of which the pruner's say more than the retriever's; the last lists are searches, of which more is right
    than the logits say.
    """
    generator = torch.Generator().manual_seed(0)
    logits = 2 * torch.randn(rows, generator=generator) - 3
    asks = torch.arange(lists).repeat_interleave(rows // lists) >= lists - searches
    relevant = torch.rand(rows, generator=generator) < torch.sigmoid(logits + 2 * asks)
    score = logits + 3 * torch.randn(rows, generator=generator)
    owner = torch.arange(lists).repeat_interleave(rows // lists)
    evidence = torch.stack([score, torch.zeros(rows)], dim=1)
    none = torch.zeros(rows, 0)
    return Scored(
        lists=lists, owner=owner, logits=logits, evidence=evidence, relevant=relevant, asks=asks, others=none,
        came_true=none,
    )  # fmt: skip


def pruner() -> Pruner:
    return Pruner(PrunerConfig(width=8, layers=1, heads=2), Sizes(items=5), None, vector_width=8)


def test_lists_are_scored_candidate_by_candidate_beside_the_retrievers_standardised_score(cascade):
    lists = CandidateLists.read(cascade.candidates, cascade.data)
    features, rows = Features(cascade.data, Texts(), Texts(), max_items=4), lists.sets["valid"]
    torch.manual_seed(0)
    scored = score_lists(pruner().eval(), list_evaluations(features, lists, rows, None, batch_size=5))
    item, score, label = lists.table(rows)
    assert scored.lists == len(rows)
    assert scored.relevant.tolist() == (label[item >= 0] > 0).tolist()
    plain = (score - score.mean(1, keepdims=True)) / score.std(1, keepdims=True)
    assert scored.owner.tolist() == np.nonzero(item >= 0)[0].tolist()
    np.testing.assert_allclose(scored.evidence[:, 0], plain[item >= 0], atol=1e-5)
    np.testing.assert_allclose(scored.evidence[:, 1], np.log1p(np.nonzero(item >= 0)[1]), atol=1e-5)
    np.testing.assert_allclose(scored.logits, scored.evidence[:, 0] - 4, atol=1e-5)  # untrained: evidence and a bias


def test_whoever_watches_sees_the_logits_of_every_batch(cascade):
    lists = CandidateLists.read(cascade.candidates, cascade.data)
    features, rows = Features(cascade.data, Texts(), Texts(), max_items=4), lists.sets["valid"]
    seen: list[torch.Tensor] = []
    batches = list_evaluations(features, lists, rows, None, batch_size=5)
    scored = score_lists(pruner().eval(), batches, lambda logits, batch: seen.append(logits[batch.item >= 0]))
    assert torch.equal(torch.cat(seen), scored.logits)


def test_weights_are_those_of_the_smallest_listwise_loss():
    held = drawn(400, 20)
    columns = torch.cat([held.evidence, held.logits[:, None]], dim=1)
    found = fit_weights(columns, held.relevant, held.owner)

    def loss(weights: torch.Tensor) -> float:
        total, lists = 0.0, 0
        for one in range(20):
            rows = held.owner == one
            if held.relevant[rows].any():
                log_chance = (columns[rows].double() @ weights).log_softmax(0)
                total, lists = total - float(log_chance[held.relevant[rows]].mean()), lists + 1
        return total / lists + 1e-3 * float(weights.square().sum())

    assert found[1] == 0  # a column that tells nothing
    assert found[2] > found[0]
    for step in torch.randn(20, 3, generator=torch.Generator().manual_seed(1), dtype=torch.float64):
        assert loss(found) < loss(found + 0.03 * step)


def test_a_weighed_pruner_scores_the_held_out_lists_as_it_says(cascade):
    lists = CandidateLists.read(cascade.candidates, cascade.data)
    features, rows = Features(cascade.data, Texts(), Texts(), max_items=4), lists.sets["second"]
    model = pruner().eval()
    torch.nn.init.zeros_(model.weights)
    torch.nn.init.normal_(model.head.weight)

    def scored() -> Scored:
        return score_lists(model, list_evaluations(features, lists, rows, None))

    weighed = weigh(model, scored())
    assert not torch.equal(model.weights, torch.zeros(2))
    np.testing.assert_allclose(scored().logits, weighed.logits, atol=1e-4)


@pytest.mark.parametrize("kind", ["platt", "temperature", "isotonic"])
def test_a_settled_pruner_is_calibrated_and_knows_what_each_loss_costs(kind):
    model, held = pruner(), drawn()
    settle(model, held, kind, DecisionConfig(top=7, loss=0.033))
    chances, promises = held.chances(model), model.meaning["users"].promises
    assert Measured.of(model, held).ece < 0.02
    assert promises.lists == 40
    assert model.meaning["queries"] == model.meaning["users"]  # of which there were none
    relevant = int(held.relevant.sum())
    assert [loss for loss, _ in promises.thresholds] == sorted(
        loss for loss in (*LOSSES, 0.033) if least_relevant(loss) <= relevant
    )
    wanted = safe_threshold(chances, held.relevant, 0.033)
    assert model.decision == DecisionConfig(top=7, loss=0.033)
    assert resolve(model.decision, promises).probability == wanted
    assert (chances < wanted)[held.relevant].float().mean() <= 0.033


def test_users_and_queries_have_probabilities_and_thresholds_of_their_own():
    model, held = pruner(), drawn(searches=15)
    settle(model, held, "platt", DecisionConfig(loss=0.1))
    for kind, lists in (("users", 25), ("queries", 15)):
        own, meaning = held.of(kind), model.meaning[kind]
        assert own.lists == meaning.promises.lists == lists
        assert own.owner.unique().tolist() == list(range(lists))
        alone = pruner()
        settle(alone, own, "platt", DecisionConfig(loss=0.1))
        assert alone.meaning[kind] == meaning
        assert Measured.of(model, own).ece < 0.05
        lost = own.chances(model)[own.relevant] < resolve(model.decision, meaning.promises).probability
        assert 0.05 < lost.float().mean() <= 0.1
    both = pruner()
    both.meaning = dict.fromkeys(KINDS, Meaning(calibration=fit_calibration(held.logits, held.relevant)))
    assert Measured.of(both, held.of("queries")).ece > 0.1  # what one calibration for both would do


def test_a_kind_with_few_relevant_candidates_goes_by_the_lists_of_both():
    model, held = pruner(), drawn(searches=15)
    few = replace(held, relevant=held.relevant & (~held.asks | (held.asks.cumsum(0) < 50)))
    assert 0 < int(few.of("queries").relevant.sum()) < 20
    settle(model, few, "platt", DecisionConfig())
    both = fit_calibration(few.logits, few.relevant)
    assert model.meaning["queries"].calibration == both != model.meaning["users"].calibration
    assert model.meaning["queries"].promises.lists == 40


def test_without_lists_held_out_nothing_is_promised():
    model = pruner()
    settle(model, score_lists(model, []), "platt", DecisionConfig(top=3))
    assert set(model.meaning.values()) == {Meaning()}
    assert model.decision == DecisionConfig(top=3)
    with pytest.raises(InputError, match="needs a pruner that knows"):
        settle(model, score_lists(model, []), "platt", DecisionConfig(loss=0.1))


@pytest.mark.parametrize("kind", ["platt", "temperature", "isotonic"])
def test_lists_that_show_the_wrong_order_do_not_turn_it_around(kind):
    logits = torch.linspace(-5, 1, 200)
    calibration = fit_calibration(logits, logits < -4, kind)
    found = calibration.probability(logits.numpy())
    assert (np.diff(found) >= 0).all()
    if kind != "temperature":  # which has nothing to move the mean with
        assert found.mean() == pytest.approx(float((logits < -4).double().mean()), abs=0.01)


def test_a_loss_is_checked_before_training_by_what_is_held_out():
    check_loss(None, 0, 0)
    check_loss(0.05, 19, 0)
    check_loss(0.02, 49, 15)  # so few queries go by both
    with pytest.raises(InputError, match=r"at least 19 relevant candidates in the lists that .* there are 18"):
        check_loss(0.05, 3, 15)
    with pytest.raises(InputError, match=r"at least 49 relevant candidates in the lists of queries .* there are 30"):
        check_loss(0.02, 49, 30)


def test_the_file_tells_both_curves_and_the_figures_of_the_pruner_that_knows_more(tmp_path):
    model, held = pruner(), drawn()
    settle(model, held, "platt", DecisionConfig(loss=0.05))
    one = Measured.of(model, held)
    assert figures(one.pruner)["dropped@95"] > figures(one.retriever)["dropped@95"] > 0
    nothing = Measured.of(
        model, Scored(
            lists=1, owner=torch.zeros(3).long(), logits=torch.ones(3), evidence=torch.ones(3, 2),
            relevant=torch.zeros(3) > 0, asks=torch.ones(3) > 0, others=torch.zeros(3, 0), came_true=torch.zeros(3, 0),
        )
    )  # fmt: skip
    assert figures(nothing.pruner) == {}
    write_pruning(tmp_path, model, {"valid": one, "valid_query": nothing})
    content = json.loads((tmp_path / "pruning.json").read_text(), parse_constant=pytest.fail)
    assert list(content["sets"]) == ["valid"]
    assert content["promises"]["users"]["relevant"] == int(held.relevant.sum())
    assert content["decision"]["users"]["probability"] == dict(model.meaning["users"].promises.thresholds)[0.05]
    curve = content["sets"]["valid"]["pruner"]
    assert len(curve["kept"]) == len(curve["dropped"]) == len(curve["threshold"]) < 300
    assert (curve["kept"][0], curve["area"]) == (1.0, one.pruner.area())
