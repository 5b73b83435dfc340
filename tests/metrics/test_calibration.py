"""Calibration error on bins counted by hand, and fits on data made from known numbers."""

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor

from recsys.metrics.calibration import (
    expected_calibration_error,
    fit_isotonic,
    fit_platt,
    fit_temperature,
    reliability,
)


def drawn(scale: float, shift: float, rows: int) -> tuple[Tensor, Tensor]:
    """Logits, and labels drawn with the probability sigmoid(scale * logit + shift)."""
    generator = torch.Generator().manual_seed(0)
    logits = 3 * torch.randn(rows, generator=generator) + 5
    return logits, (torch.rand(rows, generator=generator) < torch.sigmoid(scale * logits + shift)).float()


def test_bins_hold_equal_numbers_of_rows() -> None:
    prob = torch.tensor([0.9, 0.2, 0.1, 0.8])  # bins {0.1, 0.2} and {0.8, 0.9}
    label = torch.tensor([1, 1, 0, 0])
    assert expected_calibration_error(prob, label, bins=2) == pytest.approx((abs(1 - 0.3) + abs(1 - 1.7)) / 4)


def test_a_perfect_forecast_has_no_error_and_a_wrong_one_all() -> None:
    label = torch.tensor([0, 1, 1, 0])
    assert expected_calibration_error(label.float(), label) == 0.0
    assert expected_calibration_error(1 - label.float(), label) == 1.0


def test_the_base_rate_said_of_every_row_is_calibrated() -> None:
    label = torch.cat([torch.ones(30), torch.zeros(70)])
    assert expected_calibration_error(torch.full((100,), 0.3, dtype=torch.float64), label) == pytest.approx(
        0, abs=1e-15
    )


def test_the_order_of_rows_means_nothing_even_with_ties() -> None:
    generator = torch.Generator().manual_seed(1)
    prob = torch.randint(0, 8, (200,), generator=generator).double() / 8
    label = torch.randint(0, 2, (200,), generator=generator)
    shuffled = torch.randperm(200, generator=generator)
    assert expected_calibration_error(prob, label) == expected_calibration_error(prob[shuffled], label[shuffled])


def test_without_rows_there_is_no_error_to_speak_of() -> None:
    assert math.isnan(expected_calibration_error(torch.empty(0), torch.empty(0)))


def test_platt_finds_the_numbers_the_labels_were_drawn_with() -> None:
    scale, shift = fit_platt(*drawn(0.7, -4.0, 50_000))
    assert (scale, shift) == pytest.approx((0.7, -4.0), abs=0.05)


def test_platt_ends_where_the_slope_of_its_loss_is_zero() -> None:
    logits, labels = drawn(1.0, -6.0, 500)
    weights = torch.tensor(fit_platt(logits, labels), dtype=torch.float64, requires_grad=True)
    ones = labels.double().sum()
    target = torch.where(labels > 0, (ones + 1) / (ones + 2), 1 / (len(labels) - ones + 2))
    loss = torch.nn.functional.binary_cross_entropy_with_logits(weights[0] * logits.double() + weights[1], target)
    (gradient,) = torch.autograd.grad(loss, weights)
    assert gradient.abs().max() < 1e-8


def test_platt_lowers_the_calibration_error() -> None:
    logits, labels = drawn(0.3, -3.0, 5_000)
    scale, shift = fit_platt(logits, labels)
    before = expected_calibration_error(torch.sigmoid(logits), labels)
    assert expected_calibration_error(torch.sigmoid(scale * logits + shift), labels) < 0.03 < before


def test_platt_is_finite_when_classes_are_separable_missing_or_scores_equal() -> None:
    logits = torch.tensor([-1000.0, -1.0, 2.0, 1000.0])
    for labels in ([0, 0, 1, 1], [1, 1, 1, 1], [0, 0, 0, 0], [1, 1, 0, 0]):
        assert all(map(math.isfinite, fit_platt(logits, torch.tensor(labels))))
    scale, shift = fit_platt(torch.ones(4), torch.tensor([0, 1, 1, 1]))
    smoothed = (3 * 4 / 5 + 1 / 3) / 4  # mean of the smoothed labels
    assert torch.sigmoid(torch.tensor(scale + shift)).item() == pytest.approx(smoothed, abs=1e-6)


def plain_bins(prob: Tensor, label: Tensor, bins: int) -> list[tuple[float, float, int]]:
    """Mean probability, share of ones and rows of each bin, by a loop."""
    rows = sorted(zip(prob.tolist(), label.tolist(), strict=True))
    values = [value for value, _ in rows]
    found: dict[int, list[tuple[float, float]]] = {}
    for value, one in rows:
        found.setdefault(values.index(value) * bins // len(rows), []).append((value, one))
    return [
        (sum(value for value, _ in own) / len(own), sum(one for _, one in own) / len(own), len(own))
        for own in found.values()
    ]


def test_reliability_is_the_means_of_the_bins_that_make_the_error() -> None:
    generator = torch.Generator().manual_seed(3)
    prob = torch.randint(0, 40, (301,), generator=generator).double() / 40
    label = (torch.rand(301, generator=generator) < prob).double()
    found, wanted = reliability(prob, label, bins=7), plain_bins(prob, label, bins=7)
    assert found.count.tolist() == [count for _, _, count in wanted]
    assert found.predicted.tolist() == pytest.approx([mean for mean, _, _ in wanted])
    assert found.happened.tolist() == pytest.approx([share for _, share, _ in wanted])
    error = sum(abs(mean - share) * count for mean, share, count in wanted) / 301
    assert expected_calibration_error(prob, label, bins=7) == pytest.approx(error)


def test_temperature_finds_the_number_the_labels_were_drawn_with() -> None:
    assert fit_temperature(*drawn(0.4, 0.0, 50_000)) == pytest.approx(0.4, abs=0.02)


def test_temperature_ends_where_the_slope_of_its_loss_is_zero() -> None:
    logits, labels = drawn(0.5, -1.0, 500)
    scale = torch.tensor(fit_temperature(logits, labels), dtype=torch.float64, requires_grad=True)
    ones = labels.double().sum()
    target = torch.where(labels > 0, (ones + 1) / (ones + 2), 1 / (len(labels) - ones + 2))
    loss = torch.nn.functional.binary_cross_entropy_with_logits(scale * logits.double(), target)
    (gradient,) = torch.autograd.grad(loss, scale)
    assert gradient.abs() < 1e-8


def plain_isotonic(labels: list[float]) -> list[float]:
    """The never falling fit to a row of numbers: max over starts of min over ends of the mean (Barlow et al. 1972)."""
    size = range(len(labels))
    return [
        max(min(sum(labels[i : k + 1]) / (k + 1 - i) for k in size if k >= j) for i in size if i <= j) for j in size
    ]


def test_isotonic_is_the_never_falling_fit_by_squares() -> None:
    generator = torch.Generator().manual_seed(4)
    logits = torch.randperm(40, generator=generator).double()
    labels = (torch.rand(40, generator=generator) < logits / 40).double()
    corners, chances = fit_isotonic(logits, labels)
    assert corners == sorted(set(corners))
    assert chances == sorted(chances)
    found = np.interp(logits.sort().values.numpy(), corners, chances)
    np.testing.assert_allclose(found, plain_isotonic(labels[logits.argsort()].tolist()), atol=1e-12)


def test_isotonic_takes_equal_logits_as_one_row_and_pools_what_is_upside_down() -> None:
    assert fit_isotonic(torch.tensor([1.0, 1.0, 2.0]), torch.tensor([1, 0, 1])) == ([1.0, 2.0], [0.5, 1.0])
    assert fit_isotonic(torch.tensor([0.0, 1.0, 1.0]), torch.tensor([0, 0, 1])) == ([0.0, 1.0], [0.0, 0.5])
    assert fit_isotonic(torch.tensor([0.0, 1.0, 2.0]), torch.tensor([1, 0, 0])) == ([0.0, 2.0], [1 / 3, 1 / 3])


def test_isotonic_leaves_no_error_where_it_was_fitted() -> None:
    logits, labels = drawn(0.5, -3.0, 3_000)
    corners, chances = fit_isotonic(logits, labels)
    prob = torch.from_numpy(np.interp(logits.double().numpy(), corners, chances))
    assert float((prob.mean() - labels.mean()).abs()) < 1e-6
    assert expected_calibration_error(prob, labels) < 0.01


@pytest.mark.parametrize("fit", [fit_platt, fit_temperature, fit_isotonic])
def test_nothing_is_fitted_to_no_rows(fit: Callable[[Tensor, Tensor], object]) -> None:
    with pytest.raises(ValueError, match="at least one"):
        fit(torch.empty(0), torch.empty(0))
