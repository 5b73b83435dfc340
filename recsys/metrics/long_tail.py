"""How a set of lists treats the whole catalogue: popularity segments, coverage, Gini, novelty.

These are functions of counts over all items, never means over users: merge the counts first, then compute.
Letters: N items; `exposures` [N] int64 says how often each item was shown.
"""

import math

import torch
from torch import Tensor

SEGMENTS = ("head", "torso", "tail", "unseen")
"""Names of the segment codes 0, 1, 2, 3."""


def popularity_segments(counts: Tensor) -> Tensor:
    """Deals items into head, torso, tail and unseen by their share of the train interactions.

    Items are taken from the most to the least popular, equal ones by index. An item is head while the cumulative share
    of interactions, its own included, is at most 50 %, torso while it is at most 80 %, then tail. So an item that alone
    holds more than half is torso or tail, and the head is then empty. An item without an interaction is unseen.

    Args:
        counts: [N] integer, train interactions of each item.

    Returns:
        [N] int8, an index into `SEGMENTS`.
    """
    popular, order = counts.long().sort(descending=True, stable=True)
    reached = popular.cumsum(0)
    total = popular.sum()
    # whole numbers, so that a share of exactly 80 % falls on the right side
    code = (2 * reached > total).long() + (5 * reached > 4 * total).long()
    code = code.masked_fill(popular == 0, SEGMENTS.index("unseen"))
    return torch.zeros_like(code).scatter(0, order, code).to(torch.int8)


def coverage(exposures: Tensor) -> float:
    """Share of all N items that were shown at least once, 0..1; NaN for an empty catalogue."""
    return int((exposures > 0).sum()) / exposures.numel() if exposures.numel() else math.nan


def gini(exposures: Tensor) -> float:
    """Gini index of the exposures: 0 when every item is shown equally often, (N - 1) / N when one gets everything.

    With x sorted ascending: sum_i (2 i - N - 1) x_i / (N sum x), i = 1..N. Items never shown take part. Exact: the sums
    are whole numbers, up to N * sum x < 2^63. NaN when nothing was shown.
    """
    items, shown = exposures.numel(), int(exposures.sum())
    if not shown:
        return math.nan
    weight = 2 * torch.arange(1, items + 1, device=exposures.device) - items - 1
    return int((weight * exposures.long().sort().values).sum()) / (items * shown)


def novelty(exposures: Tensor, popularity: Tensor) -> float:
    """Mean self-information, in bits, of the items shown: the mean over all shown places of -log2 p(item).

    p(item) = (popularity + 1) / (sum of popularity + N): with add-one smoothing an unseen item has a finite value, and
    all items have log2 N when nothing is known (Zhou et al. 2010). An item shown twice counts twice. NaN when nothing
    was shown.

    Args:
        exposures: [N] integer.
        popularity: [N] integer, train interactions of each item.
    """
    shown = int(exposures.sum())
    if not shown:
        return math.nan
    bits = math.log2(int(popularity.sum()) + popularity.numel()) - (popularity.double() + 1).log2()
    return float((bits * exposures).sum()) / shown
