"""Do the probabilities mean what they say, and the two numbers that make a score mean it."""

import torch
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits

_STEPS = 100
_RIDGE = 1e-12  # keeps the Hessian invertible when all scores are equal


def expected_calibration_error(prob: Tensor, label: Tensor, bins: int = 15) -> float:
    """Mean gap between what was predicted and what happened, over bins of equal *mass* (about n / bins rows each).

    sum over bins of |sum of labels - sum of probabilities| / n. Equal mass, not equal width: pruners mostly give small
    probabilities, which equal widths would put into one bin. Rows of equal probability stay in one bin (that of the
    first), so the order of rows means nothing and a constant prediction is one bin.

    Args:
        prob: [n] in 0..1.
        label: [n] 0 or 1.
        bins: how many bins.

    Returns:
        0..1, 0 is perfect; NaN for n = 0.
    """
    rows = prob.numel()
    if not rows:
        return float("nan")
    ordered, order = prob.double().sort(stable=True)
    first = torch.searchsorted(ordered, ordered)  # place of the first row with this probability
    gap = ordered.new_zeros(bins).index_add(0, first * bins // rows, label[order].double() - ordered)
    return float(gap.abs().sum()) / rows


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


def _smoothed(positive: Tensor) -> Tensor:
    ones = int(positive.sum())
    high, low = (ones + 1) / (ones + 2), 1 / (positive.numel() - ones + 2)
    return positive.double() * (high - low) + low


def _newton(features: Tensor, target: Tensor) -> Tensor:
    """Weights [2] that minimise the mean cross-entropy of features [n, 2] against soft targets [n]."""
    weights = features.new_zeros(2)
    ridge = _RIDGE * torch.eye(2, dtype=features.dtype, device=features.device)
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
