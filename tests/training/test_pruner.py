"""The pruner's training step and how it measures the cascade."""

import pytest
import torch

from recsys.data.datasets import Features, Texts
from recsys.data.lists import CandidateLists, list_evaluations
from recsys.losses.ranking import listwise_softmax, pointwise_bce
from recsys.metrics.ranking import ndcg, rank_of_targets
from recsys.models.pruner import Pruner, PrunerConfig
from recsys.models.states import StateCache
from recsys.models.towers import Sizes
from recsys.training.optim import OptimConfig
from recsys.training.pruner import LossMix, PrunerTraining, rank_in_lists, reorder

CONFIG = PrunerConfig(width=16, layers=1, heads=2, history=4, dropout=0.0)


def make(cascade, loss: LossMix | None = None) -> tuple[PrunerTraining, list]:
    data = cascade.data
    lists = CandidateLists.read(cascade.candidates, data)
    batches = list(
        list_evaluations(Features(data, Texts(), Texts(), max_items=4), lists, lists.sets["valid"], None, batch_size=5)
    )
    torch.manual_seed(0)
    sizes = Sizes(items=30, item_category=[4], item_number=1, user_category=[2, 1], context=[2])
    model = Pruner(CONFIG, sizes, None, vector_width=8)
    torch.nn.init.normal_(model.head.weight)
    popularity = torch.from_numpy(data.popularity())
    module = PrunerTraining(
        model.eval(), popularity, valid=["valid"], optim=OptimConfig(), loss=loss or LossMix(), total_steps=10
    )
    module.log = module.log_dict = lambda *args, **kwargs: None
    return module, batches


def test_the_loss_is_the_stated_mixture(cascade):
    module, batches = make(cascade, LossMix(listwise=0.5, pointwise=3.0))
    batch = batches[0].lists
    logits, real = module.model(batch), batch.candidate >= 0
    expected = 0.5 * listwise_softmax(logits, batch.label, real) + 3 * pointwise_bce(logits, batch.label, real)
    torch.testing.assert_close(module.training_step(batch, 0), expected)


def test_lists_are_reordered_by_logit_with_ties_and_padding_in_the_retrievers_order():
    logits = torch.tensor([[1.0, 3.0, 3.0, 1.0, -torch.inf]])
    items = torch.tensor([[9, 4, 2, 7, -1]])
    assert reorder(logits, items).tolist() == [[4, 2, 9, 7, -1]]


def test_a_target_outside_the_list_is_a_miss():
    items = torch.tensor([[4, 2, 9, -1], [1, 5, 6, 7]])
    targets = torch.tensor([[9, 3, -1], [1, 7, 0]])
    assert rank_in_lists(items, targets, 100).tolist() == [[2, 100, -1], [0, 3, 100]]


def test_the_measures_are_those_of_a_full_ranking_in_which_candidates_come_first(cascade):
    module, batches = make(cascade)
    for number, batch in enumerate(batches):
        module.validation_step(batch, number)
    pruner, retriever = (metric.compute() for metric in module.metrics)
    for found, by_logit in ((pruner, True), (retriever, False)):
        values = []
        for batch in batches:
            own = (
                module.model(batch.lists)
                if by_logit
                else -torch.arange(batch.item.shape[1]).expand_as(batch.item).float()
            )
            scores = torch.full((len(batch.item), 30), -torch.inf).scatter(1, batch.item, own)
            values.append(ndcg(rank_of_targets(scores, batch.targets), batch.grades, 10))
        assert found["ndcg@10"] == pytest.approx(torch.cat(values).mean().item(), abs=1e-8)
    assert pruner["ndcg@10"] != retriever["ndcg@10"]
    assert pruner["recall@20"] == retriever["recall@20"]  # the same candidates in another order


def test_states_of_texts_are_those_of_one_validation_whose_weights_rest(cascade, monkeypatch):
    module, batches = make(cascade)
    seen = []
    monkeypatch.setattr(
        module.model, "forward", lambda batch, states: [seen.append(states), torch.zeros(batch.candidate.shape)][1]
    )
    for _ in range(2):
        module.on_validation_epoch_start()
        for number in range(2):
            module.validation_step(batches[number], number)
        module.on_validation_epoch_end()
    assert all(isinstance(one, StateCache) for one in seen)
    assert seen[0] is seen[1] is not seen[2] is seen[3]
    assert module.states is None
