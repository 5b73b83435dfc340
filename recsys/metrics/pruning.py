"""What dropping the lowest scores costs and saves: relevant candidates kept against others dropped.

Candidates of many lists are judged together, by one threshold: a candidate is kept if its score is at least that. Equal
scores are kept or dropped together, so the order of rows means nothing.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True, kw_only=True)
class PruningCurve:
    """Every threshold that makes a difference, rising: the distinct scores, and infinity, which drops all."""

    threshold: Tensor  # [S + 1] float64
    kept: Tensor  # [S + 1] float64, share of the relevant candidates at or above it; NaN if there is none
    dropped: Tensor  # [S + 1] float64, share of the others below it; NaN if there is none

    def at(self, keep: float) -> int:
        """The point of the highest threshold that keeps at least `keep` (0..1) of the relevant candidates."""
        return max(int((self.kept >= keep).sum()) - 1, 0)

    def dropped_at(self, keep: float) -> float:
        """Share of the others that can be dropped while at least `keep` of the relevant candidates stay.

        NaN where no candidate is relevant, or all are.
        """
        return float(self.dropped[self.at(keep)]) if self._of_both() else math.nan

    def area(self) -> float:
        """Area under kept over dropped: the chance that a relevant candidate scores higher than another one, a tie
        being half a win (the area under the ROC curve). NaN where there is none of one kind."""
        return float(torch.trapezoid(self.kept, self.dropped)) if self._of_both() else math.nan

    def thinned(self, most: int) -> "PruningCurve":
        """The best point of each share kept, and of these at most `most`, evenly spread, both ends included."""
        after = torch.cat([self.kept[1:], self.kept.new_full((1,), -1)])
        best = (after < self.kept).nonzero()[:, 0]
        spread = torch.linspace(0, len(best) - 1, min(most, len(best)), dtype=torch.float64).round().long()
        some = best[spread.to(best.device)]
        return PruningCurve(threshold=self.threshold[some], kept=self.kept[some], dropped=self.dropped[some])

    def _of_both(self) -> bool:
        return not bool((self.kept + self.dropped).isnan().any())


def pruning_curve(score: Tensor, label: Tensor) -> PruningCurve:
    """Kept and dropped shares at every threshold.

    Args:
        score: [n] finite; higher is more likely relevant.
        label: [n]; above 0 is relevant.
    """
    ordered, order = score.double().sort()
    first = torch.searchsorted(ordered, ordered) == torch.arange(len(ordered), device=ordered.device)
    levels, place = ordered[first], first.cumsum(0) - 1
    relevant, others = (_per_level(place, kind[order], len(levels)) for kind in (label > 0, label <= 0))
    below, wrong = (torch.cat([count.new_zeros(1), count.cumsum(0)]).double() for count in (relevant, others))
    return PruningCurve(
        threshold=torch.cat([levels, levels.new_full((1,), math.inf)]),
        kept=(below[-1] - below) / below[-1],
        dropped=wrong / wrong[-1],
    )


def _per_level(place: Tensor, counted: Tensor, levels: int) -> Tensor:
    return torch.bincount(place[counted], minlength=levels)


def least_relevant(loss: float) -> int:
    """How many relevant candidates `safe_threshold` needs before it can promise this loss: 1 / loss - 1, rounded up."""
    count = max(math.ceil(1 / loss) - 2, 0)  # near it; rounding decides by the very test that is used
    while not _may_lose(count, loss):
        count += 1
    return count


def _may_lose(relevant: int, loss: float) -> bool:
    return loss * (relevant + 1) >= 1


def safe_threshold(score: Tensor, label: Tensor, loss: float) -> float:
    """The highest threshold of which one can expect that it loses at most `loss` of the relevant candidates elsewhere.

    With n relevant candidates it may lose m of them, m the highest with (m + 1) / (n + 1) <= loss: the one more stands
    for the next candidate, as in conformal risk control (Angelopoulos et al. 2022, eq. 4, for a loss of 0 or 1). The
    promise is one of the mean, over lists drawn as these were; it is strict where candidates are exchangeable, and
    somewhat loose where those of one list resemble each other. Fewer than `least_relevant(loss)` promise nothing.

    Args:
        score: [n] finite.
        label: [n]; above 0 is relevant.
        loss: 0..1, both excluded.

    Returns:
        One of the scores, to be met or exceeded by what is kept.

    Raises:
        ValueError: too few relevant candidates.
    """
    found = score[label > 0].double().sort().values
    if not _may_lose(len(found), loss):
        raise ValueError(f"Found {len(found)} relevant candidates; expected at least {least_relevant(loss)}.")
    return float(found[min(math.floor(loss * (len(found) + 1)), len(found)) - 1])
