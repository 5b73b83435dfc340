"""Ranks and measures against a plain sort and plain loops."""

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from recsys.metrics import ranking
from recsys.metrics.ranking import average_precision, hit_rate, mrr, ndcg, rank_of_targets, recall, top_items

PAD = -1


def plain_list(scores: Tensor, excluded: Tensor) -> list[int]:
    """The full list of one query: a stable sort of what is allowed."""
    order = np.argsort(-scores.numpy(), kind="stable").tolist()
    return [item for item in order if not excluded[item] and scores[item] > -math.inf]


def random_case(seed: int) -> tuple[Tensor, Tensor, Tensor]:
    """Scores with many ties, ragged targets, and random exclusions, some of them of targets."""
    generator = torch.Generator().manual_seed(seed)
    rows, items, most = 7, 23, 6
    scores = torch.randint(0, 5, (rows, items), generator=generator).float()
    excluded = torch.rand(rows, items, generator=generator) < 0.3
    targets = torch.stack([torch.randperm(items, generator=generator)[:most] for _ in range(rows)])
    length = torch.randint(0, most + 1, (rows, 1), generator=generator)
    return scores, targets.masked_fill(torch.arange(most) >= length, PAD), excluded


@pytest.mark.parametrize("seed", range(20))
def test_ranks_are_places_in_a_stable_sort(seed: int) -> None:
    scores, targets, excluded = random_case(seed)
    ranks = rank_of_targets(scores, targets, excluded)
    for row in range(len(scores)):
        places = {item: place for place, item in enumerate(plain_list(scores[row], excluded[row]))}
        wanted = [PAD if t == PAD else places.get(t, scores.shape[1]) for t in targets[row].tolist()]
        assert ranks[row].tolist() == wanted


def test_ranks_do_not_depend_on_the_width_of_a_block(monkeypatch: pytest.MonkeyPatch) -> None:
    generator = torch.Generator().manual_seed(0)
    scores = torch.randint(0, 50, (3, 1500), generator=generator).float()
    targets = torch.randint(0, 1500, (3, 2), generator=generator)
    whole = rank_of_targets(scores, targets)
    monkeypatch.setattr(ranking, "_BLOCK", 1)
    assert torch.equal(rank_of_targets(scores, targets), whole)


def test_equal_scores_are_ranked_by_index() -> None:
    assert rank_of_targets(torch.zeros(1, 4), torch.tensor([[0, 3]])).tolist() == [[0, 3]]


def test_an_excluded_target_is_a_miss_and_an_excluded_item_is_never_ahead() -> None:
    scores = torch.tensor([[3.0, 2.0, 1.0]])
    excluded = torch.tensor([[True, False, False]])
    assert rank_of_targets(scores, torch.tensor([[0, 1, 2, PAD]]), excluded).tolist() == [[3, 0, 1, -1]]


def test_an_item_without_a_score_is_not_in_the_list() -> None:
    scores = torch.tensor([[-math.inf, math.nan, 1.0, math.inf]])
    assert rank_of_targets(scores, torch.tensor([[0, 1, 2, 3]])).tolist() == [[4, 4, 1, 0]]
    assert top_items(scores, 4).tolist() == [[3, 2, -1, -1]]


def test_no_targets_give_no_ranks() -> None:
    assert rank_of_targets(torch.zeros(2, 5), torch.empty(2, 0, dtype=torch.int64)).shape == (2, 0)
    assert rank_of_targets(torch.zeros(0, 5), torch.empty(0, 3, dtype=torch.int64)).shape == (0, 3)


@pytest.mark.parametrize("seed", range(20))
@pytest.mark.parametrize("k", [1, 10, 40])
def test_top_items_are_the_head_of_a_stable_sort(seed: int, k: int) -> None:
    scores, _, excluded = random_case(seed)
    shown = top_items(scores, k, excluded)
    width = min(k, scores.shape[1])
    for row in range(len(scores)):
        best = plain_list(scores[row], excluded[row])[:width]
        assert shown[row].tolist() == best + [PAD] * (width - len(best))


def plain_measures(ranks: list[int], grades: list[float], k: int) -> dict[str, float]:
    """All measures of one query with at least one target, by their definitions."""
    found = sorted(r for r in ranks if r < k)
    gain = {r: 2.0**g - 1 for r, g in zip(ranks, grades, strict=True) if r < k}
    ideal = sorted((2.0**g - 1 for g in grades), reverse=True)[:k]
    return {
        "recall": len(found) / len(ranks),
        "hit_rate": float(bool(found)),
        "mrr": 1 / (found[0] + 1) if found else 0.0,
        "map": sum((n + 1) / (r + 1) for n, r in enumerate(found)) / min(len(ranks), k),
        "ndcg": sum(g / math.log2(r + 2) for r, g in gain.items())
        / sum(g / math.log2(r + 2) for r, g in enumerate(ideal)),
    }


@pytest.mark.parametrize("k", [1, 3, 10, 23])
def test_measures_follow_their_definitions(k: int) -> None:
    scores, targets, excluded = random_case(1)
    ranks = rank_of_targets(scores, targets, excluded)
    grades = torch.randint(1, 5, ranks.shape, generator=torch.Generator().manual_seed(1))
    got = {
        "recall": recall(ranks, k),
        "hit_rate": hit_rate(ranks, k),
        "mrr": mrr(ranks, k),
        "map": average_precision(ranks, k),
        "ndcg": ndcg(ranks, grades, k),
    }
    for row, real in enumerate(ranks >= 0):
        if real.any():
            wanted = plain_measures(ranks[row][real].tolist(), grades[row][real].tolist(), k)
            assert {name: float(value[row]) for name, value in got.items()} == pytest.approx(wanted, abs=1e-14)


def test_a_query_without_a_target_has_no_value() -> None:
    for ranks in (torch.full((1, 2), PAD), torch.empty(1, 0, dtype=torch.int64)):
        for measure in (recall, hit_rate, mrr, average_precision):
            assert measure(ranks, 10).isnan().all()
        assert ndcg(ranks, None, 10).isnan().all()


def test_the_best_list_scores_one_also_with_more_targets_than_places() -> None:
    ranks = torch.tensor([[2, 0, 1, 3]])
    assert ndcg(ranks, None, 2).item() == average_precision(ranks, 2).item() == 1.0
    assert recall(ranks, 2).item() == 0.5


def test_ndcg_compares_with_all_targets_and_not_only_those_found() -> None:
    ranks, miss = torch.tensor([[0, 500]]), 1 / math.log2(3)
    assert ndcg(ranks, None, 10).item() == pytest.approx(1 / (1 + miss))


def test_a_grade_of_zero_has_no_gain() -> None:
    ranks = torch.tensor([[0, 1]])
    assert ndcg(ranks, torch.tensor([[0, 2]]), 10).item() == pytest.approx(1 / math.log2(3))
    assert ndcg(ranks, torch.tensor([[0, 0]]), 10).isnan().all()


def test_padding_and_order_of_targets_change_no_digit() -> None:
    generator = torch.Generator().manual_seed(2)
    ranks = torch.stack([torch.randperm(300, generator=generator)[:60] for _ in range(50)])
    padded = torch.cat([ranks.flip(1), torch.full((50, 37), PAD)], dim=1)
    for measure in (recall, hit_rate, mrr, average_precision):
        assert torch.equal(measure(ranks, 100), measure(padded, 100))
    assert torch.equal(ndcg(ranks, None, 100), ndcg(padded, None, 100))
