"""The retriever's training: encode items; encode users; gather the items of all processes; sampled softmax; log."""

import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from recsys.batch import EvaluationBatch, ItemBatch, RetrieverBatch, TextBatch, join_texts
from recsys.errors import InputError
from recsys.losses.cached import CachedVectors, cut_chunks, encode_in_chunks
from recsys.losses.distill import kl_to_teacher, margin_mse
from recsys.losses.in_batch import first_seen, listed_columns, log_chance, sampled_softmax
from recsys.metrics.ranking import rank_of_targets, top_items
from recsys.models.towers import Retriever
from recsys.training.distributed import (
    Pool,
    average_gradients,
    first_process,
    gather_pool,
    hold_layers,
    is_sharded,
    leave_gradients_alone,
    processes,
    share_of_loss,
    sum_over_processes,
)
from recsys.training.optim import OptimConfig
from recsys.training.ranked import RankedTraining

Pixels = Callable[[np.ndarray], dict[str, Tensor]]
"""Rows of the items table -> `image` and `image_known` of an ItemBatch."""

_SHOWN = 512  # rows whose negatives are counted, once


@dataclass(frozen=True, kw_only=True)
class CachedConfig:
    """How large a chunk is: whichever limit is met first."""

    rows: int | None = None
    """Texts."""
    tokens: int | None = 8192
    """Tokens, padding included."""

    def __post_init__(self) -> None:
        limits = [limit for limit in (self.rows, self.tokens) if limit is not None]
        if not limits or min(limits) < 1:
            raise InputError(f"loss.cached: set rows or tokens, to at least 1; found {self}.")


@dataclass(frozen=True, kw_only=True)
class TeacherConfig:
    """A pruner, or a larger retriever, whose judgement of train queries' candidates is learnt beside what is right."""

    logits: str
    """Folder that `infer.py teach` wrote, or a Parquet file with query_id, item_id and logit."""
    kind: Literal["kl", "margin_mse"] = "kl"
    """kl: divergence from the teacher's softmax; margin_mse: squared difference of the right item's margins."""
    candidates: int = 8
    """Of a query, drawn anew in each epoch, the right one among them."""
    weight: float = 1.0
    """Of this loss beside the softmax over the batch."""
    temperature: float = 1.0
    """That the teacher's logits are divided by."""

    def __post_init__(self) -> None:
        if self.candidates < 2 or self.weight <= 0 or self.temperature <= 0:
            raise InputError(f"teacher: expected candidates from 2, weight and temperature above 0; found {self}.")


@dataclass(frozen=True, kw_only=True)
class LossConfig:
    """How the loss is computed."""

    block: int = 512
    """Rows whose scores exist at one time; memory is block x items."""
    products: Literal["auto", "float32", "bfloat16"] = "float32"
    """Precision of the score products: bfloat16 is several times faster where the chip has it; auto: bfloat16 in a run
    of trainer.precision bf16-mixed. The softmax is always float32."""
    cached: CachedConfig | None = None
    """Encode texts in chunks, with the activations of one at a time: batches of any size in the same memory, for a
    second forward pass (GradCache). null: the whole batch at once."""

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
        pixels: Pixels | None = None,
        teacher: TeacherConfig | None = None,
    ) -> None:
        """`valid` names the validation loaders (a prefix of their metrics); `popularity` is [N] train interactions;
        `pixels` reads the pictures that `catalogue` leaves out.
        """
        super().__init__(model, popularity, valid=valid, optim=optim, total_steps=total_steps)
        self.catalogue, self.loss, self.pixels, self.teacher = catalogue, loss, pixels, teacher
        self.item_vectors: Tensor | None = None
        self.cached: CachedVectors | None = None
        self.told = False

    def on_fit_start(self) -> None:
        self.catalogue = self.catalogue.to(self.device)
        if self.loss.cached is not None:
            leave_gradients_alone(self.trainer.strategy.model or self.model)

    def training_step(self, batch: RetrieverBatch, _: int) -> Tensor:
        batch = self._with_texts_read(batch)
        items = self.model.encode_items(self.catalogue if batch.items is None else batch.items)
        users = self.model.encode_users(batch.users, items)[batch.row, batch.step]
        loss = self._loss(users, self._pool(batch, items), batch)
        self.log("train/loss", sum_over_processes(loss) / processes(), batch_size=len(batch.row), prog_bar=True)
        return loss

    def product_flops(self, batch: RetrieverBatch) -> Tensor | float:
        """The scores of all columns, and the attention of the history's encoder."""
        columns = len(self.catalogue.index) if batch.item is None else len(batch.item) * processes()
        scores = 6.0 * len(batch.row) * columns * self.model.width
        history = self.model.users.history
        if history is None:
            return scores
        lengths = batch.users.history_mask.sum(1, dtype=torch.float64)
        return scores + 12.0 * len(history.blocks) * self.model.width * lengths.square().sum()

    def _pool(self, batch: RetrieverBatch, items: Tensor) -> Pool:
        """The columns: every item of the catalogue, or those that the processes have in their batches."""
        if batch.item is not None:
            return gather_pool(batch.item, items, len(batch.row), missed=batch.missed, draws=batch.draws)
        rows = int(sum_over_processes(torch.tensor(len(batch.row), device=items.device)))
        every = torch.arange(len(items), device=items.device)
        return Pool(item=every, vectors=items, missed=None, draws=None, rows=rows)

    def _loss(self, users: Tensor, pool: Pool, batch: RetrieverBatch) -> Tensor:
        """This process's part: the mean over processes is the mean over all their rows."""
        here = pool.holds(batch.seen_item)
        column = pool.columns(batch.seen_item[here])
        seen = first_seen(len(batch.users.history), len(pool.item), batch.seen_row[here], column, batch.seen_step[here])
        log_q = None if pool.missed is None or pool.draws is None else log_chance(pool.missed, pool.draws)
        if not self.told:
            self.told = True
            if first_process():
                print(_negatives(pool, seen[batch.row[:_SHOWN]] <= batch.step[:_SHOWN, None]), file=sys.stderr)
        columns: dict[str, Any] = {"seen": seen, "row": batch.row, "step": batch.step, "log_q": log_q}
        vectors, target = self.model.vectors(pool.vectors), pool.columns(batch.target)
        loss = sampled_softmax(
            users, vectors, target, scale=self.model.scale, block=self.loss.block, dtype=self._products(), **columns
        )
        if self.model.dynamic is not None:
            loss = loss + self._dynamic_loss(users, pool.vectors, target, columns)
        if self.teacher is not None and batch.taught_item is not None and batch.taught_logit is not None:
            loss = loss + self.teacher.weight * self._taught_loss(users, pool, batch.taught_item, batch.taught_logit)
        return loss * share_of_loss(len(batch.row), pool.rows)

    def _taught_loss(self, users: Tensor, pool: Pool, items: Tensor, scores: Tensor) -> Tensor:
        """Mean over rows of what the student's order of the candidates differs from the teacher's."""
        assert self.teacher is not None
        with torch.autocast(users.device.type, enabled=False):
            logits = self.model.scale * self.model.score(users, F.embedding(pool.columns(items), pool.vectors))
            each = {"kl": kl_to_teacher, "margin_mse": margin_mse}[self.teacher.kind](
                logits, scores, (items >= 0) & pool.holds(items), self.teacher.temperature
            )
        return each.sum() / max(len(each), 1)

    def _dynamic_loss(self, users: Tensor, items: Tensor, target: Tensor, columns: dict[str, Any]) -> Tensor:
        """Mean cross-entropy of u . S_i over each positive and some of the list that plain scores make around it."""
        config, scale = self.model.config.dynamic, self.model.scale
        assert config is not None
        log_q: Tensor | None = columns["log_q"]
        listed = {name: columns[name] for name in ("seen", "row", "step")}
        chosen, masked = listed_columns(
            users, self.model.vectors(items), target, depth=config.candidates, count=config.negatives,
            block=self.loss.block, **listed,
        )  # fmt: skip
        total = users.new_zeros(())
        with torch.autocast(users.device.type, enabled=False):
            for rows in torch.arange(len(users), device=users.device).split(self.loss.block):
                states = F.embedding(chosen[rows], items)
                logits = scale * self.model.score(users[rows], states)
                logits = logits if log_q is None else logits - log_q[chosen[rows]]
                total = total - logits.masked_fill(masked[rows], float("-inf")).log_softmax(1)[:, 0].sum()
        return total / max(len(users), 1)

    def _with_texts_read(self, batch: RetrieverBatch) -> RetrieverBatch:
        """The same batch with vectors in place of texts: those of items and of queries in one call of the encoder that
        they share, so that it is called equally often whatever a process's batch holds.
        """
        items, users = batch.items, batch.users
        told = [None if items is None else items.text, users.query_text]
        texts = [text for text in told if text is not None]
        if not texts:
            return batch
        parts = iter(self._text_vectors(join_texts(texts)).split([len(text.ids) for text in texts]))
        if items is not None and items.text is not None:
            items = replace(items, text=None, text_vector=next(parts))
        if users.query_text is not None:
            users = replace(users, query_text=None, query_vector=next(parts))
        return replace(batch, items=items, users=users)

    def _text_vectors(self, texts: TextBatch) -> Tensor:
        """[q, W]; with `loss.cached`, of chunks, and `backward` takes their gradients on to the text encoder."""
        encoder, config = self.model.text, self.loss.cached
        assert encoder is not None
        if config is None:
            return encoder(texts)
        order = cut_chunks(texts.mask.sum(1), rows=config.rows, tokens=config.tokens)
        chunks, sizes = [texts.take(rows) for rows in order], list(map(len, order))
        made = encode_in_chunks(encoder, chunks, sizes, texts.ids.device)
        self.cached = made
        return made.vectors[torch.cat(order).argsort()]

    def backward(self, loss: Tensor, *args: Any, **kwargs: Any) -> None:
        super().backward(loss, *args, **kwargs)
        if self.cached is not None:
            self.cached.backward(self.trainer.precision_plugin.train_step_context)
            self.cached = None
        if self.loss.cached is not None or is_sharded(self.model):
            average_gradients(self.model.parameters())

    def _products(self) -> torch.dtype:
        """Of the score products."""
        match self.loss.products:
            case "auto":
                return torch.bfloat16 if self.trainer.precision == "bf16-mixed" else torch.float32
            case named:
                return getattr(torch, named)

    def on_validation_epoch_start(self) -> None:
        if is_sharded(self.model):
            hold_layers(self.model, whole=True)
        self.item_vectors = encode_catalogue(self.model, self.catalogue.to(self.device), pixels=self.pixels)

    def validation_step(self, batch: EvaluationBatch, _: int, dataloader_idx: int = 0) -> None:
        assert self.item_vectors is not None
        scores, seen = score_requests(self.model, self.item_vectors, batch)
        ranks = rank_of_targets(scores, batch.targets, seen)
        top = top_items(scores, self.metric(dataloader_idx).list_k, seen)
        self.measure(dataloader_idx, ranks, batch.targets, top, batch.grades)

    def on_validation_epoch_end(self) -> None:
        super().on_validation_epoch_end()
        self.item_vectors = None
        if is_sharded(self.model):
            hold_layers(self.model, whole=False)


def _negatives(pool: Pool, masked: Tensor) -> str:
    """One sentence; `masked` [rows, n] of some rows."""
    held = float(masked.sum(1, dtype=torch.float32).mean()) if len(masked) else 0.0
    effective = len(pool.item) - 1 - held
    return f"negatives: {effective:,.0f} a row, of {len(pool.item):,} items in the batch of {processes()} process(es)"


@torch.no_grad()
def encode_catalogue(
    model: Retriever, catalogue: ItemBatch, block: int = 512, *, pixels: Pixels | None = None
) -> Tensor:
    """[N, D] vectors of all items, in blocks where texts or pictures have to be encoded. Called outside autocast."""
    if catalogue.text is None and pixels is None:
        return model.encode_items(catalogue)
    device = catalogue.index.device
    blocks = torch.arange(len(catalogue.index), device=device).split(block)
    return torch.cat([model.encode_items(_with_pictures(catalogue.take(rows), rows, pixels)) for rows in blocks])


def _with_pictures(batch: ItemBatch, rows: Tensor, pixels: Pixels | None) -> ItemBatch:
    """The same items, these rows of the items table, with their pictures."""
    if pixels is None:
        return batch
    found = {name: values.to(rows.device) for name, values in pixels(rows.cpu().numpy()).items()}
    return replace(batch, image=found["image"], image_known=found["image_known"])


@torch.no_grad()
def score_requests(model: Retriever, items: Tensor, batch: EvaluationBatch) -> tuple[Tensor, Tensor]:
    """[B, N] scores of all items, and which of them the user already had.

    In float32 outside autocast, as inference computes them, so that both rank alike. With a dynamic representation the
    first of those that are left are in its order, and all others behind them.
    """
    with torch.autocast(items.device.type, enabled=False):
        states = model.encode_users(batch.users, items)
        users = states[torch.arange(len(batch.step), device=items.device), batch.step]
        scores = users @ model.vectors(items).T
        seen = torch.zeros_like(scores, dtype=torch.bool)
        seen[batch.seen_row, batch.seen_item] = True
        return (scores if model.config.dynamic is None else _reordered(model, users, items, scores, seen)), seen


def _reordered(model: Retriever, users: Tensor, items: Tensor, scores: Tensor, seen: Tensor) -> Tensor:
    """[B, N] plain scores, but those of each row's first unseen items, which are so high that S_i's order is first."""
    assert model.config.dynamic is not None
    count = min(model.config.dynamic.candidates, len(items))
    first = top_items(scores, count, seen)  # [B, C], -1 where fewer are left
    rows = first.clamp_min(0)
    parts = zip(users.split(64), rows.split(64), strict=True)
    judged = torch.cat([model.score(some, F.embedding(own, items)) for some, own in parts])
    judged = judged.masked_fill(first < 0, float("-inf"))
    lift = scores.amax(1, keepdim=True) - judged.masked_fill(first < 0, float("inf")).amin(1, keepdim=True) + 1
    return scores.scatter_reduce(1, rows, judged + lift, "amax")
