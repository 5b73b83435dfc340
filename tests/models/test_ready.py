"""Sources that are ready-made vectors, in both models: they tell something, missing is learnt, hidden is missing."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from recsys.batch import ItemBatch, PrunerBatch, UserBatch
from recsys.models.checkpoint import load_pruner, load_retriever, save_pruner, save_retriever
from recsys.models.dynamic import DynamicConfig
from recsys.models.history import HistoryEncoderConfig
from recsys.models.pruner import Pruner, PrunerConfig
from recsys.models.ready import ReadyMade, shown_in_turn
from recsys.models.towers import Retriever, RetrieverConfig, Sizes

N, B, K = 9, 3, 5
SIZES = Sizes(items=N, item_category=[3], item_columns=["kind"], user_category=[2], item_vectors=[4, 2])
PRUNER = PrunerConfig(width=8, layers=1, heads=2, history=4, dropout=0.0)


def items(**changes: object) -> ItemBatch:
    draw = torch.Generator().manual_seed(0)
    known = torch.ones(N, 2, dtype=torch.bool)
    known[3, 0] = known[4, 1] = known[5] = False
    batch = ItemBatch(
        index=torch.arange(N), category=torch.arange(N).view(-1, 1, 1) % 4,
        ready_vector=torch.randn(N, 6, generator=draw), ready_known=known,
    )  # fmt: skip
    return replace(batch, **changes)


def without(batch: ItemBatch, column: int) -> ItemBatch:
    known = batch.ready_known.clone()
    known[:, column] = False
    return replace(batch, ready_known=known)


def retriever(sizes: Sizes = SIZES, **changes: object) -> Retriever:
    torch.manual_seed(0)
    config = RetrieverConfig(width=8, id_vector=False, history=HistoryEncoderConfig(layers=1, heads=2), **changes)
    model = Retriever(config, sizes, None).eval()
    for missing in model.items.ready.missing:
        torch.nn.init.normal_(missing)
    return model


def users() -> UserBatch:
    history = torch.arange(B * 4).view(B, 4) % N
    return UserBatch(
        history=history, history_mask=torch.ones(B, 4, dtype=torch.bool), profile=torch.ones(B, 1, 1, dtype=torch.long)
    )  # fmt: skip


def lists(batch: ItemBatch) -> PrunerBatch:
    draw = torch.Generator().manual_seed(1)
    return PrunerBatch(
        users=users(), items=batch, item_vector=torch.randn(N, 3, generator=draw), label=torch.zeros(B, K),
        user_vector=torch.randn(B, 3, generator=draw), retriever_score=torch.zeros(B, K),
        candidate=torch.stack([torch.randperm(N, generator=draw)[:K] for _ in range(B)]),
    )  # fmt: skip


def pruner(sizes: Sizes = SIZES, **changes: object) -> Pruner:
    torch.manual_seed(0)
    model = Pruner(replace(PRUNER, **changes), sizes, None, vector_width=3).eval()
    torch.nn.init.normal_(model.head.weight)
    return model


@torch.no_grad()
def test_a_column_is_normalised_and_projected_and_one_that_is_missing_is_the_learnt_vector() -> None:
    torch.manual_seed(0)
    part = ReadyMade([4, 2], 8, 0.0)
    for missing in part.missing:
        torch.nn.init.normal_(missing)
    batch = items()
    first, second = part(batch.ready_vector, batch.ready_known)
    assert torch.equal(first[3], part.missing[0])
    assert torch.equal(second[4], part.missing[1])
    torch.testing.assert_close(second[0], part.parts[1](batch.ready_vector[0, 4:]))
    other = batch.ready_vector.clone()
    other[3, :4] = 1e9
    assert torch.equal(part(other, batch.ready_known)[0], first)


@torch.no_grad()
@pytest.mark.parametrize("dynamic", [None, DynamicConfig(width=5)])
def test_each_column_changes_an_items_vector_and_a_batch_without_any_is_one_where_all_are_missing(dynamic) -> None:
    model, batch = retriever(dynamic=dynamic), items()
    vectors = model.encode_items(batch)
    for column in (0, 1):
        changed = (model.encode_items(without(batch, column)) - vectors).abs().amax(1) > 1e-4
        assert torch.equal(changed, batch.ready_known[:, column])
    nothing = model.encode_items(without(without(batch, 0), 1))
    torch.testing.assert_close(
        model.encode_items(items(ready_vector=None, ready_known=None)), nothing, rtol=0, atol=1e-6
    )


def test_a_column_is_a_source_of_the_dynamic_representation() -> None:
    model = retriever(dynamic=DynamicConfig(width=5))
    assert model.items.sources == 3
    assert model.dynamic.features.in_features == 3 * 8


def test_vectors_alone_may_describe_an_item() -> None:
    model = retriever(Sizes(items=N, item_vectors=[6]))
    assert not model.text_only
    known = torch.ones(N, 1, dtype=torch.bool)
    vectors = model.encode_items(ItemBatch(index=torch.arange(N), ready_vector=items().ready_vector, ready_known=known))
    assert vectors.shape == (N, 8)


@torch.no_grad()
@pytest.mark.parametrize("fusion", ["sum", "concat", "gated", "attention"])
@pytest.mark.parametrize("matches", [False, True])
def test_each_column_is_a_source_of_the_pruner(fusion: str, matches: bool) -> None:
    model, batch = pruner(fusion=fusion, matches=matches), items()
    for weight in model.joint.fusion.parameters():
        torch.nn.init.normal_(weight, std=0.2)
    plain = model(lists(batch))
    for column in (0, 1):
        assert (model(lists(without(batch, column))) - plain).abs().max() > 1e-4
    nothing = lists(without(without(batch, 0), 1))
    bare = lists(items(ready_vector=None, ready_known=None))
    torch.testing.assert_close(model(nothing), model(bare), rtol=0, atol=1e-6)
    assert {"vectors0", "vectors1"} <= set(model.joint.matches) or not matches


@torch.no_grad()
def test_what_the_pruner_hides_in_training_is_what_a_batch_lacks() -> None:
    model = pruner(hide=1 - 1e-7, matches=True)
    bare = lists(items(ready_vector=None, ready_known=None))
    torch.testing.assert_close(model.train()(lists(items())), model(bare), rtol=0, atol=1e-6)
    model.joint.hide = 0.0
    assert (model(lists(items())) - model(bare)).abs().max() > 1e-4


@pytest.mark.parametrize("given", [True, False])
def test_every_weight_has_a_gradient_whether_vectors_are_there_or_not(given: bool) -> None:
    batch = items() if given else items(ready_vector=None, ready_known=None)
    first, second = retriever(hide=0.4).train(), pruner(hide=0.4, matches=True).train()
    vectors = first.encode_items(batch)
    first.encode_users(users(), vectors).sum().backward()
    second(lists(batch)).sum().backward()
    for model in (first, second):
        lacking = [name for name, weight in model.named_parameters() if weight.requires_grad and weight.grad is None]
        assert lacking == []


@pytest.mark.parametrize("share", [0.1, 0.5])
def test_each_source_is_hidden_from_its_share_and_never_all_that_an_item_has(share: float) -> None:
    torch.manual_seed(0)
    there = torch.rand(40_000, 4) < 0.6
    shown, many = shown_in_turn(there, share), there.sum(1) > 1
    assert not (shown & ~there).any()
    assert torch.equal(shown.any(1), there.any(1))
    assert torch.equal(shown[~many], there[~many])
    for column in range(4):
        rows = there[:, column] & many
        assert float((~shown[rows, column]).float().mean()) == pytest.approx(share, abs=0.01)


@torch.no_grad()
def test_a_tower_hides_vectors_in_training_alone_and_one_source_never() -> None:
    model = retriever(hide=0.5, dropout=0.0)
    plain = model.encode_items(items())
    changed = (model.train().encode_items(items()) - plain).abs().amax(1) > 1e-4
    assert changed.any()
    assert not changed[3:6].any()  # has one of them, or none
    alone = retriever(Sizes(items=N, item_vectors=[6]), hide=0.5)
    assert alone.items.hide == 0


def test_models_are_saved_and_loaded_to_the_bit_and_those_of_before_still_load(tmp_path: Path) -> None:
    first, second = retriever(), pruner(matches=True, fusion="gated")
    save_retriever(first, tmp_path / "retriever")
    save_pruner(second, tmp_path / "pruner")
    assert torch.equal(load_retriever(tmp_path / "retriever").encode_items(items()), first.encode_items(items()))
    assert torch.equal(load_pruner(tmp_path / "pruner")(lists(items())), second(lists(items())))
    sizes = replace(SIZES, item_vectors=[])
    save_pruner(pruner(sizes), tmp_path / "old")
    content = json.loads((tmp_path / "old/config.json").read_text())
    assert content["sizes"].pop("item_vectors") == []
    (tmp_path / "old/config.json").write_text(json.dumps(content))
    assert load_pruner(tmp_path / "old").sizes == sizes
