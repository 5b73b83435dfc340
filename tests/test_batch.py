from dataclasses import FrozenInstanceError

import pytest
import torch

from recsys.batch import (
    Batch,
    EvaluationBatch,
    ItemBatch,
    PrunerBatch,
    RetrieverBatch,
    TextBatch,
    UserBatch,
    join_texts,
)


def text(rows: int) -> TextBatch:
    return TextBatch(ids=torch.arange(rows * 3).view(rows, 3), mask=torch.ones(rows, 3, dtype=torch.bool))


def users(rows: int) -> UserBatch:
    history = torch.zeros(rows, 4, dtype=torch.int64)
    return UserBatch(history=history, history_mask=history.bool(), query_text=text(2))


def retriever_batch() -> RetrieverBatch:
    none = torch.zeros(0, dtype=torch.int64)
    items = ItemBatch(index=torch.arange(5), text=text(5), number=torch.rand(5, 1))
    return RetrieverBatch(
        items=items, item=torch.arange(5), users=users(2), row=none, step=none, target=none, seen_row=none,
        seen_item=none, seen_step=none,
        tokens=8,
    )  # fmt: skip


def leaves(value: object) -> list[torch.Tensor]:
    if isinstance(value, torch.Tensor):
        return [value]
    return [leaf for part in vars(value).values() for leaf in leaves(part)] if isinstance(value, Batch) else []


def test_moving_a_batch_moves_the_tensors_of_its_parts_too() -> None:
    moved = retriever_batch().to("meta")
    assert leaves(moved)
    assert {leaf.device.type for leaf in leaves(moved)} == {"meta"}


def test_moving_keeps_the_type_the_plain_values_and_what_is_absent() -> None:
    moved = retriever_batch().to("cpu")
    assert isinstance(moved, RetrieverBatch)
    assert (moved.tokens, moved.rows, moved.missed) == (8, 2, None)
    assert moved.items is not None
    assert moved.items.text_vector is None


def test_taking_items_takes_every_field_of_theirs() -> None:
    items = ItemBatch(index=torch.arange(5), text=text(5), category=torch.arange(10).view(5, 2, 1))
    some = items.take(torch.tensor([4, 0, 4]))
    assert some.index.tolist() == [4, 0, 4]
    assert some.category is not None
    assert some.category[:, 0, 0].tolist() == [8, 0, 8]
    assert some.text is not None
    assert some.text.ids[:, 0].tolist() == [12, 0, 12]
    assert some.number is None


def test_taking_texts_pads_them_to_the_longest_of_them() -> None:
    mask = torch.arange(5) < torch.tensor([[2], [5], [3]])
    texts = TextBatch(ids=torch.arange(15).view(3, 5), mask=mask, part=mask.long())
    some = texts.take(torch.tensor([2, 0]))
    assert some.ids.tolist() == [[10, 11, 12], [0, 1, 2]]
    assert some.mask.tolist() == [[True, True, True], [True, True, False]]
    assert some.part is not None
    assert some.part.shape == (2, 3)
    assert texts.take(torch.zeros(0, dtype=torch.int64)).ids.shape == (0, 1)


def test_a_batch_cannot_be_written_into() -> None:
    with pytest.raises(FrozenInstanceError):
        text(1).ids = torch.zeros(1, 3)  # pyright: ignore[reportAttributeAccessIssue]


def test_a_pruner_batch_counts_requests_and_not_candidates() -> None:
    none = torch.zeros(2, 7)
    lists = PrunerBatch(
        users=users(2), items=ItemBatch(index=torch.arange(3)), item_vector=torch.zeros(3, 4),
        user_vector=torch.zeros(2, 4), candidate=none.long(), retriever_score=none, label=none,
    )  # fmt: skip
    assert lists.rows == 2


def test_every_batch_has_what_lightning_and_the_loader_ask_for() -> None:
    for kind in (TextBatch, ItemBatch, UserBatch, RetrieverBatch, EvaluationBatch, PrunerBatch):
        assert callable(kind.to)
        assert callable(kind.pin_memory)


def test_joined_texts_are_those_of_each_batch_in_turn() -> None:
    short = TextBatch(ids=torch.tensor([[7, 8]]), mask=torch.tensor([[True, True]]))
    whole = join_texts([short, text(2), text(0)])
    assert whole.ids.tolist() == [[7, 8, 0], [0, 1, 2], [3, 4, 5]]
    assert whole.mask.tolist() == [[True, True, False], [True] * 3, [True] * 3]
    assert whole.part is None
