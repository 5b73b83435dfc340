"""Collectives, all of them: what one process of several asks of the others. Alone, each is the plain thing."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from lightning.fabric.plugins.environments import ClusterEnvironment, SLURMEnvironment, TorchElasticEnvironment
from lightning.pytorch.utilities import rank_zero_only
from torch import Tensor, nn
from torch.distributed.checkpoint.state_dict import (
    StateDictOptions,
    get_model_state_dict,
    set_model_state_dict,
)
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import FSDPModule, fully_shard
from torch.distributed.tensor import DTensor
from torch.nn import functional as F
from torch.nn.parallel import DistributedDataParallel

_BELOW = 5000  # ports


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


def lowest_of_job(number: int) -> int:
    """The lowest number of all processes that SLURM or torchrun started, told before Lightning brings them together.

    Processes that Lightning starts itself are on this machine and would say the same.
    """
    kinds: list[type[ClusterEnvironment]] = [SLURMEnvironment, TorchElasticEnvironment]
    kind = next((one for one in kinds if one.detect()), None)
    job = None if kind is None else kind()
    if job is None or job.world_size() == 1:
        return number
    port = job.main_port - _BELOW  # the main port itself is for the training
    store = dist.TCPStore(job.main_address, port, job.world_size(), job.global_rank() == 0)
    store.set(str(job.global_rank()), str(number))
    lowest = min(int(store.get(str(rank))) for rank in range(job.world_size()))
    if store.add("read", 1) == job.world_size():
        store.set("all", "")
    if job.global_rank() == 0:
        store.wait(["all"])  # the store is gone with the process that holds it
    return lowest


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
        if weight.requires_grad and not isinstance(weight, DTensor):  # a sharded weight's gradient is averaged already
            weight.grad = torch.zeros_like(weight) if weight.grad is None else weight.grad
            kinds.setdefault(weight.dtype, []).append(weight)
    for same in kinds.values():
        grads = [weight.grad for weight in same if weight.grad is not None]
        flat = torch.cat([grad.flatten() for grad in grads])
        dist.all_reduce(flat)
        flat /= processes()
        for grad, part in zip(grads, flat.split([grad.numel() for grad in grads]), strict=True):
            grad.copy_(part.view_as(grad))


def shard_layers(encoder: nn.Module, mesh: DeviceMesh) -> None:
    """Keep each weight of a text model on one process alone (FSDP2), gathered layer by layer when it is needed.

    Every process has to call the model equally often, forward and backward.
    """
    if isinstance(encoder, FSDPModule):
        return
    layers = [layer for part in encoder.modules() if isinstance(part, nn.ModuleList) for layer in part]
    for layer in layers:
        fully_shard(layer, mesh=mesh)
    fully_shard(encoder, mesh=mesh)


def hold_layers(encoder: nn.Module, *, whole: bool) -> None:
    """Gather a sharded model for as long as processes call it unequally often; or give it back."""
    for part in encoder.modules():
        if isinstance(part, FSDPModule):
            part.set_reshard_after_forward(not whole, recurse=False)
            _ = part.unshard() if whole else part.reshard()


def whole_state(model: nn.Module) -> dict[str, Any]:
    """The state of a model, gathered from all processes where it is sharded; empty then on all but the first."""
    return get_model_state_dict(model, options=StateDictOptions(full_state_dict=True, cpu_offload=True))


def load_state(model: nn.Module, state: dict[str, Any]) -> None:
    """Give each process its part of a state that all of them have."""
    set_model_state_dict(model, state, options=StateDictOptions(full_state_dict=True))


def is_sharded(model: nn.Module) -> bool:
    """Whether a weight is on several processes."""
    return any(isinstance(weight, DTensor) for weight in model.parameters())


def clip_gradients(weights: Iterable[nn.Parameter], most: float) -> None:
    """Scale all gradients so that their norm together is at most `most`; some are whole here, some are sharded."""
    grads = [weight.grad for weight in weights if weight.grad is not None]
    norms = [grad.norm() for grad in grads]
    total = torch.stack([norm.full_tensor() if isinstance(norm, DTensor) else norm for norm in norms]).norm()
    for grad in grads:
        grad.mul_((most / (total + 1e-6)).clamp(max=1.0))


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
