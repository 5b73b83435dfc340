"""What a training will need, told before it is submitted: memory, hours, negatives, data, the line to submit it by.

Nothing is guessed that can be measured here: two small batches of the real data go through the real model, in float32,
and what they save for the backward pass and how many operations they are is carried over, by tokens, to the config's
own batch.
"""

import math
import re
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from recsys.batch import Batch
from recsys.data.datasets import Rows
from recsys.data.sampling import Draw, deal_batches
from recsys.errors import InputError, nearest
from recsys.losses.cached import cut_chunks
from recsys.training.module import TrainingModule
from recsys.training.peak import GPUS
from recsys.training.run import RunConfig

EFFICIENCY = 0.3
"""Share of these that a training reaches, unless --efficiency says what was measured."""
PROBE = 64  # rows of the larger of the two small batches, at most: both are read in groups, as a whole batch is
_TRIED, _TRIES, _RATE = 8, 60, 2e-3
_GIB = 2**30


@dataclass(frozen=True, kw_only=True)
class Machines:
    """What is asked for: --gpus=8xV100 --nodes=2."""

    each: int
    kind: str
    nodes: int
    efficiency: float

    @classmethod
    def parse(cls, gpus: str, nodes: str, efficiency: str) -> "Machines":
        """InputError for what is no such thing."""
        found = re.fullmatch(r"(\d+)x(.+)", gpus)
        if not found or found[2] not in GPUS or int(found[1]) < 1:
            hint = nearest(found[2] if found else gpus, GPUS)
            raise InputError(f"--gpus is {gpus!r}; expected NUMBERxKIND, as 8xA100, of {', '.join(GPUS)}.{hint}")
        try:
            count, share = int(nodes), float(efficiency)
        except ValueError:
            raise InputError(
                f"--nodes={nodes} --efficiency={efficiency}: expected a whole number and a share."
            ) from None
        if count < 1 or not 0 < share <= 1:
            raise InputError(f"--nodes={nodes} --efficiency={efficiency}: expected at least 1 node, a share up to 1.")
        return cls(each=int(found[1]), kind=found[2], nodes=count, efficiency=share)

    @property
    def processes(self) -> int:
        """One for each GPU."""
        return self.each * self.nodes


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What one process needs, and what all of them do."""

    memory: dict[str, float]
    """Bytes of each part, on one GPU."""
    flops: float
    """Of one step, over all processes."""
    steps: int
    negatives: int | None
    batch_bytes: float
    """That a process reads for one step."""

    def hours(self, machines: Machines) -> float:
        """Of the whole training."""
        return (
            self.flops * self.steps / (machines.processes * GPUS[machines.kind][1] * 1e12 * machines.efficiency) / 3600
        )


@dataclass(frozen=True, kw_only=True)
class _Probe:
    work: int
    saved: float  # bytes for the backward pass
    flops: float


def plan(config: RunConfig, module: TrainingModule, rows: Rows, machines: Machines) -> Plan:
    """Measure small batches, and carry over. Raises InputError where the batch cannot be dealt to the processes."""
    batches = deal_batches(
        rows.lengths(0), rows.groups(), batch_size=config.loader.batch_size, bucket=config.loader.bucket,
        seed=config.seed, epoch=0,
    )  # fmt: skip
    size, world = max(map(len, batches)), machines.processes
    if size % world:
        raise InputError(f"A batch of {size} rows cannot be dealt to {world} processes; set loader.batch_size.")
    typical = max(batches, key=len)
    most = min(PROBE, size)
    few, many = (_probe(module, rows.assemble(_draw(typical, count))) for count in (max(most // 2, 1), most))
    local = size // world

    whole: Any = rows.assemble(Draw(epoch=0, number=0, rows=typical))
    mine = rows.assemble(Draw(epoch=0, number=0, rows=typical[:local]))  # the longest texts
    spread = rows.assemble(Draw(epoch=0, number=0, rows=typical[::world]))

    def carried(name: str, batch: Any) -> float:
        if batch.rows <= PROBE:  # small enough to be measured itself
            return getattr(_probe(module, batch), name)
        slope = (getattr(many, name) - getattr(few, name)) / max(many.work - few.work, 1)
        return max(getattr(few, name) + slope * (batch.tokens - few.work), 0.0)

    columns = None if getattr(whole, "item", None) is None else len(whole.item)
    return Plan(
        memory={**_states(module.model, world), "activations": carried("saved", mine) + _chunk(module, mine)},
        flops=carried("flops", spread) * world, negatives=None if columns is None else columns - 1,
        steps=config.optim.epochs * math.ceil(len(batches) / config.trainer.accumulate),
        batch_bytes=_bytes(mine),
    )  # fmt: skip


def _draw(batch: np.ndarray, count: int) -> Draw:
    """Rows spread over a batch, whose rows are sorted by length."""
    return Draw(epoch=0, number=0, rows=batch[np.linspace(0, len(batch) - 1, min(count, len(batch))).astype(int)])


def _states(model: nn.Module, world: int) -> dict[str, float]:
    """Weights, gradients, Adam's two moments, and the buckets in which DDP sums gradients."""
    every = sum(weight.numel() * weight.element_size() for weight in model.parameters())
    trained = sum(weight.numel() * 4 for weight in model.parameters() if weight.requires_grad)
    buckets = {"DDP's buckets": float(trained)} if world > 1 else {}
    return {"weights": float(every), "gradients": float(trained), "Adam": 2.0 * trained, **buckets}


def _probe(module: Any, batch: Any) -> _Probe:
    """Forward and backward of one small batch: operations, and the distinct tensors that are kept between the two."""
    module.train()
    module.told = True
    with FlopCounterMode(display=False) as counter:
        with _kept(module) as kept:
            loss = module.training_step(batch, 0)
        loss.backward()
        _backward_cached(module)
    module.zero_grad(set_to_none=True)
    return _Probe(work=batch.tokens, saved=float(sum(kept.values())), flops=float(counter.get_total_flops()))


def _backward_cached(module: Any) -> None:
    """Under a cached loss, the gradients of its chunks."""
    cached = getattr(module, "cached", None)
    if cached is not None:
        cached.backward()


@contextmanager
def _kept(module: nn.Module) -> Generator[dict[int, int]]:
    """Bytes of each storage that is saved for the backward pass in this block, without the weights."""
    kept: dict[int, int] = {}
    weights = {weight.untyped_storage().data_ptr() for weight in module.parameters()}

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        place = tensor.untyped_storage().data_ptr()
        if place not in weights:
            kept[place] = tensor.untyped_storage().nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        yield kept


def _chunk(module: Any, batch: Any) -> float:
    """Under a cached loss: what the largest chunk of texts keeps while it is encoded for its gradient; else nothing."""
    config = getattr(getattr(module, "loss", None), "cached", None)
    if config is None:
        return 0.0
    texts = [text for text in (batch.items.text if batch.items else None, batch.users.query_text) if text is not None]
    found = [0.0]
    for text in texts:
        rows = cut_chunks(text.mask.sum(1), rows=config.rows, tokens=config.tokens)[0]
        with _kept(module) as kept:
            encoded = module.model.text(text.take(rows))
        found.append(float(sum(kept.values())))
        del encoded
    return max(found)


def _bytes(batch: Any) -> float:
    parts = vars(batch).values()
    tensors = sum(part.numel() * part.element_size() for part in parts if isinstance(part, torch.Tensor))
    return float(tensors + sum(_bytes(part) for part in parts if isinstance(part, Batch)))


def overfit(module: Any, rows: Rows) -> tuple[float, float]:
    """The loss of one small batch before and after learning from it alone."""
    batch = rows.assemble(_draw(np.flatnonzero(rows.groups() == rows.groups()[0]), _TRIED))
    module.train()
    weights = [weight for weight in module.parameters() if weight.requires_grad]
    optimizer, losses = torch.optim.AdamW(weights, lr=_RATE), []
    for _ in range(_TRIES):
        optimizer.zero_grad()
        loss = module.training_step(batch, 0)
        loss.backward()
        _backward_cached(module)
        optimizer.step()
        losses.append(float(loss.detach()))
    return losses[0], losses[-1]


def describe(found: Plan, machines: Machines, arguments: Sequence[str]) -> str:
    """The plan as lines."""
    memory, peak = GPUS[machines.kind]
    total, hours = sum(found.memory.values()), found.hours(machines)
    seconds = hours * 3600 / max(found.steps, 1)
    room = f"of {memory} GiB" + (
        "" if total < 0.9 * memory * _GIB else ": TOO MUCH; use loss.cached or a smaller batch"
    )
    lines = [f"{machines.nodes} x {machines.each} {machines.kind}, {machines.processes} processes", ""]
    lines += [f"  {name:<18}{size / _GIB:>9.2f} GiB" for name, size in found.memory.items()]
    lines += [f"  {'together':<18}{total / _GIB:>9.2f} GiB a GPU {room}", ""]
    lines += [f"  {'steps':<18}{found.steps:>9,}", f"  {'a step':<18}{found.flops / 1e12:>9.2f} TFLOP, {seconds:.3f} s"]
    lines += [f"  {'hours':<18}{hours:>9.2f} at {machines.efficiency:.0%} of {peak} TFLOP/s a GPU"]
    if found.negatives is not None:
        lines.append(f"  {'negatives a row':<18}{found.negatives:>9,}")
    rate = found.batch_bytes / max(seconds, 1e-9)
    lines += [f"  {'data a process':<18}{rate / 2**20:>9.2f} MiB/s, {found.batch_bytes / 2**20:.2f} MiB a step", ""]
    minutes = max(math.ceil(1.5 * hours * 60), 10)  # half as much again
    time = f"{minutes // 60:02d}:{minutes % 60:02d}:00"
    options = f"--nodes={machines.nodes} --ntasks-per-node={machines.each} --gres=gpu:{machines.each} --time={time}"
    return "\n".join([*lines, f"sbatch {options} slurm/train.sbatch {' '.join(arguments)}"])
