"""Ranking measures over many batches and many processes, exact in any order.

Every state is a whole number that is only ever added up, so no batch size, order or world size changes the last digit.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torchmetrics import Metric

from recsys.metrics.long_tail import SEGMENTS, coverage, gini, novelty
from recsys.metrics.ranking import average_precision, hit_rate, mrr, ndcg, recall

_ONE = 1 << 32  # fixed point: the whole number that stands for 1.0; sums of 2^31 queries fit


class RankingMetrics(Metric):
    """Accuracy, its split by popularity, and the lists' treatment of the catalogue.

    `compute()` returns flat names: `recall@k` and `ndcg@k` for each of `ks`; `mrr` and `map` over the full ranking; for
    the list of `list_k` items that is shown (here 10) `hit_rate@10`, `map@10`, `recall@10/head` (torso, tail, unseen),
    `coverage@10`, `gini@10`, `novelty@10`; and `queries`, how many had a target. What has no value (a segment without
    a target, anything without a query) is left out: no NaN is ever returned.

    Means are over queries, but `recall@10/...` is over *targets*: found targets of the segment over all of them.
    Values are rounded to 2^-32 before they are added. A `k` beyond the number of items means all of them.

    Args:
        segments: [N] int8 from `popularity_segments`.
        popularity: [N] int64, train interactions of each item.
        ks: lengths at which recall and nDCG are taken.
        list_k: length of the list that is shown.
        **kwargs: options of `torchmetrics.Metric`.
    """

    full_state_update = False
    is_differentiable = False
    segments: Tensor  # [N] int64
    popularity: Tensor  # [N] int64
    histogram: Tensor  # [4, depth + 1] int64: targets by segment and rank; the last column is any rank further down
    totals: Tensor  # [measures] int64, fixed point
    exposures: Tensor  # [N] int64
    queries: Tensor  # [] int64

    def __init__(
        self,
        *,
        segments: Tensor,
        popularity: Tensor,
        ks: Sequence[int] = (10, 20, 100),
        list_k: int = 10,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.ks, self.list_k, self.items = tuple(ks), list_k, segments.numel()
        self.depth = self._cut(max(*self.ks, list_k))
        self.register_buffer("segments", segments.long(), persistent=False)
        self.register_buffer("popularity", popularity.long(), persistent=False)
        self.names = tuple(self._values(torch.empty(0, 1, dtype=torch.int64), None))
        self._add_counts("histogram", len(SEGMENTS), self.depth + 1)
        self._add_counts("totals", len(self.names))
        self._add_counts("exposures", self.items)
        self._add_counts("queries")

    def _add_counts(self, name: str, *shape: int) -> None:
        start = torch.zeros(shape, dtype=torch.int64)
        self.add_state(name, start, dist_reduce_fx="sum")  # pyright: ignore[reportUnknownMemberType]

    def _cut(self, k: int) -> int:
        """A miss has rank N, which must not be within k."""
        return min(k, self.items)

    def update(self, ranks: Tensor, targets: Tensor, top_items: Tensor, grades: Tensor | None = None) -> None:
        """Adds B queries. A query without a target is ignored, its list too.

        Args:
            ranks: [B, P] int64 from `rank_of_targets`: -1 is padding, N is a miss.
            targets: [B, P] int64 item indices, padded alike.
            top_items: [B, >= list_k] int64, the best items, padded with -1; only the first `list_k` columns count.
            grades: [B, P]; a target of grade 0 or less is not relevant and counts as padding. None: all have grade 1.
        """
        if grades is not None:
            ranks = ranks.masked_fill(grades <= 0, -1)
        asked = (ranks >= 0).any(1)
        ranks, targets, shown = ranks[asked], targets[asked], top_items[asked, : self.list_k]
        values = self._values(ranks, None if grades is None else grades[asked])
        self.totals += torch.stack([(value * _ONE).round().long().sum() for value in values.values()])
        self.histogram += self._count_ranks(ranks, targets)
        self.exposures += torch.bincount(shown[shown >= 0], minlength=self.items)
        self.queries += ranks.shape[0]

    def _values(self, ranks: Tensor, grades: Tensor | None) -> dict[str, Tensor]:
        """Each query's value, [B] float64, of every measure that is a mean over queries."""
        shown = self.list_k
        return {
            **{f"recall@{k}": recall(ranks, self._cut(k)) for k in self.ks},
            **{f"ndcg@{k}": ndcg(ranks, grades, self._cut(k)) for k in self.ks},
            f"hit_rate@{shown}": hit_rate(ranks, self._cut(shown)),
            "mrr": mrr(ranks, self.items),
            "map": average_precision(ranks, self.items),
            f"map@{shown}": average_precision(ranks, self._cut(shown)),
        }

    def _count_ranks(self, ranks: Tensor, targets: Tensor) -> Tensor:
        real = ranks >= 0
        cell = self.segments[targets[real]] * (self.depth + 1) + ranks[real].clamp_max(self.depth)
        return torch.bincount(cell, minlength=self.histogram.numel()).view_as(self.histogram)

    def compute(self) -> dict[str, float]:
        """All measures by name, over everything that any process has added."""
        queries = int(self.queries)
        if not queries:
            return {"queries": 0.0}
        means = {name: int(total) / (queries * _ONE) for name, total in zip(self.names, self.totals, strict=True)}
        return {**means, **self._by_segment(), **self._of_lists(), "queries": float(queries)}

    def _by_segment(self) -> dict[str, float]:
        found = self.histogram[:, : self._cut(self.list_k)].sum(1)
        counted = zip(SEGMENTS, found, self.histogram.sum(1), strict=True)
        return {f"recall@{self.list_k}/{name}": int(hits) / int(total) for name, hits, total in counted if total}

    def _of_lists(self) -> dict[str, float]:
        if not bool(self.exposures.any()):
            return {}
        return {
            f"coverage@{self.list_k}": coverage(self.exposures),
            f"gini@{self.list_k}": gini(self.exposures),
            f"novelty@{self.list_k}": novelty(self.exposures, self.popularity),
        }
