"""The pruner's training: judge lists; listwise and pointwise loss; log the cascade beside the retriever alone."""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from recsys.batch import PrunerBatch
from recsys.data.lists import ListEvaluation
from recsys.errors import InputError
from recsys.losses.ranking import listwise_softmax, pointwise_bce
from recsys.metrics.accumulate import RankingMetrics
from recsys.metrics.long_tail import popularity_segments
from recsys.metrics.per_request import RequestValues
from recsys.models.pruner import Pruner
from recsys.models.split import SplitReader
from recsys.models.states import StateCache
from recsys.training.flops import split_flops
from recsys.training.optim import OptimConfig
from recsys.training.ranked import RankedTraining


@dataclass(frozen=True, kw_only=True)
class LossMix:
    """loss = listwise * softmax cross-entropy of each list + pointwise * binary cross-entropy of each candidate."""

    listwise: float = 1.0
    """Weight of the loss that orders a list."""
    pointwise: float = 0.2
    """Weight of the loss that makes a logit comparable between lists."""
    targets: float = 0.5
    """Weight of the binary cross-entropy of the other targets (`model.targets`), the mean over all that is known."""

    def __post_init__(self) -> None:
        if min(self.listwise, self.pointwise, self.targets) < 0 or self.listwise + self.pointwise == 0:
            raise InputError(f"loss: weights must not be negative and one must be positive; found {self}.")


class PrunerTraining(RankedTraining):
    """Trains a Pruner on the retriever's candidates; validates the cascade, and the retriever's order of the lists."""

    model: Pruner

    def __init__(
        self,
        model: Pruner,
        popularity: Tensor,
        *,
        valid: list[str],
        optim: OptimConfig,
        loss: LossMix,
        total_steps: int,
    ) -> None:
        """`valid` names the validation loaders (a prefix of their metrics); `popularity` is [N] train interactions."""
        orders = [order for name in valid for order in (name, f"{name}_retriever")]
        super().__init__(model, popularity, valid=orders, optim=optim, total_steps=total_steps)
        self.loss = loss
        self.states: StateCache | None = None  # of a validation, in which the weights rest

    def step_flops(self, batch: PrunerBatch) -> Tensor:
        model = self.model
        if model.text is None or batch.apart is None or not model.config.split:
            return super().step_flops(batch)
        return split_flops(SplitReader(model.text, model.config.split), batch.apart)

    def training_step(self, batch: PrunerBatch, _: int) -> Tensor:
        judged, real = self.model.judge(batch), batch.candidate >= 0
        logits = judged[..., 0]
        listwise, pointwise = (loss(logits, batch.label, real) for loss in (listwise_softmax, pointwise_bce))
        loss = self.loss.listwise * listwise + self.loss.pointwise * pointwise + other_loss(judged, batch, self.loss)
        self.log_dict({"train/listwise": listwise, "train/pointwise": pointwise}, batch_size=batch.rows)
        self.log("train/loss", loss, batch_size=batch.rows, prog_bar=True)
        return loss

    def on_validation_epoch_start(self) -> None:
        self.states = StateCache()

    def on_validation_epoch_end(self) -> None:
        super().on_validation_epoch_end()
        self.states = None

    def validation_step(self, batch: ListEvaluation, _: int, dataloader_idx: int = 0) -> None:
        with torch.autocast(batch.item.device.type, enabled=False):  # as inference computes, so that both rank alike
            logits = self.model(batch.lists, self.states)
        for place, ranked in enumerate((reorder(logits, batch.item), batch.item)):
            metric = self.metric(2 * dataloader_idx + place)
            metric.update(*_judged(ranked, batch, metric))


def other_loss(judged: Tensor, batch: PrunerBatch, mix: LossMix) -> Tensor:
    """Weighed binary cross-entropy of the other targets; `judged` is [B, K, 1 + G]. 0 where there are none."""
    if batch.others is None:
        return judged.new_zeros(())
    known = ~batch.others.isnan() & (batch.candidate >= 0)[..., None]
    return mix.targets * pointwise_bce(judged[..., 1:].flatten(1), batch.others.flatten(1), known.flatten(1))


class Judge:
    """The measures of one set of lists, each list judged once: the pruner's order, and the retriever's.

    Every process judges the whole set, so that nothing is gathered.
    """

    def __init__(self, count: int, popularity: Tensor) -> None:
        """`count` lists; `popularity` is [N] train interactions."""
        segments = popularity_segments(popularity)
        self.metrics = [
            RankingMetrics(segments=segments, popularity=popularity, sync_on_compute=False) for _ in range(2)
        ]
        self.each = [RequestValues(count, segments, sync_on_compute=False) for _ in range(2)]

    def add(self, logits: Tensor, batch: ListEvaluation) -> None:
        """The next lists and their logits [B, K]."""
        for ranked, metric, each in zip(
            (reorder(logits, batch.item), batch.item), self.metrics, self.each, strict=True
        ):
            ranks, targets, top, grades = _judged(ranked, batch, metric)
            metric.update(ranks, targets, top, grades)
            each.update(ranks, targets, grades)

    def compute(self) -> list[tuple[dict[str, float], dict[str, np.ndarray]]]:
        """Of the pruner and of the retriever: the means, and what each list is worth."""
        return [(metric.compute(), each.compute()) for metric, each in zip(self.metrics, self.each, strict=True)]


def _judged(ranked: Tensor, batch: ListEvaluation, metric: RankingMetrics) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """What `RankingMetrics.update` takes of ordered lists [B, K]."""
    ranks = rank_in_lists(ranked, batch.targets, metric.items)
    return ranks, batch.targets, _at_least(ranked, metric.list_k), batch.grades


def reorder(logits: Tensor, items: Tensor) -> Tensor:
    """[B, K] items by falling logit; equal ones stay in the retriever's order, padding (-inf) stays last."""
    return items.gather(1, logits.argsort(dim=1, descending=True, stable=True))


def rank_in_lists(items: Tensor, targets: Tensor, total: int) -> Tensor:
    """[B, P] place of each target in its ordered list [B, K]; a miss has rank `total`, padding -1."""
    same = targets.unsqueeze(2) == items.unsqueeze(1)  # [B, P, K]
    ranks = torch.where(same.any(2), same.to(torch.uint8).argmax(2), total)
    return ranks.masked_fill(targets < 0, -1)


def _at_least(items: Tensor, width: int) -> Tensor:
    return torch.nn.functional.pad(items, (0, max(width - items.shape[1], 0)), value=-1)
