"""The training of a pruner on judgements: rows that are right or wrong each for itself, without candidates."""

from typing import cast

import torch
from torch import Tensor, nn
from torchmetrics import MeanMetric
from torchmetrics.classification import BinaryAUROC

from recsys.batch import PrunerBatch
from recsys.data.lists import ListEvaluation
from recsys.losses.ranking import pointwise_bce
from recsys.models.pruner import Pruner
from recsys.training.module import TrainingModule
from recsys.training.optim import OptimConfig
from recsys.training.pruner import LossMix, other_loss


class JudgedTraining(TrainingModule):
    """Trains a Pruner by binary cross-entropy of its targets; validates the first by AUC and log-loss, before any
    calibration.
    """

    model: Pruner

    def __init__(self, model: Pruner, *, valid: list[str], optim: OptimConfig, loss: LossMix, total_steps: int) -> None:
        """`valid` names the validation loaders (a prefix of their figures)."""
        super().__init__(model, optim=optim, total_steps=total_steps)
        self.valid, self.loss = valid, loss
        self.areas = nn.ModuleList(BinaryAUROC() for _ in valid)
        self.losses = nn.ModuleList(MeanMetric() for _ in valid)

    def training_step(self, batch: PrunerBatch, _: int) -> Tensor:
        judged = self.model.judge(batch)
        loss = self.loss.pointwise * pointwise_bce(judged[..., 0], batch.label, batch.candidate >= 0)
        loss = loss + other_loss(judged, batch, self.loss)
        self.log("train/loss", loss, batch_size=batch.rows, prog_bar=True)
        return loss

    def validation_step(self, batch: ListEvaluation, _: int, dataloader_idx: int = 0) -> None:
        with torch.autocast(batch.item.device.type, enabled=False):
            logits = self.model(batch.lists)
        real, label = batch.lists.candidate >= 0, batch.lists.label
        area, loss = self._measures(dataloader_idx)
        area.update(logits[real].sigmoid(), (label[real] > 0).long())
        loss.update(pointwise_bce(logits, label, real), weight=real.sum())

    def on_validation_epoch_end(self) -> None:
        for place, name in enumerate(self.valid):
            area, loss = self._measures(place)
            self.results[name] = {"auc": float(area.compute()), "log_loss": float(loss.compute())}
            area.reset()
            loss.reset()
            self.log_dict({f"{name}/{key}": value for key, value in self.results[name].items()})

    def _measures(self, place: int) -> tuple[BinaryAUROC, MeanMetric]:
        return cast(BinaryAUROC, self.areas[place]), cast(MeanMetric, self.losses[place])
