"""Do the probabilities mean what they say, and three ways to make a score mean it: Platt, temperature, isotonic."""

from dataclasses import dataclass
from typing import NamedTuple, cast

import torch
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits

_STEPS = 100
_RIDGE = 1e-12  # keeps the Hessian invertible when all scores are equal


@dataclass(frozen=True, kw_only=True)
class Reliability:
    """Bins of rows with neighbouring probabilities, rising; only bins that hold a row."""

    predicted: Tensor  # [bins] float64, mean probability
    happened: Tensor  # [bins] float64, share of rows with label 1
    count: Tensor  # [bins] int64, rows


def reliability(prob: Tensor, label: Tensor, bins: int = 15) -> Reliability:
    """What was predicted beside what happened, in bins of equal *mass* (about n / bins rows each).

    Equal mass, not equal width: pruners mostly give small probabilities, which equal widths would put into one bin.
    Rows of equal probability stay in one bin (that of the first), so the order of rows means nothing and a constant
    prediction is one bin.

    Args:
        prob: [n] in 0..1.
        label: [n] 0 or 1.
        bins: how many bins at most.
    """
    rows = max(prob.numel(), 1)
    ordered, order = prob.double().sort(stable=True)
    place = torch.searchsorted(ordered, ordered) * bins // rows  # by the first row with this probability
    count = torch.bincount(place, minlength=bins)
    sums = [ordered.new_zeros(bins).index_add(0, place, values) for values in (ordered, label[order].double())]
    predicted, happened = (total[count > 0] / count[count > 0] for total in sums)
    return Reliability(predicted=predicted, happened=happened, count=count[count > 0])


def expected_calibration_error(prob: Tensor, label: Tensor, bins: int = 15) -> float:
    """Mean gap between what was predicted and what happened, over the bins of `reliability`, by their rows.

    Returns:
        0..1, 0 is perfect; NaN for n = 0.
    """
    found = reliability(prob, label, bins)
    gap = (found.happened - found.predicted).abs() * found.count
    return float(gap.sum()) / prob.numel() if prob.numel() else float("nan")


def fit_platt(logits: Tensor, labels: Tensor) -> tuple[float, float]:
    """The (scale, shift) for which sigmoid(scale * logit + shift) is the most likely probability of the labels.

    Platt 1999, by Newton steps with halving (Lin, Lin and Weng 2007), in float64 and without chance. The labels are
    smoothed as there, to (n1 + 1) / (n1 + 2) and 1 / (n0 + 2), so that the answer is finite even when the two classes
    are separable or one is missing. A negative scale means that higher scores go with fewer positives.

    Args:
        logits: [n] finite scores.
        labels: [n] 0 or 1.

    Raises:
        ValueError: without a row there is nothing to fit.
    """
    if not logits.numel():
        raise ValueError("Found no scored row to calibrate on; expected at least one.")
    score, target = logits.detach().double(), _smoothed(labels.detach() > 0)
    centre, width = score.mean(), score.std(correction=0).clamp_min(1e-6)
    scaled = torch.stack([(score - centre) / width, torch.ones_like(score)], dim=1)  # [n, 2]
    slope, offset = _newton(scaled, target)
    return float(slope / width), float(offset - slope * centre / width)


def fit_temperature(logits: Tensor, labels: Tensor) -> float:
    """The scale for which sigmoid(scale * logit) is the most likely probability of the labels; 1 / scale is known as
    the temperature (Guo et al. 2017). Arguments, smoothing and errors as in `fit_platt`.
    """
    if not logits.numel():
        raise ValueError("Found no scored row to calibrate on; expected at least one.")
    score = logits.detach().double()
    width = score.square().mean().sqrt().clamp_min(1e-6)
    return float(_newton((score / width).unsqueeze(1), _smoothed(labels.detach() > 0))[0] / width)


def fit_isotonic(logits: Tensor, labels: Tensor) -> tuple[list[float], list[float]]:
    """The never falling function of the logit that is nearest to the labels by squares, as corners of straight lines.

    Pool adjacent violators (Ayer et al. 1955; Zadrozny and Elkan 2002): neighbours that stand in the wrong order are
    merged into a block at their mean. A block is one corner at its lowest and one at its highest logit; equal logits
    are one row. It follows any shape, at the price of more rows than Platt's two numbers ask for.

    Args:
        logits: [n] finite scores.
        labels: [n] 0 or 1.

    Returns:
        Logits, rising, and their probabilities, never falling.

    Raises:
        ValueError: without a row there is nothing to fit.
    """
    if not logits.numel():
        raise ValueError("Found no scored row to calibrate on; expected at least one.")
    right = (labels.detach() > 0).double().sort(descending=True)
    ordered, order = logits.detach().double()[right.indices].sort(stable=True)  # equal logits: ones first, so one block
    table = torch.stack([ordered, right.values[order]], dim=1)
    rows = cast("list[list[float]]", table.tolist())  # pyright: ignore[reportUnknownMemberType]
    blocks: list[_Block] = []
    for logit, one in rows:
        block = _Block(logit, logit, int(one), 1)
        while blocks and blocks[-1].not_below(block):
            block = blocks.pop().joined(block)
        blocks.append(block)
    corners = [(end, block.ones / block.rows) for block in blocks for end in sorted({block.low, block.high})]
    return [logit for logit, _ in corners], [chance for _, chance in corners]


class _Block(NamedTuple):
    low: float  # logits
    high: float
    ones: int
    rows: int

    def not_below(self, other: "_Block") -> bool:
        return self.ones * other.rows >= other.ones * self.rows  # shares, compared as whole numbers

    def joined(self, other: "_Block") -> "_Block":
        return _Block(self.low, other.high, self.ones + other.ones, self.rows + other.rows)


def _smoothed(positive: Tensor) -> Tensor:
    ones = int(positive.sum())
    high, low = (ones + 1) / (ones + 2), 1 / (positive.numel() - ones + 2)
    return positive.double() * (high - low) + low


def _newton(features: Tensor, target: Tensor) -> Tensor:
    """Weights [F] that minimise the mean cross-entropy of features [n, F] against soft targets [n]."""
    weights = features.new_zeros(features.shape[1])
    ridge = _RIDGE * torch.eye(features.shape[1], dtype=features.dtype, device=features.device)
    for _ in range(_STEPS):
        prob = torch.sigmoid(features @ weights)
        gradient = features.T @ (prob - target) / len(target)
        if float(gradient.abs().max()) < 1e-12:
            break
        hessian = (features * (prob * (1 - prob)).unsqueeze(1)).T @ features / len(target) + ridge
        step = hessian.inverse() @ gradient
        weights = _shortened(features, target, weights, step)
    return weights


def _shortened(features: Tensor, target: Tensor, weights: Tensor, step: Tensor) -> Tensor:
    """The weights after the longest of step, step / 2, step / 4, ... that does not raise the loss."""
    before = binary_cross_entropy_with_logits(features @ weights, target)
    for halving in range(30):
        moved = weights - step * 0.5**halving
        if bool(binary_cross_entropy_with_logits(features @ moved, target) <= before):
            return moved
    return weights
