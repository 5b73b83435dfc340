"""What training a retriever and a pruner share: measures by validation set, the optimiser, and lean checkpoints."""

from collections.abc import Sequence
from typing import Any, cast

import numpy as np
import torch
from lightning import LightningModule
from lightning.pytorch.strategies import ModelParallelStrategy
from torch import Tensor, nn

from recsys.metrics.accumulate import RankingMetrics
from recsys.metrics.long_tail import popularity_segments
from recsys.metrics.per_request import RequestValues
from recsys.training.distributed import clip_gradients, is_sharded, shard_layers
from recsys.training.frozen import drop_frozen, restore_frozen
from recsys.training.optim import OptimConfig, make_optimizer, make_schedule


class RankedTraining(LightningModule):
    """Holds a model and one RankingMetrics for each name in `valid`, the prefix of its figures."""

    def __init__(
        self, model: nn.Module, popularity: Tensor, *, valid: Sequence[str], optim: OptimConfig, total_steps: int
    ) -> None:
        """`popularity` is [N] train interactions."""
        super().__init__()
        self.model, self.optim, self.total_steps, self.valid = model, optim, total_steps, list(valid)
        segments = popularity_segments(popularity)
        self.metrics = nn.ModuleList(RankingMetrics(segments=segments, popularity=popularity) for _ in self.valid)
        self.results: dict[str, dict[str, float]] = {}
        """Of the last validation, by name; exact, where loggers get float32."""
        self.each = nn.ModuleList()
        """One RequestValues for each of `valid`, once they are to be kept."""
        self.requests: dict[str, dict[str, np.ndarray]] = {}
        """What they held after the last validation, by name."""

    def configure_model(self) -> None:
        """Lightning's place to shard a model; called before every loop."""
        if isinstance(self.trainer.strategy, ModelParallelStrategy):
            text = cast(Any, self.model).text
            text.max_groups = 1
            shard_layers(text.model, self.trainer.strategy.device_mesh["data_parallel"])

    def configure_gradient_clipping(self, optimizer: Any, gradient_clip_val: Any = None, **_: Any) -> None:
        """By the norm of all gradients."""
        if gradient_clip_val and is_sharded(self.model):
            clip_gradients(self.parameters(), gradient_clip_val)
        elif gradient_clip_val:
            self.clip_gradients(optimizer, gradient_clip_val, "norm")

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

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        drop_frozen(self.model, checkpoint)

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        restore_frozen(self.model, checkpoint)

    def configure_optimizers(self):  # noqa: ANN201
        optimizer: torch.optim.Optimizer = make_optimizer(self.model, self.optim)
        schedule = make_schedule(optimizer, self.optim, self.total_steps)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}
