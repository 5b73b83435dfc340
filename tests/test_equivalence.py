"""What is computed cleverly against what is computed plainly, across rooms, on a demo shop of sixty items."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from recsys.batch import ItemBatch, RetrieverBatch
from recsys.config import TextConfig
from recsys.data.datasets import NegativesConfig, RetrieverRows
from recsys.data.prepare import Prepared, prepare
from recsys.data.requests import evaluation_batches, user_requests
from recsys.data.sampling import Draw
from recsys.data.sources.shop import write_shop
from recsys.data.split import VALID
from recsys.losses.cached import cut_chunks
from recsys.metrics.accumulate import RankingMetrics
from recsys.metrics.long_tail import popularity_segments
from recsys.metrics.ranking import rank_of_targets, top_items
from recsys.models.dynamic import DynamicConfig
from recsys.models.history import HistoryEncoderConfig
from recsys.models.towers import RetrieverConfig
from recsys.tables.config import DataConfig, HistoryConfig, InteractionsConfig, ItemsConfig, UsersConfig
from recsys.training.optim import OptimConfig
from recsys.training.retriever import CachedConfig, LossConfig, RetrieverTraining, encode_catalogue, score_requests
from recsys.training.retriever_run import RetrieverRun, build

TEXT = TextConfig(model="config:", mode="full", layers=1, width=16, heads=2, max_tokens=12, vocab=300)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> RetrieverRun:
    folder = tmp_path_factory.mktemp("shop")
    write_shop(folder / "tables", size=60)
    data = DataConfig(
        root=str(folder / "tables"), cache=str(folder / "cache"), tables={"queries": "", "relevance": ""},
        items=ItemsConfig(text=["title"], category=["category"]), users=UsersConfig(category=["gender"]),
        interactions=InteractionsConfig(event="event", target_events=["purchase"]), history=HistoryConfig(max_items=8),
    )  # fmt: skip
    model = RetrieverConfig(text=TEXT, width=16, history=HistoryEncoderConfig(layers=1, heads=2))
    return RetrieverRun(task="retriever", name="x", data=data, model=model, negatives=NegativesConfig(kind="batch"))


@pytest.fixture(scope="module")
def data(run: RetrieverRun) -> Prepared:
    return prepare(run.data)


def training_of(run: RetrieverRun, data: Prepared) -> RetrieverTraining:
    torch.manual_seed(0)
    features, model, _ = build(run, data)
    popularity = torch.from_numpy(data.popularity())
    module = RetrieverTraining(
        model, features.catalogue(), popularity, valid=[], optim=OptimConfig(), loss=LossConfig(block=3), total_steps=1
    )
    module.log = lambda *args, **kwargs: None  # pyright: ignore[reportAttributeAccessIssue]
    return module.eval()


def batch_of(run: RetrieverRun, data: Prepared, negatives: NegativesConfig, rows: range) -> RetrieverBatch:
    features, *_ = build(run, data)
    training = RetrieverRows(features, tasks=["next_item"], negatives=negatives, seed=0)
    return training.assemble(Draw(epoch=0, number=0, rows=np.array(rows)))


def plain_loss(module: RetrieverTraining, batch: RetrieverBatch) -> Tensor:
    """Cross-entropy over all items of one target at a time; a user's earlier purchases are looked up one by one."""
    items = module.model.encode_items(module.catalogue if batch.items is None else batch.items)
    users = module.model.encode_users(batch.users, items)
    seen = list(zip(batch.seen_row.tolist(), batch.seen_item.tolist(), batch.seen_step.tolist(), strict=True))
    here = list(range(len(items))) if batch.item is None else batch.item.tolist()
    losses = []
    for row, step, target in zip(batch.row.tolist(), batch.step.tolist(), batch.target.tolist(), strict=True):
        scores = module.model.scale * users[row, step] @ items.T
        if batch.missed is not None and batch.draws is not None:
            scores = scores - (1 - (batch.missed * batch.draws).sum(1).exp()).log().float()
        had = {item for owner, item, since in seen if owner == row and since <= step and item != target}
        allowed = [column for column, item in enumerate(here) if item not in had]
        losses.append(F.cross_entropy(scores[allowed], torch.tensor(allowed.index(here.index(target)))))
    return torch.stack(losses).mean()


@pytest.mark.parametrize("kind", ["all", "batch"])
def test_the_training_loss_is_plain_cross_entropy_in_value_and_gradient(
    run: RetrieverRun, data: Prepared, kind: str
) -> None:
    module, negatives = training_of(run, data), NegativesConfig(kind=kind, random=10)
    batch = batch_of(run, data, negatives, range(6))
    weights = [weight for weight in module.model.parameters() if weight.requires_grad]
    loss, plain = module.training_step(batch, 0), plain_loss(module, batch)
    assert loss.item() == pytest.approx(plain.item(), rel=1e-5)
    found, wanted = torch.autograd.grad(loss, weights), torch.autograd.grad(plain, weights)
    for one, other in zip(found, wanted, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-6)


def dynamic_training(run: RetrieverRun, data: Prepared, config: DynamicConfig) -> RetrieverTraining:
    module = training_of(replace(run, model=replace(run.model, dynamic=config)), data)
    assert module.model.dynamic is not None
    torch.nn.init.normal_(module.model.dynamic.out.weight)
    return module


@pytest.mark.parametrize("kind", ["all", "batch"])
def test_a_dynamic_representation_adds_plain_cross_entropy_over_the_listed_items(
    run: RetrieverRun, data: Prepared, kind: str
) -> None:
    """With longer lists than there are columns, they hold all that a row may be told apart from."""
    module = dynamic_training(run, data, DynamicConfig(width=8, candidates=1000, negatives=1000))
    batch = batch_of(run, data, NegativesConfig(kind=kind, random=10), range(6))
    model, weights = module.model, [weight for weight in module.model.parameters() if weight.requires_grad]

    def plain() -> Tensor:
        states = model.encode_items(module.catalogue if batch.items is None else batch.items)
        users = model.encode_users(batch.users, states)[batch.row, batch.step]
        scores = model.score(users, states.expand(len(users), -1, -1)) * model.scale
        if batch.missed is not None and batch.draws is not None:
            scores = scores - (1 - (batch.missed * batch.draws).sum(1).exp()).log().float()
        here = torch.arange(len(states)) if batch.item is None else batch.item
        for row, (owner, step, target) in enumerate(zip(batch.row, batch.step, batch.target, strict=True)):
            had = batch.seen_item[(batch.seen_row == owner) & (batch.seen_step <= step)]
            lost = torch.isin(here, had) & (here != target)
            scores = scores.index_put((torch.tensor(row), lost.nonzero()[:, 0]), torch.tensor(float("-inf")))
        return F.cross_entropy(scores, torch.searchsorted(here, batch.target))

    loss, wanted = module.training_step(batch, 0), loss_of_plain_vectors(module, batch) + plain()
    assert loss.item() == pytest.approx(wanted.item(), rel=1e-5)
    for one, other in zip(torch.autograd.grad(loss, weights), torch.autograd.grad(wanted, weights), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-5)


def loss_of_plain_vectors(module: RetrieverTraining, batch: RetrieverBatch) -> Tensor:
    """Of a module whose dynamic part is set aside."""
    part, module.model.dynamic = module.model.dynamic, None
    items = module.model.encode_items(module.catalogue if batch.items is None else batch.items)
    users = module.model.encode_users(batch.users, items)[batch.row, batch.step]
    loss = module._loss(users, module._pool(batch, items), batch)
    module.model.dynamic = part
    return loss


def test_a_dynamic_representation_reorders_the_first_and_leaves_the_rest_behind(
    run: RetrieverRun, data: Prepared
) -> None:
    module = dynamic_training(run, data, DynamicConfig(width=8, candidates=7))
    model, (features, *_) = module.model, build(run, data)
    states = encode_catalogue(model, module.catalogue)
    plain = replace(model.config, dynamic=None)
    for batch in evaluation_batches(features, user_requests(data, VALID), batch_size=16):
        scores, seen = score_requests(model, states, batch)
        found, config = top_items(scores, 60, seen), model.config
        model.config = plain
        first = top_items(score_requests(model, states, batch)[0], 60, seen)
        model.config = config
        with torch.no_grad():
            users = model.encode_users(batch.users, states)[torch.arange(len(batch.step)), batch.step]
            judged = model.score(users, states[first[:, :7]])
        wanted = first[:, :7].gather(1, judged.argsort(dim=1, descending=True))
        assert torch.equal(found[:, :7], wanted)
        assert torch.equal(found[:, 7:], first[:, 7:])


def test_a_batch_that_holds_every_item_is_the_whole_catalogue(run: RetrieverRun, data: Prepared) -> None:
    module = training_of(run, data)
    whole = batch_of(run, data, NegativesConfig(kind="all"), range(6))
    named = replace(whole, items=module.catalogue, item=torch.arange(len(data.catalogue)))
    assert module.training_step(named, 0).item() == module.training_step(whole, 0).item()


@pytest.mark.parametrize("limits", [{"rows": 3, "tokens": None}, {"rows": None, "tokens": 40}, {"tokens": 8192}])
@pytest.mark.parametrize("dropout", [False, True])
def test_a_cached_loss_has_the_gradients_of_the_plain_one(
    run: RetrieverRun, data: Prepared, limits: dict, dropout: bool
) -> None:
    """With dropout it is compared with itself, encoded in the same chunks with the activations kept."""
    module = training_of(run, data).train(dropout)
    batch = batch_of(run, data, NegativesConfig(kind="batch", random=10), range(6))
    weights = [weight for weight in module.model.parameters() if weight.requires_grad]
    config = CachedConfig(**limits)
    torch.manual_seed(1)
    module.loss = replace(module.loss, cached=config)
    loss = module.training_step(batch, 0)
    loss.backward()
    assert all(weight.grad is None for weight in module.model.text.parameters())
    assert module.cached is not None
    module.cached.backward()
    module.loss = replace(module.loss, cached=None)
    found = [weight.grad.clone() for weight in weights]
    torch.manual_seed(1)
    texts, encoder = batch.items.text, module.model.text
    order = cut_chunks(texts.mask.sum(1), rows=config.rows, tokens=config.tokens)
    vectors = torch.cat([encoder(texts.take(rows)) for rows in order])[torch.cat(order).argsort()]
    kept = replace(batch, items=replace(batch.items, text=None, text_vector=vectors)) if dropout else batch
    plain = module.training_step(kept, 0)
    assert loss.item() == pytest.approx(plain.item(), rel=1e-5)
    for one, other in zip(found, torch.autograd.grad(plain, weights), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-6)


def test_validation_does_not_depend_on_how_requests_are_batched(run: RetrieverRun, data: Prepared) -> None:
    module = training_of(run, data)
    features, *_ = build(run, data)
    vectors, requests = encode_catalogue(module.model, module.catalogue), user_requests(data, VALID)
    found = []
    for size, parts in ((128, 1), (7, 1), (5, 3)):
        metric = RankingMetrics(
            segments=popularity_segments(torch.from_numpy(data.popularity())),
            popularity=torch.from_numpy(data.popularity()),
        )
        for part in range(parts):
            for batch in evaluation_batches(features, requests, batch_size=size, part=part, parts=parts):
                scores, seen = score_requests(module.model, vectors, batch)
                scores = scores.double().round(decimals=4)  # a last bit may differ between batch sizes
                ranks = rank_of_targets(scores, batch.targets, seen)
                metric.update(ranks, batch.targets, top_items(scores, 10, seen), batch.grades)
        found.append(metric.compute())
    assert found[0] == found[1] == found[2]


def test_a_catalogue_in_blocks_has_the_vectors_of_single_items(run: RetrieverRun, data: Prepared) -> None:
    module = training_of(run, data)
    blocks = encode_catalogue(module.model, module.catalogue, block=7)
    with torch.no_grad():
        single = torch.cat([module.model.encode_items(module.catalogue.take(torch.tensor([row]))) for row in range(9)])
    torch.testing.assert_close(blocks[:9], single, rtol=1e-4, atol=1e-5)


def test_cached_vectors_of_a_frozen_encoder_are_the_encoders_own(
    run: RetrieverRun, data: Prepared, tmp_path: Path
) -> None:
    _, model, tokenizer = build(run, data)
    assert model.text is not None
    assert tokenizer is not None
    model.text.save(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    text = TextConfig(model=str(tmp_path), mode="frozen", max_tokens=12)
    frozen, *_ = build(replace(run, model=replace(run.model, text=text)), data)
    tokens = build(run, data)[0].items(np.arange(8)).text
    cached: ItemBatch = frozen.items(np.arange(8))
    assert cached.text is None
    assert cached.text_vector is not None
    assert tokens is not None
    with torch.no_grad():
        torch.testing.assert_close(cached.text_vector, model.text.eval()(tokens), rtol=1e-4, atol=1e-5)
