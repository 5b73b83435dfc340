"""The pruning curve against counting by hand, and what a threshold promises."""

import math

import pytest
import torch
from torch import Tensor

from recsys.metrics.pruning import PruningCurve, least_relevant, pruning_curve, safe_threshold


def drawn(rows: int = 200, levels: int = 12, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Scores with many ties, and labels that follow them a little."""
    generator = torch.Generator().manual_seed(seed)
    score = torch.randint(0, levels, (rows,), generator=generator).double() / levels
    return score, (torch.rand(rows, generator=generator) < 0.1 + 0.4 * score).long()


def plain_shares(score: Tensor, label: Tensor, threshold: float) -> tuple[float, float]:
    kept = dropped = 0
    for value, relevant in zip(score.tolist(), label.tolist(), strict=True):
        kept += relevant > 0 and value >= threshold
        dropped += relevant <= 0 and value < threshold
    return kept / int((label > 0).sum()), dropped / int((label <= 0).sum())


def test_every_point_of_the_curve_is_what_a_plain_count_says() -> None:
    score, label = drawn()
    curve = pruning_curve(score, label)
    assert curve.threshold.tolist() == [*sorted(set(score.tolist())), math.inf]
    points = zip(curve.threshold.tolist(), curve.kept.tolist(), curve.dropped.tolist(), strict=True)
    for threshold, kept, dropped in points:
        assert (kept, dropped) == plain_shares(score, label, threshold)
    assert (curve.kept[0], curve.dropped[0], curve.kept[-1], curve.dropped[-1]) == (1, 0, 0, 1)


@pytest.mark.parametrize("keep", [0.0, 0.31, 0.5, 0.95, 1.0])
def test_what_is_dropped_at_a_share_kept_is_the_best_of_all_thresholds(keep: float) -> None:
    score, label = drawn()
    shares = [plain_shares(score, label, threshold) for threshold in [*score.tolist(), math.inf]]
    assert pruning_curve(score, label).dropped_at(keep) == max(dropped for kept, dropped in shares if kept >= keep)


def test_a_share_that_is_met_exactly_is_met() -> None:
    score, label = torch.arange(40).double(), torch.cat([torch.tensor([1]), torch.zeros(20), torch.ones(19)])
    assert pruning_curve(score, label).dropped_at(0.95) == 1.0  # 19 of 20 stay


def test_equal_scores_go_together_and_order_means_nothing() -> None:
    assert pruning_curve(torch.ones(10), torch.arange(10) % 2).dropped_at(0.9) == 0.0
    score, label = drawn()
    shuffled = torch.randperm(len(score), generator=torch.Generator().manual_seed(1))
    one, other = pruning_curve(score, label), pruning_curve(score[shuffled], label[shuffled])
    assert torch.equal(one.kept, other.kept)
    assert torch.equal(one.dropped, other.dropped)


def test_the_area_is_the_share_of_pairs_in_the_right_order() -> None:
    score, label = drawn(80)
    pairs = [
        float(good > bad) + (0.5 if good == bad else 0)
        for good in score[label > 0].tolist()
        for bad in score[label <= 0].tolist()
    ]
    assert pruning_curve(score, label).area() == pytest.approx(sum(pairs) / len(pairs), abs=1e-12)
    assert pruning_curve(label.double(), label).area() == 1.0


@pytest.mark.parametrize("label", [torch.zeros(3), torch.ones(3), torch.zeros(0)])
def test_without_both_kinds_there_is_nothing_to_tell(label: Tensor) -> None:
    curve: PruningCurve = pruning_curve(torch.rand(len(label)), label)
    assert math.isnan(curve.area())
    assert math.isnan(curve.dropped_at(0.95))


@pytest.mark.parametrize("loss", [0.02, 0.05, 0.3, 0.5, 0.99])
def test_the_safe_threshold_is_the_highest_whose_loss_and_one_more_is_allowed(loss: float) -> None:
    score, label = drawn(500, levels=400)
    relevant = int((label > 0).sum())
    allowed = [
        value
        for value in score[label > 0].tolist()
        if ((score[label > 0] < value).sum().item() + 1) / (relevant + 1) <= loss
    ]
    assert safe_threshold(score, label, loss) == max(allowed)


def test_on_fresh_rows_the_safe_threshold_loses_no_more_than_was_wanted_in_the_mean() -> None:
    generator, lost = torch.Generator().manual_seed(0), []
    for _ in range(2000):
        score = torch.rand(30, generator=generator)
        lost.append(safe_threshold(score, torch.ones(30), 0.1))  # of uniform scores: the share below it
    mean = sum(lost) / len(lost)
    assert mean == pytest.approx(3 / 31, abs=0.004)
    assert mean <= 0.1


@pytest.mark.parametrize("loss", [0.001, 0.05, 0.07, 0.1, 0.3, 0.5, 0.9])
def test_a_loss_needs_so_many_relevant_candidates_and_not_one_less(loss: float) -> None:
    least = least_relevant(loss)
    safe_threshold(torch.rand(least), torch.ones(least), loss)
    with pytest.raises(ValueError, match=f"at least {least}"):
        safe_threshold(torch.rand(least - 1), torch.ones(least - 1), loss)


def test_a_thinned_curve_holds_the_best_points_and_both_ends() -> None:
    score, label = drawn(3000, levels=2000)
    curve = pruning_curve(score, label)
    whole, thin = curve.thinned(10_000), curve.thinned(40)
    assert [curve.dropped_at(keep) for keep in whole.kept.tolist()] == whole.dropped.tolist()
    assert len(set(whole.kept.tolist())) == len(whole.kept) == int((label > 0).sum()) + 1 - ties(score[label > 0])
    assert len(thin.kept) == 40
    assert set(thin.kept.tolist()) <= set(whole.kept.tolist())
    assert (thin.kept[0], thin.kept[-1], thin.dropped[-1]) == (1, 0, 1)


def ties(score: Tensor) -> int:
    return len(score) - len(set(score.tolist()))
