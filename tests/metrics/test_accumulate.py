"""The accumulated measures against a brute-force evaluation, and against themselves in another order."""

import math
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from torch import Tensor

from recsys.metrics.accumulate import RankingMetrics
from recsys.metrics.long_tail import SEGMENTS, popularity_segments
from recsys.metrics.ranking import rank_of_targets, top_items

KS = (3, 5, 40)


@dataclass(frozen=True)
class Case:
    """Scores with ties, ragged targets (some rows have none), exclusions, grades 0..3."""

    scores: Tensor  # [B, N]
    targets: Tensor  # [B, P]
    excluded: Tensor  # [B, N]
    grades: Tensor  # [B, P]
    popularity: Tensor  # [N]


def make_case(seed: int, rows: int = 60, items: int = 29, most: int = 5) -> Case:
    generator = torch.Generator().manual_seed(seed)
    targets = torch.stack([torch.randperm(items, generator=generator)[:most] for _ in range(rows)])
    length = torch.randint(0, most + 1, (rows, 1), generator=generator)
    return Case(
        scores=torch.randint(0, 9, (rows, items), generator=generator).float(),
        targets=targets.masked_fill(torch.arange(most) >= length, -1),
        excluded=torch.rand(rows, items, generator=generator) < 0.25,
        grades=torch.randint(0, 4, (rows, most), generator=generator),
        popularity=torch.randint(0, 12, (items,), generator=generator).clamp_min(3) - 3,
    )


def fresh(case: Case, list_k: int = 5) -> RankingMetrics:
    segments = popularity_segments(case.popularity)
    return RankingMetrics(segments=segments, popularity=case.popularity, ks=KS, list_k=list_k)


def add(metrics: RankingMetrics, case: Case, rows: Tensor, padding: int = 0) -> RankingMetrics:
    """Adds some rows of a case as one batch, with superfluous padding."""
    targets = torch.nn.functional.pad(case.targets[rows], (0, padding), value=-1)
    grades = torch.nn.functional.pad(case.grades[rows], (0, padding), value=7)
    ranks = rank_of_targets(case.scores[rows], targets, case.excluded[rows])
    metrics.update(ranks, targets, top_items(case.scores[rows], 5, case.excluded[rows]), grades)
    return metrics


def plain_evaluation(case: Case, list_k: int) -> dict[str, float]:
    """Everything again by sorting and loops."""
    segments = popularity_segments(case.popularity).tolist()
    items = case.scores.shape[1]
    values: dict[str, list[float]] = {}
    shown = np.zeros(items)
    for row in range(len(case.scores)):
        graded = zip(case.targets[row].tolist(), case.grades[row].tolist(), strict=True)
        wanted = {target: 2.0**grade - 1 for target, grade in graded if target >= 0 and grade > 0}
        if not wanted:
            continue
        order = np.argsort(-case.scores[row].numpy(), kind="stable").tolist()
        ranked = [item for item in order if not case.excluded[row, item]]
        hits = [place for place, item in enumerate(ranked) if item in wanted]
        for k in KS:
            values.setdefault(f"recall@{k}", []).append(sum(h < k for h in hits) / len(wanted))
            best = sorted(wanted.values(), reverse=True)[:k]
            dcg = sum(wanted[ranked[h]] / math.log2(h + 2) for h in hits if h < k)
            values.setdefault(f"ndcg@{k}", []).append(dcg / sum(g / math.log2(i + 2) for i, g in enumerate(best)))
        near = [h for h in hits if h < list_k]
        precision = sum((n + 1) / (h + 1) for n, h in enumerate(near)) / min(len(wanted), list_k)
        values.setdefault(f"hit_rate@{list_k}", []).append(float(bool(near)))
        values.setdefault(f"map@{list_k}", []).append(precision)
        values.setdefault("mrr", []).append(1 / (hits[0] + 1) if hits else 0.0)
        precisions = [(number + 1) / (h + 1) for number, h in enumerate(hits)]
        values.setdefault("map", []).append(sum(precisions) / len(wanted))
        for target in wanted:
            name = f"recall@{list_k}/{SEGMENTS[segments[target]]}"
            values.setdefault(name, []).append(float(target in ranked[:list_k]))
        shown[ranked[:list_k]] += 1
    result = {name: sum(each) / len(each) for name, each in values.items()}
    popularity = case.popularity.numpy() + 1
    ascending = np.sort(shown)
    lorenz = sum((2 * i - items - 1) * x for i, x in enumerate(ascending, start=1))
    result[f"coverage@{list_k}"] = float((shown > 0).mean())
    result[f"gini@{list_k}"] = lorenz / (items * shown.sum())
    result[f"novelty@{list_k}"] = float(-(shown * np.log2(popularity / popularity.sum())).sum() / shown.sum())
    result["queries"] = float(len(values["mrr"]))
    return result


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize("list_k", [2, 5])
def test_measures_equal_a_brute_force_evaluation(seed: int, list_k: int) -> None:
    case = make_case(seed)  # with one k beyond the number of items
    got = add(fresh(case, list_k), case, torch.arange(60)).compute()
    assert got == pytest.approx(plain_evaluation(case, list_k), abs=2**-32)


@pytest.mark.parametrize("seed", range(5))
def test_any_order_and_batching_gives_the_same_digits(seed: int) -> None:
    case = make_case(seed)
    whole = add(fresh(case), case, torch.arange(60)).compute()
    shuffled = fresh(case)
    for rows in torch.randperm(60, generator=torch.Generator().manual_seed(seed)).split(7):
        add(shuffled, case, rows, padding=int(rows[0]) % 4)
    assert shuffled.compute() == whole


def test_uneven_parts_merge_to_the_whole_to_the_last_digit() -> None:
    case = make_case(3)
    whole = add(fresh(case), case, torch.arange(60))
    parts = [add(fresh(case), case, rows) for rows in torch.arange(60).split([41, 2, 17])]
    parts.append(fresh(case))  # a process that had no query
    merged = parts[0]
    for part in parts[1:]:
        merged.merge_state(part)
    assert merged.compute() == whole.compute()


def test_states_are_whole_numbers() -> None:
    states = fresh(make_case(0)).metric_state
    assert set(states) == {"histogram", "totals", "exposures", "queries"}
    assert all(isinstance(state, Tensor) and state.dtype == torch.int64 for state in states.values())


def test_without_grades_every_target_counts_the_same() -> None:
    case = make_case(4)
    ranks = rank_of_targets(case.scores, case.targets, case.excluded)
    shown = top_items(case.scores, 5, case.excluded)
    plain, graded = fresh(case), fresh(case)
    plain.update(ranks, case.targets, shown)
    graded.update(ranks, case.targets, shown, torch.ones_like(ranks))
    assert plain.compute() == graded.compute()


def test_a_query_without_a_target_is_ignored_with_its_list() -> None:
    case = make_case(5)
    metrics = fresh(case)
    metrics.update(torch.tensor([[-1], [0]]), torch.tensor([[-1], [4]]), torch.tensor([[1, 2], [4, 3]]))
    assert metrics.exposures.nonzero().flatten().tolist() == [3, 4]
    assert metrics.compute()["queries"] == 1.0


def test_what_has_no_value_is_left_out() -> None:
    popularity = torch.tensor([5, 3, 1, 1, 0])
    metrics = RankingMetrics(segments=popularity_segments(popularity), popularity=popularity)
    metrics.update(torch.empty(2, 0).long(), torch.empty(2, 0).long(), torch.zeros(2, 5).long())
    assert metrics.compute() == {"queries": 0.0}
    metrics.update(torch.tensor([[1]]), torch.tensor([[4]]), torch.full((1, 10), -1))
    result = metrics.compute()
    assert result["recall@10/unseen"] == 1.0
    assert not {"recall@10/head", "recall@10/torso", "recall@10/tail", "coverage@10"} & set(result)
    assert not any(map(math.isnan, result.values()))


def test_a_miss_is_no_hit_even_when_the_list_is_longer_than_the_catalogue() -> None:
    popularity = torch.ones(4, dtype=torch.int64)
    metrics = RankingMetrics(segments=popularity_segments(popularity), popularity=popularity)
    target = torch.tensor([[2]])
    metrics.update(rank_of_targets(torch.zeros(1, 4), target, target == torch.arange(4)), target, target)
    result = metrics.compute()
    assert [result[name] for name in ("recall@100", "ndcg@100", "hit_rate@10", "mrr", "map@10")] == [0.0] * 5
    assert result["recall@10/torso"] == 0.0


def test_reset_forgets_everything() -> None:
    case = make_case(6)
    metrics = add(fresh(case), case, torch.arange(30))
    metrics.reset()
    add(metrics, case, torch.arange(30, 60))
    assert metrics.compute() == add(fresh(case), case, torch.arange(30, 60)).compute()
