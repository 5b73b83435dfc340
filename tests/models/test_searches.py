"""Searches that are still open, against walking through each history entry by entry."""

import math

import pytest
import torch

from recsys.batch import UserBatch
from recsys.models.searches import Sought

ITEMS, KINDS, WIDTH = 4, 3, 5


@pytest.fixture
def queries() -> torch.Tensor:
    return torch.randn(3, WIDTH, generator=torch.Generator().manual_seed(0))


def users(history: list[int], event: list[int], query: int | None = None, padding: int = 0) -> UserBatch:
    """One user; entries from ITEMS on are searches."""
    hole = [0] * padding
    mask = torch.tensor([[True] * len(history) + [False] * padding])
    return UserBatch(
        history=torch.tensor([history + hole]), history_mask=mask, event=torch.tensor([event + hole]),
        query=None if query is None else torch.tensor([query]),
    )  # fmt: skip


def walked(one: UserBatch, closing: list[float], queries: torch.Tensor) -> torch.Tensor:
    found, worth = torch.zeros(WIDTH), 1.0
    entries = zip(one.history[0].tolist(), one.history_mask[0].tolist(), one.event[0].tolist(), strict=True)
    for entry, real, kind in reversed(list(entries)):
        if real and entry >= ITEMS:
            found = found + worth * queries[entry - ITEMS]
        elif real:
            worth *= math.exp(-closing[kind])
    return found


@pytest.mark.parametrize("padding", [0, 3])
def test_a_search_counts_by_what_came_after_it(queries, padding):
    one = users([4, 1, 5, 2, 3, 6], [4, 1, 4, 0, 2, 4], padding=padding)
    sought = Sought(KINDS)
    with torch.no_grad():
        sought.closing.copy_(torch.tensor([0.1, -0.2, 0.3]))
    closing = torch.nn.functional.softplus(10 * sought.closing).tolist()
    torch.testing.assert_close(sought(one, ITEMS, queries)[0], walked(one, closing, queries))


def test_searches_in_a_row_add_up_with_the_one_that_is_asked(queries):
    found = Sought(KINDS)(users([1, 4, 5], [0, 4, 4], query=2), ITEMS, queries)
    torch.testing.assert_close(found[0], queries.sum(0))


def test_at_the_start_each_later_event_halves_a_search(queries):
    found = Sought(KINDS)(users([4, 1, 2], [4, 0, 2]), ITEMS, queries)
    torch.testing.assert_close(found[0], queries[0] / 4)


def test_without_any_search_nothing_is_sought_and_every_weight_has_a_gradient():
    sought = Sought(KINDS)
    found = sought(users([], []), ITEMS, None)
    found.sum().backward()
    assert found.tolist() == [[0.0]]
    assert sought.closing.grad is not None
    assert not sought.closing.grad.any()
