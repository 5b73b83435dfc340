"""Collectives, all of them: what one process of several asks of the others. Alone, each is the plain thing."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from lightning.pytorch.utilities import rank_zero_only
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.parallel import DistributedDataParallel


def processes() -> int:
    """How many train together."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


@dataclass(frozen=True, kw_only=True)
class Pool:
    """The columns of a step: the distinct items of all processes, and what all of them have drawn."""

    item: Tensor  # [n] int64, rising
    vectors: Tensor  # [n, D]
    missed: Tensor | None  # [n, S]
    draws: Tensor | None  # [S] int64
    rows: int
    """Supervised rows of all processes."""

    def columns(self, items: Tensor) -> Tensor:
        """[...] the column of each item; a meaningless one for an item that is not there."""
        return torch.searchsorted(self.item, items).clamp_(max=len(self.item) - 1)

    def holds(self, items: Tensor) -> Tensor:
        """[...] bool: which of these items are columns."""
        return self.item[self.columns(items)] == items


def gather_pool(
    item: Tensor, vectors: Tensor, rows: int, *, missed: Tensor | None = None, draws: Tensor | None = None
) -> Pool:
    """The items of all processes as the columns of each, with exact gradients.

    An item that several processes hold is one column, the first one's: its vector gets the whole gradient. A process
    then takes the mean over its own rows times `share_of_loss`, and the gradients that DDP averages are those of one
    process with the whole batch (`tests/test_two_ranks.py`).

    Args:
        item: [n] int64 distinct rows of the items table, rising.
        vectors: [n, D] of these items.
        rows: supervised rows of this process.
        missed: [n, S], known alike by every process that holds the item; None on all of them or on none.
        draws: [S] of this process.
    """
    if processes() == 1:
        return Pool(item=item, vectors=vectors, missed=missed, draws=draws, rows=rows)
    told = torch.tensor([len(item), rows], device=item.device)
    counts = _gather(told if draws is None else torch.cat([told, draws]))  # [W, 2 + S]
    most = int(counts[:, 0].max())
    items = _gather(F.pad(item, (0, most - len(item)), value=-1)).flatten()
    distinct, place = items.unique(return_inverse=True)  # rising; -1 first, if any process had fewer than the most
    first = torch.full_like(distinct, len(items)).scatter_reduce(
        0, place, torch.arange(len(items), device=items.device), "amin"
    )
    first = first[distinct >= 0]
    return Pool(
        item=items[first],
        vectors=_Gather.apply(F.pad(vectors, (0, 0, 0, most - len(vectors)))).flatten(0, 1)[first],  # pyright: ignore
        missed=None if missed is None else _gather(F.pad(missed, (0, 0, 0, most - len(missed)))).flatten(0, 1)[first],
        draws=None if draws is None else counts[:, 2:].sum(0),
        rows=int(counts[:, 1].sum()),
    )


def share_of_loss(rows: int, total: int) -> float:
    """What the mean over this process's `rows` counts: the mean over processes is then that over all `total` rows."""
    return rows * processes() / max(total, 1)


def first_process() -> bool:
    """Whether this process is the one that writes; known from the environment before the processes have met."""
    return rank_zero_only.rank == 0


def highest(number: int, device: torch.device) -> int:
    """The highest of all processes' numbers: what one of them has seen, all know."""
    if processes() == 1:
        return number
    found = torch.tensor(number, device=device)
    dist.all_reduce(found, op=dist.ReduceOp.MAX)
    return int(found)


def sum_over_processes(value: Tensor) -> Tensor:
    """The sum of a tensor, without gradient."""
    total = value.detach().clone()
    if processes() > 1:
        dist.all_reduce(total)
    return total


def leave_gradients_alone(model: nn.Module) -> None:
    """DDP no longer averages gradients while they are made: `average_gradients` does, when all of them are there."""
    if isinstance(model, DistributedDataParallel):
        model.require_backward_grad_sync = False


def average_gradients(weights: Iterable[nn.Parameter]) -> None:
    """The mean of the gradients of all processes; a weight that has none here counts as zero.

    Averaging what is averaged already changes nothing, so it may follow every batch of an accumulated step.
    """
    if processes() == 1:
        return
    kinds: dict[torch.dtype, list[nn.Parameter]] = {}
    for weight in weights:
        if weight.requires_grad:
            weight.grad = torch.zeros_like(weight) if weight.grad is None else weight.grad
            kinds.setdefault(weight.dtype, []).append(weight)
    for same in kinds.values():
        grads = [weight.grad for weight in same if weight.grad is not None]
        flat = torch.cat([grad.flatten() for grad in grads])
        dist.all_reduce(flat)
        flat /= processes()
        for grad, part in zip(grads, flat.split([grad.numel() for grad in grads]), strict=True):
            grad.copy_(part.view_as(grad))


def _gather(value: Tensor) -> Tensor:
    """[W, ...] the value of each process; equal shapes, no gradient."""
    found = value.new_empty((processes() * len(value), *value.shape[1:]))
    dist.all_gather_single(found, value.contiguous())
    return found.view(processes(), *value.shape)


class _Gather(torch.autograd.Function):
    """[m, D] -> [W, m, D]. Backward: the sum of what all processes say of this one's part."""

    @staticmethod
    def forward(ctx: Any, value: Tensor) -> Tensor:
        return _gather(value)

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> Tensor:
        grad = grad_outputs[0].contiguous()
        own = torch.empty_like(grad[0])
        dist.reduce_scatter_single(own, grad.flatten(0, 1))
        return own
