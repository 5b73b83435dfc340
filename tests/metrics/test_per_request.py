"""Each request's values against the means of all, and parts of several processes against the whole."""

import numpy as np
import pytest
import torch
from torch import Tensor

from recsys.metrics.accumulate import RankingMetrics
from recsys.metrics.long_tail import SEGMENTS, popularity_segments
from recsys.metrics.per_request import RequestValues

ITEMS, REQUESTS = 31, 23
POPULARITY = torch.arange(ITEMS).clamp_min(4) - 4


def make_requests(seed: int) -> tuple[Tensor, Tensor, Tensor]:
    """Ranks (some misses), targets and grades 0..2, ragged; some requests have no target."""
    generator = torch.Generator().manual_seed(seed)
    targets = torch.stack([torch.randperm(ITEMS, generator=generator)[:4] for _ in range(REQUESTS)])
    ranks = torch.stack([torch.randperm(ITEMS + 3, generator=generator)[:4].clamp_max(ITEMS) for _ in range(REQUESTS)])
    padding = torch.arange(4) >= torch.randint(0, 5, (REQUESTS, 1), generator=generator)
    grades = torch.randint(0, 3, (REQUESTS, 4), generator=generator).float()
    return ranks.masked_fill(padding, -1), targets.masked_fill(padding, -1), grades


def whole(seed: int) -> RequestValues:
    values = RequestValues(REQUESTS, popularity_segments(POPULARITY))
    values.update(*make_requests(seed))
    return values


@pytest.mark.parametrize("seed", range(5))
def test_the_means_are_those_of_all_requests(seed):
    ranks, targets, grades = make_requests(seed)
    metrics = RankingMetrics(segments=popularity_segments(POPULARITY), popularity=POPULARITY)
    metrics.update(ranks, targets, targets, grades)
    wanted, found = metrics.compute(), whole(seed).compute()
    assert len(found["request"]) == wanted["queries"] < REQUESTS
    for name in ("ndcg@10", "recall@10", "mrr"):
        assert found[name].mean() == pytest.approx(wanted[name], abs=2**-32)


def test_a_request_is_of_the_segment_of_its_best_target_the_first_of_equals():
    segments = torch.tensor([0, 1, 2, 3], dtype=torch.int8)
    values = RequestValues(3, segments)
    values.update(
        torch.tensor([[0, 5, 1], [2, 0, -1], [0, 0, 0]]),
        torch.tensor([[1, 2, 3], [3, 0, -1], [0, 1, 2]]),
        torch.tensor([[1, 2, 2], [1, 1, 9], [0, 0, 0]]),
    )
    found = values.compute()
    assert found["request"].tolist() == [0, 1]
    assert found["target"].tolist() == [2, 3]
    assert found["segment"].tolist() == [SEGMENTS[2], SEGMENTS[3]]


@pytest.mark.parametrize("world", [2, 3, 30])
def test_the_parts_of_several_processes_merge_to_the_whole(world):
    requests = make_requests(1)
    parts = [RequestValues(REQUESTS, popularity_segments(POPULARITY), first=rank, step=world) for rank in range(world)]
    for rank, part in enumerate(parts):
        for rows in torch.arange(REQUESTS)[rank::world].split(4):
            part.update(*(values[rows] for values in requests))
    for part in parts[1:]:
        parts[0].merge_state(part)
    wanted = whole(1).compute()
    for name, column in parts[0].compute().items():
        np.testing.assert_array_equal(column, wanted[name])


def test_a_single_request_is_a_row_like_any_other():
    values = RequestValues(1, popularity_segments(POPULARITY))
    values.update(torch.tensor([[1]]), torch.tensor([[30]]))
    found = values.compute()
    assert found["mrr"].tolist() == [0.5]
    assert {len(column) for column in found.values()} == {1}


def test_without_a_request_every_column_is_empty():
    values = RequestValues(0, popularity_segments(POPULARITY))
    values.update(torch.empty(0, 1).long(), torch.empty(0, 1).long())
    assert {len(column) for column in values.compute().values()} == {0}


def test_reset_starts_with_the_first_request_again():
    values = whole(2)
    values.reset()
    values.update(*make_requests(2))
    np.testing.assert_array_equal(values.compute()["request"], whole(2).compute()["request"])
