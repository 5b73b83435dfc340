"""The retriever's training: encode items; encode users; sampled softmax; log."""

from dataclasses import dataclass
from typing import Any, Literal, cast

import torch
from lightning import LightningModule
from torch import Tensor

from recsys.batch import EvaluationBatch, ItemBatch, RetrieverBatch
from recsys.errors import InputError
from recsys.losses.in_batch import first_seen, sampled_softmax
from recsys.metrics.accumulate import RankingMetrics
from recsys.metrics.long_tail import popularity_segments
from recsys.metrics.ranking import rank_of_targets, top_items
from recsys.models.towers import Retriever
from recsys.training.frozen import drop_frozen, restore_frozen
from recsys.training.optim import OptimConfig, make_optimizer, make_schedule


@dataclass(frozen=True, kw_only=True)
class LossConfig:
    """How the loss is computed."""

    block: int = 512
    """Rows whose scores exist at one time; memory is block x items."""
    products: Literal["float32", "bfloat16"] = "float32"
    """Precision of the score products: bfloat16 is several times faster where the chip has it. The softmax is always
    float32."""

    def __post_init__(self) -> None:
        if self.block < 1:
            raise InputError(f"loss.block is {self.block}; expected at least 1 row.")


class RetrieverTraining(LightningModule):
    """Trains a Retriever on next-item windows and query-to-item pairs; validates by full ranking."""

    def __init__(
        self,
        model: Retriever,
        catalogue: ItemBatch,
        popularity: Tensor,
        *,
        valid: list[str],
        optim: OptimConfig,
        loss: LossConfig,
        total_steps: int,
    ) -> None:
        """`valid` names the validation loaders (a prefix of their metrics); `popularity` is [N] train interactions."""
        super().__init__()
        self.model, self.catalogue = model, catalogue
        self.optim, self.loss, self.total_steps = optim, loss, total_steps
        segments = popularity_segments(popularity)
        self.metrics = torch.nn.ModuleList(RankingMetrics(segments=segments, popularity=popularity) for _ in valid)
        self.valid = valid
        self.results: dict[str, dict[str, float]] = {}
        """Of the last validation, by loader; exact, where loggers get float32."""
        self.item_vectors: Tensor | None = None

    def on_fit_start(self) -> None:
        self.catalogue = self.catalogue.to(self.device)

    def training_step(self, batch: RetrieverBatch, _: int) -> Tensor:
        items = self.model.encode_items(self.catalogue if batch.items is None else batch.items)
        users = self.model.encode_users(batch.users, items)[batch.row, batch.step]
        seen = first_seen(len(batch.users.history), len(items), batch.seen_row, batch.seen_item, batch.seen_step)
        loss = sampled_softmax(
            users, items, batch.target, scale=self.model.scale, seen=seen, row=batch.row, step=batch.step,
            log_q=batch.log_q, block=self.loss.block, dtype=getattr(torch, self.loss.products),
        )  # fmt: skip
        self.log("train/loss", loss, batch_size=len(batch.row), prog_bar=True)
        return loss

    def on_validation_epoch_start(self) -> None:
        self.item_vectors = encode_catalogue(self.model, self.catalogue.to(self.device))

    def validation_step(self, batch: EvaluationBatch, _: int, dataloader_idx: int = 0) -> None:
        assert self.item_vectors is not None
        scores, seen = score_requests(self.model, self.item_vectors, batch)
        ranks = rank_of_targets(scores, batch.targets, seen)
        metric = cast(RankingMetrics, self.metrics[dataloader_idx])
        metric.update(ranks, batch.targets, top_items(scores, metric.list_k, seen), batch.grades)

    def on_validation_epoch_end(self) -> None:
        for name, metric in zip(self.valid, cast("list[RankingMetrics]", self.metrics), strict=True):
            self.results[name] = metric.compute()
            metric.reset()
            self.log_dict({f"{name}/{key}": value for key, value in self.results[name].items()})
        self.item_vectors = None

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        drop_frozen(self.model, checkpoint)

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        restore_frozen(self.model, checkpoint)

    def configure_optimizers(self):  # noqa: ANN201
        optimizer = make_optimizer(self.model, self.optim)
        schedule = make_schedule(optimizer, self.optim, self.total_steps)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}


@torch.no_grad()
def encode_catalogue(model: Retriever, catalogue: ItemBatch, block: int = 512) -> Tensor:
    """[N, D] vectors of all items, in blocks where their texts have to be encoded. Called outside autocast."""
    if catalogue.text is None:
        return model.encode_items(catalogue)
    rows = torch.arange(len(catalogue.index), device=catalogue.index.device).split(block)
    return torch.cat([model.encode_items(catalogue.take(part)) for part in rows])


@torch.no_grad()
def score_requests(model: Retriever, items: Tensor, batch: EvaluationBatch) -> tuple[Tensor, Tensor]:
    """[B, N] scores of all items, and which of them the user already had.

    In float32 outside autocast, as inference computes them, so that both rank alike.
    """
    with torch.autocast(items.device.type, enabled=False):
        states = model.encode_users(batch.users, items)
        scores = states[torch.arange(len(batch.step), device=items.device), batch.step] @ items.T
    seen = torch.zeros_like(scores, dtype=torch.bool)
    seen[batch.seen_row, batch.seen_item] = True
    return scores, seen
