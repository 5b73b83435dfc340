"""Where the targets of a query stand in the full ranking of all items, and what that is worth.

Letters: B queries, N items, P targets of a query (padded with -1), k length of the list.
Every measure here takes ranks and returns one float64 value per query; a query without a target has no value (NaN).
Terms are added from the best rank to the worst, one column after the other, so that neither the padding nor the
neighbours in a batch change the last digit of a value.
"""

from functools import reduce

import torch
from torch import Tensor

_BLOCK = 1 << 18  # comparisons made at once by rank_of_targets, one byte each: small enough for a core's cache
_LAST = torch.iinfo(torch.int64).max  # sort key of the padding
_NOWHERE = float("-inf")


def rank_of_targets(scores: Tensor, targets: Tensor, excluded: Tensor | None = None) -> Tensor:
    """The exact 0-based place of each target among all N items.

    The rank is the number of allowed items with a higher score, plus the number with the same score and a smaller
    index. Other targets of the query count like any item. An item is not in the list at all, neither ahead of a target
    nor findable, if it is excluded or its score is -inf or NaN: such a target gets rank N, a miss.

    Args:
        scores: [B, N] floating point, higher is better.
        targets: [B, P] int64 item indices, distinct in a row, padded with -1.
        excluded: [B, N] bool, True for an item that must not be shown.

    Returns:
        [B, P] int64, 0 is the best; -1 where the target is padding.
    """
    items = scores.shape[1]
    index = targets.clamp_min(0)
    own = _listed(scores.gather(1, index), None if excluded is None else excluded.gather(1, index))
    ranks = torch.zeros_like(index)
    width = max(256, _BLOCK // max(1, targets.numel()))
    for start in range(0, items, width):
        columns = slice(start, start + width)
        block = _listed(scores[:, columns], None if excluded is None else excluded[:, columns])
        ranks += _count_ahead(block, start, own, index)
    missed = (own == _NOWHERE) | own.isnan()
    return ranks.masked_fill(missed, items).masked_fill(targets < 0, -1)


def _listed(scores: Tensor, excluded: Tensor | None) -> Tensor:
    return scores if excluded is None else scores.masked_fill(excluded, _NOWHERE)


def _count_ahead(block: Tensor, start: int, own: Tensor, index: Tensor) -> Tensor:
    """How many items of a block [B, w] of columns from `start` on stand ahead of each target [B, P]."""
    columns = torch.arange(start, start + block.shape[1], device=block.device)
    other, mine = block.unsqueeze(1), own.unsqueeze(2)  # [B, 1, w], [B, P, 1]
    ahead = (other > mine) | ((other == mine) & (columns < index.unsqueeze(2)))  # [B, P, w]
    return ahead.view(torch.uint8).sum(2)  # bytes add up three times faster than bools


def top_items(scores: Tensor, k: int, excluded: Tensor | None = None) -> Tensor:
    """The k best items of each query in the order of `rank_of_targets`: equal scores by index, nothing excluded.

    `torch.topk` leaves the order of equal scores, and which of them are taken, to chance; rows where that matters are
    sorted.

    Args:
        scores: [B, N] floating point.
        k: length of the list.
        excluded: [B, N] bool, True for an item that must not be shown.

    Returns:
        [B, min(k, N)] int64, padded with -1 where fewer items are allowed.
    """
    allowed = _listed(scores, excluded).nan_to_num(nan=_NOWHERE, posinf=float("inf"), neginf=_NOWHERE)
    width = min(k, scores.shape[1])
    values, items = allowed.topk(width, dim=1)
    last = values[:, -1:]
    cut = ((allowed >= last).sum(1) > width) & (last[:, 0] > _NOWHERE)  # a tie goes across the end of the list
    if cut.any():
        items[cut] = allowed[cut].sort(dim=1, descending=True, stable=True).indices[:, :width]
    items = items.sort(dim=1).values
    values, order = allowed.gather(1, items).sort(dim=1, descending=True, stable=True)
    return items.gather(1, order).masked_fill(values == _NOWHERE, -1)


def recall(ranks: Tensor, k: int) -> Tensor:
    """Share of the query's targets in the first k: |rank < k| / P.

    Args:
        ranks: [B, P] int64 from `rank_of_targets`.
        k: length of the list, at most N, here and in every measure below: beyond it a miss (rank N) passes for a hit.

    Returns:
        [B] float64 in 0..1; NaN where P = 0.
    """
    return _found(ranks, k).sum(1).double() / _targets(ranks)


def hit_rate(ranks: Tensor, k: int) -> Tensor:
    """1 if any target is in the first k, else 0. [B, P] ranks to [B] float64; NaN where P = 0."""
    hit = _found(ranks, k).any(1).double()
    return hit.masked_fill(_targets(ranks) == 0, float("nan"))


def mrr(ranks: Tensor, k: int) -> Tensor:
    """1 / (1 + best rank), or 0 if no target is in the first k; k = N for the full ranking.

    [B, P] ranks to [B] float64; NaN where P = 0. The mean over queries is the mean reciprocal rank.
    """
    best = _ascending(ranks)[0][:, :1].double()
    value = _sum_in_order(torch.where(best < k, 1 / (best + 1), 0.0))
    return value.masked_fill(_targets(ranks) == 0, float("nan"))


def ndcg(ranks: Tensor, grades: Tensor | None, k: int) -> Tensor:
    """DCG@k over the DCG@k of the best possible list, with gain 2^grade - 1 and discount 1 / log2(rank + 2).

    The best possible list holds the min(P, k) highest grades of *all* targets, found or not (Järvelin and Kekäläinen
    2002, with the exponential gain of Burges et al. 2005).

    Args:
        ranks: [B, P] int64.
        grades: [B, P], any number type; 0 or less is not relevant and has no gain. None: grade 1 for every target.
        k: length of the list, at most N.

    Returns:
        [B] float64 in 0..1; NaN where no target has a gain.
    """
    gains = torch.ones_like(ranks, dtype=torch.float64) if grades is None else torch.exp2(grades.double()) - 1
    gains = gains.clamp_min(0).masked_fill(ranks < 0, 0)
    discounts = _discounts(k, ranks.device)
    places, order = _ascending(ranks)
    found = gains.gather(1, order) * discounts[places.clamp_max(k)]
    best = gains.sort(dim=1, descending=True).values[:, :k]
    return _sum_in_order(found[:, :k]) / _sum_in_order(best * discounts[: best.shape[1]])


def average_precision(ranks: Tensor, k: int) -> Tensor:
    """Precision at each target of the first k, summed, over min(P, k): 1 for a list that starts with targets only.

    [B, P] ranks to [B] float64; NaN where P = 0. The mean over queries is MAP@k.
    """
    places = _ascending(ranks)[0][:, :k].double()
    found = torch.arange(1, places.shape[1] + 1, device=ranks.device)  # targets seen at the j-th place that holds one
    precision = torch.where(places < k, found / (places + 1), 0.0)
    return _sum_in_order(precision) / _targets(ranks).clamp_max(k)


def _found(ranks: Tensor, k: int) -> Tensor:
    return (ranks >= 0) & (ranks < k)


def _targets(ranks: Tensor) -> Tensor:
    """P of each query, [B] int64."""
    return (ranks >= 0).sum(1)


def _ascending(ranks: Tensor) -> tuple[Tensor, Tensor]:
    """Each query's ranks from best to worst, padding last, and the columns they came from."""
    places, order = ranks.masked_fill(ranks < 0, _LAST).sort(dim=1, stable=True)
    return places, order


def _discounts(k: int, device: torch.device) -> Tensor:
    """[k + 1] float64: 1 / log2(rank + 2) for the ranks 0 .. k - 1, and 0 for the rest."""
    places = torch.arange(2, k + 2, dtype=torch.float64, device=device)
    return torch.cat([places.log2().reciprocal(), places.new_zeros(1)])


def _sum_in_order(terms: Tensor) -> Tensor:
    """Row sums of [B, P], strictly from left to right: trailing zeros change nothing, as they would in `Tensor.sum`."""
    return reduce(torch.add, terms.unbind(1), terms.new_zeros(terms.shape[0]))
