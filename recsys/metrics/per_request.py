"""What every single request is worth, beside the means of all: two runs are compared request by request."""

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torchmetrics import Metric

from recsys.metrics.long_tail import SEGMENTS
from recsys.metrics.ranking import mrr, ndcg, recall

SHOWN = 10
"""Length of the list that nDCG and recall are taken of."""


class RequestValues(Metric):
    """nDCG@10, recall@10 and MRR of each request of a set, by its number in the set.

    The means over the requests that have a target are those of `RankingMetrics`, up to its rounding to 2^-32.
    `compute()` returns columns, one entry for each request that has a target, in the order of their numbers:
    `request` int64; `target` int64, the item with the best grade, the first of several; `segment`, that item's name in
    `SEGMENTS`; `ndcg@10`, `recall@10` and `mrr` float64.

    Every process adds the requests `first`, `first + step`, ... in turn, as validation deals them. The states are sums
    in which each place belongs to one process, so that they merge exactly.

    Args:
        count: requests of the whole set.
        segments: [N] int8 from `popularity_segments`.
        first: number of the first request that this process adds.
        step: number of processes.
        **kwargs: options of `torchmetrics.Metric`.
    """

    full_state_update = False
    is_differentiable = False
    segments: Tensor  # [N] int64
    values: Tensor  # [count, 3] float64
    best: Tensor  # [count] int64, 1 + the target; 0: nobody asked, or without a target

    def __init__(self, count: int, segments: Tensor, *, first: int = 0, step: int = 1, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.first, self.next, self.step, self.items = first, first, step, segments.numel()
        self.register_buffer("segments", segments.long(), persistent=False)
        values, best = torch.zeros(count, 3, dtype=torch.float64), torch.zeros(count, dtype=torch.int64)
        self.add_state("values", values, dist_reduce_fx="sum")  # pyright: ignore[reportUnknownMemberType]
        self.add_state("best", best, dist_reduce_fx="sum")  # pyright: ignore[reportUnknownMemberType]

    def update(self, ranks: Tensor, targets: Tensor, grades: Tensor | None = None) -> None:
        """Adds the next B requests of this process; [B, P] each, as in `RankingMetrics.update`."""
        worth = torch.ones_like(ranks, dtype=torch.float64) if grades is None else grades.double()
        worth = worth.masked_fill(ranks < 0, 0).clamp_min(0)
        ranks = ranks.masked_fill(worth <= 0, -1)
        number = self.next + self.step * torch.arange(len(ranks), device=ranks.device)
        self.next += self.step * len(ranks)
        asked = (ranks >= 0).any(1)
        number, ranks, worth, targets = number[asked], ranks[asked], worth[asked], targets[asked]
        cut = min(SHOWN, self.items)
        measures = ndcg(ranks, worth, cut), recall(ranks, cut), mrr(ranks, self.items)
        self.values[number] = torch.stack(measures, dim=1)
        self.best[number] = 1 + targets.gather(1, worth.argmax(1, keepdim=True)).flatten()

    def reset(self) -> None:
        """Start anew with the first request."""
        super().reset()
        self.next = self.first

    def compute(self) -> dict[str, NDArray[Any]]:
        """The columns, over everything that any process has added."""
        asked = self.best > 0
        target = self.best[asked] - 1
        names = np.array(SEGMENTS)[self.segments[target].cpu().numpy()]
        values = self.values[asked].cpu().numpy()
        measures = {name: values[:, place] for place, name in enumerate((f"ndcg@{SHOWN}", f"recall@{SHOWN}", "mrr"))}
        number = asked.nonzero().flatten().cpu().numpy()
        return {"request": number, "target": target.cpu().numpy(), "segment": names, **measures}
