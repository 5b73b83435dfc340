"""Masked-language training: hide tokens; guess them; cross-entropy; log."""

from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torchmetrics.aggregation import SumMetric

from recsys.batch import MaskedBatch
from recsys.models.masked import MaskedLanguageModel
from recsys.training.distributed import processes, share_of_loss, sum_over_processes
from recsys.training.module import TrainingModule
from recsys.training.optim import OptimConfig

MEASURES = ("loss", "accuracy")
"""Of the hidden tokens of held-out texts: mean cross-entropy in nats, and the share that was guessed."""


class MlmTraining(TrainingModule):
    """Trains a text encoder to guess hidden tokens; validates on texts that are held out."""

    model: MaskedLanguageModel

    def __init__(self, model: MaskedLanguageModel, *, optim: OptimConfig, total_steps: int) -> None:
        super().__init__(model, optim=optim, total_steps=total_steps)
        self.sums = nn.ModuleList(SumMetric().set_dtype(torch.float64) for _ in (*MEASURES, "tokens"))

    def product_flops(self, batch: MaskedBatch) -> float:
        """The head, which the hidden tokens alone pass, and their products with the whole vocabulary."""
        words = self.model.text.model.get_input_embeddings().weight
        return 6.0 * len(batch.token) * (words.numel() + self.model.dense.weight.numel())

    def training_step(self, batch: MaskedBatch, _: int) -> Tensor:
        logits = self.model(batch).float()
        total = sum_over_processes(torch.tensor(len(batch.token), device=logits.device))
        mean = F.cross_entropy(logits, batch.original) if len(batch.token) else logits.sum()
        loss = mean * share_of_loss(len(batch.token), max(int(total), 1))
        self.log("train/loss", sum_over_processes(loss) / processes(), batch_size=batch.rows, prog_bar=True)
        return loss

    def validation_step(self, batch: MaskedBatch, _: int) -> None:
        with torch.autocast(batch.token.device.type, enabled=False):
            logits = self.model(batch)
        found = logits.argmax(1) == batch.original
        values = (F.cross_entropy(logits, batch.original, reduction="sum"), found.sum(), len(found))
        for total, value in zip(self.sums, values, strict=True):
            cast(SumMetric, total).update(value)

    def on_validation_epoch_end(self) -> None:
        loss, found, tokens = (float(cast(SumMetric, total).compute()) for total in self.sums)
        for total in self.sums:
            cast(SumMetric, total).reset()
        self.results["valid"] = dict(zip(MEASURES, (loss / max(tokens, 1), found / max(tokens, 1)), strict=True))
        self.log_dict({f"valid/{name}": value for name, value in self.results["valid"].items()})
