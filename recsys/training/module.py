"""What every training has: a model, the optimiser and its schedule, sharding, and lean checkpoints."""

from typing import Any, cast

import torch
from lightning import LightningModule
from lightning.pytorch.strategies import ModelParallelStrategy
from torch import Tensor, nn

from recsys.training.distributed import clip_gradients, is_sharded, shard_layers
from recsys.training.flops import StepWork
from recsys.training.frozen import drop_frozen, restore_frozen
from recsys.training.optim import OptimConfig, make_optimizer, make_schedule


class TrainingModule(LightningModule):
    """Holds a model; what it learns from a batch is the subclass's `training_step`."""

    def __init__(self, model: nn.Module, *, optim: OptimConfig, total_steps: int) -> None:
        super().__init__()
        self.model, self.optim, self.total_steps = model, optim, total_steps
        self.results: dict[str, dict[str, float]] = {}
        """Of the last validation, by name; exact, where loggers get float32."""
        self.work: StepWork | None = None

    def configure_model(self) -> None:
        """Lightning's place to shard a model; called before every loop."""
        if isinstance(self.trainer.strategy, ModelParallelStrategy):
            text = cast(Any, self.model).text
            text.max_groups = 1
            shard_layers(text.model, self.trainer.strategy.device_mesh["data_parallel"])

    def step_flops(self, batch: Any) -> Tensor:
        """Scalar float64 on the batch's device: the operations that a step on this process's batch has to do."""
        self.work = self.work or StepWork.of(self.model)
        return self.work.step(batch) + self.product_flops(batch)

    def product_flops(self, batch: Any) -> Tensor | float:
        """Those of products that are no layer of the model, forward and backward."""
        return 0.0

    def configure_gradient_clipping(self, optimizer: Any, gradient_clip_val: Any = None, **_: Any) -> None:
        """By the norm of all gradients. Lightning's own way, which is the same, refuses fused optimisers."""
        if gradient_clip_val and is_sharded(self.model):
            clip_gradients(self.parameters(), gradient_clip_val)
        elif gradient_clip_val:
            nn.utils.clip_grad_norm_(self.parameters(), gradient_clip_val)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        drop_frozen(self.model, checkpoint)

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        restore_frozen(self.model, checkpoint)

    def configure_optimizers(self):  # noqa: ANN201
        plain = is_sharded(self.model) or self.trainer.precision == "16-mixed"  # which clips what a scaler scaled
        optimizer: torch.optim.Optimizer = make_optimizer(self.model, self.optim, fused=not plain)
        schedule = make_schedule(optimizer, self.optim, self.total_steps)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}
