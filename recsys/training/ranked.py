"""What training a retriever and a pruner share: measures of their rankings, by validation set."""

from collections.abc import Sequence
from typing import cast

import numpy as np
from torch import Tensor, nn

from recsys.metrics.accumulate import RankingMetrics
from recsys.metrics.long_tail import popularity_segments
from recsys.metrics.per_request import RequestValues
from recsys.training.module import TrainingModule
from recsys.training.optim import OptimConfig


class RankedTraining(TrainingModule):
    """Holds a model and one RankingMetrics for each name in `valid`, the prefix of its figures."""

    def __init__(
        self, model: nn.Module, popularity: Tensor, *, valid: Sequence[str], optim: OptimConfig, total_steps: int
    ) -> None:
        """`popularity` is [N] train interactions."""
        super().__init__(model, optim=optim, total_steps=total_steps)
        self.valid = list(valid)
        segments = popularity_segments(popularity)
        self.metrics = nn.ModuleList(RankingMetrics(segments=segments, popularity=popularity) for _ in self.valid)
        self.each = nn.ModuleList()
        """One RequestValues for each of `valid`, once they are to be kept."""
        self.requests: dict[str, dict[str, np.ndarray]] = {}
        """What they held after the last validation, by name."""

    def metric(self, place: int) -> RankingMetrics:
        """The measures of `valid[place]`."""
        return cast(RankingMetrics, self.metrics[place])

    def keep_requests(self, counts: Sequence[int]) -> None:
        """From now on, keep what each request is worth, too; `counts` are the requests of each of `valid`."""
        part = {"first": self.global_rank, "step": self.trainer.world_size}
        segments = popularity_segments(self.metric(0).popularity)
        self.each = nn.ModuleList(RequestValues(count, segments, **part) for count in counts)

    def measure(self, place: int, ranks: Tensor, targets: Tensor, top_items: Tensor, grades: Tensor) -> None:
        """Add requests of `valid[place]` to its measures; arguments as in `RankingMetrics.update`."""
        self.metric(place).update(ranks, targets, top_items, grades)
        if self.each:
            cast(RequestValues, self.each[place]).update(ranks, targets, grades)

    def on_validation_epoch_end(self) -> None:
        for name, values in zip(self.valid, self.each, strict=False):
            self.requests[name] = cast(RequestValues, values).compute()
            cast(RequestValues, values).reset()
        for place, name in enumerate(self.valid):
            self.results[name] = self.metric(place).compute()
            self.metric(place).reset()
            self.log_dict({f"{name}/{key}": value for key, value in self.results[name].items()})
