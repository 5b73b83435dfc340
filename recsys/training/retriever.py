"""The retriever's training: encode items; encode users; sampled softmax; log."""

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from recsys.batch import EvaluationBatch, ItemBatch, RetrieverBatch
from recsys.errors import InputError
from recsys.losses.in_batch import first_seen, sampled_softmax
from recsys.metrics.ranking import rank_of_targets, top_items
from recsys.models.towers import Retriever
from recsys.training.optim import OptimConfig
from recsys.training.ranked import RankedTraining


@dataclass(frozen=True, kw_only=True)
class LossConfig:
    """How the loss is computed."""

    block: int = 512
    """Rows whose scores exist at one time; memory is block x items."""
    products: Literal["auto", "float32", "bfloat16"] = "float32"
    """Precision of the score products: bfloat16 is several times faster where the chip has it; auto: bfloat16 in a run
    of trainer.precision bf16-mixed. The softmax is always float32."""

    def __post_init__(self) -> None:
        if self.block < 1:
            raise InputError(f"loss.block is {self.block}; expected at least 1 row.")


class RetrieverTraining(RankedTraining):
    """Trains a Retriever on next-item windows and query-to-item pairs; validates by full ranking."""

    model: Retriever

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
        super().__init__(model, popularity, valid=valid, optim=optim, total_steps=total_steps)
        self.catalogue, self.loss = catalogue, loss
        self.item_vectors: Tensor | None = None

    def on_fit_start(self) -> None:
        self.catalogue = self.catalogue.to(self.device)

    def training_step(self, batch: RetrieverBatch, _: int) -> Tensor:
        items = self.model.encode_items(self.catalogue if batch.items is None else batch.items)
        users = self.model.encode_users(batch.users, items)[batch.row, batch.step]
        seen = first_seen(len(batch.users.history), len(items), batch.seen_row, batch.seen_item, batch.seen_step)
        loss = sampled_softmax(
            users, items, batch.target, scale=self.model.scale, seen=seen, row=batch.row, step=batch.step,
            log_q=batch.log_q, block=self.loss.block, dtype=self._products(),
        )  # fmt: skip
        self.log("train/loss", loss, batch_size=len(batch.row), prog_bar=True)
        return loss

    def _products(self) -> torch.dtype:
        """Of the score products."""
        match self.loss.products:
            case "auto":
                return torch.bfloat16 if self.trainer.precision == "bf16-mixed" else torch.float32
            case named:
                return getattr(torch, named)

    def on_validation_epoch_start(self) -> None:
        self.item_vectors = encode_catalogue(self.model, self.catalogue.to(self.device))

    def validation_step(self, batch: EvaluationBatch, _: int, dataloader_idx: int = 0) -> None:
        assert self.item_vectors is not None
        scores, seen = score_requests(self.model, self.item_vectors, batch)
        ranks = rank_of_targets(scores, batch.targets, seen)
        top = top_items(scores, self.metric(dataloader_idx).list_k, seen)
        self.measure(dataloader_idx, ranks, batch.targets, top, batch.grades)

    def on_validation_epoch_end(self) -> None:
        super().on_validation_epoch_end()
        self.item_vectors = None


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
