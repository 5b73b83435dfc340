"""The one data module: retriever, pruner and masked-language training differ only in the rows they hand in."""

import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from lightning import LightningDataModule
from torch.utils.data import DataLoader, Dataset, Sampler

from recsys.batch import Batch
from recsys.data.datasets import Rows
from recsys.data.sampling import Draw, deal_batches, deal_to_rank
from recsys.errors import InputError


@dataclass(frozen=True, kw_only=True)
class LoaderConfig:
    """How rows become batches."""

    batch_size: int = 32
    """Global rows of one step, over all processes: users' windows, queries or candidate lists."""
    workers: int = 0
    """Processes that make batches; 0: one thread of the training process does."""
    bucket: int = 16
    """Batches whose rows are sorted by length together, so that a batch holds rows of like length."""

    def __post_init__(self) -> None:
        if self.batch_size < 1 or self.bucket < 1 or self.workers < 0:
            raise InputError(f"loader: batch_size and bucket must be at least 1 and workers at least 0; found {self}.")


class Assembler(Dataset[Batch]):
    """Makes the batch of a draw; the sampler hands in whole draws, the loader passes the batch on as it is."""

    def __init__(self, rows: Rows) -> None:
        self.rows = rows

    def __getitem__(self, draw: Draw) -> Batch:
        return self.rows.assemble(draw)


class GlobalBatches(Sampler[Draw]):
    """The draws of one process, from `skip` global batches on."""

    def __init__(self, rows: Rows, config: LoaderConfig, *, seed: int, rank: int = 0, world: int = 1) -> None:
        self.rows, self.config, self.seed, self.rank, self.world = rows, config, seed, rank, world
        self.epoch, self.skip = 0, 0
        sizes = [config.batch_size, *map(len, self._batches(0))]
        uneven = [size for size in sizes if size % world]
        if uneven:
            raise InputError(
                f"A batch of {uneven[0]} rows cannot be dealt to {world} processes in equal shapes; set "
                f"loader.batch_size to a multiple of {world} that is no larger than the number of rows of any task."
            )
        self.count = len(sizes) - 1

    def set_epoch(self, epoch: int) -> None:
        """Deal another epoch, from its start. Lightning calls this before every epoch, the resumed one included."""
        if epoch != self.epoch:
            self.epoch, self.skip = epoch, 0

    def _batches(self, epoch: int) -> list[np.ndarray]:
        return deal_batches(
            self.rows.lengths(epoch), self.rows.groups(), batch_size=self.config.batch_size, bucket=self.config.bucket,
            seed=self.seed, epoch=epoch, alike=self.rows.alike,
        )  # fmt: skip

    def __iter__(self) -> Iterator[Draw]:
        for number, batch in enumerate(self._batches(self.epoch)):
            if number >= self.skip:
                rows = deal_to_rank(batch, self.rank, self.world)
                yield Draw(
                    epoch=self.epoch, number=number, rows=rows, part=self.rank, parts=self.world, whole=batch
                )  # fmt: skip

    def __len__(self) -> int:
        return self.count


class ResumableLoader(DataLoader[Batch]):
    """A loader that knows how many global rows the trainer was given, so that a run can resume in mid-epoch."""

    def __init__(self, batches: GlobalBatches, *, workers: int, pin_memory: bool) -> None:
        super().__init__(
            Assembler(batches.rows), sampler=batches, batch_size=None, num_workers=workers, pin_memory=pin_memory,
            generator=torch.Generator(),  # else every epoch would draw from the global one, and a resumed run twice
        )  # fmt: skip
        self.batches = batches
        self.given = 0
        self.waited = 0.0
        """Seconds that the trainer has waited for batches, over all epochs."""

    def __iter__(self) -> Iterator[Batch]:
        self.given = self.batches.skip
        source = super().__iter__() if self.num_workers else _ahead(super().__iter__())
        while (batch := self._next(source)) is not None:
            self.given += 1
            yield batch
        self.batches.set_epoch(self.batches.epoch + 1)  # not reached under Lightning, which counts and stops asking
        self.given = 0

    def _next(self, source: Iterator[Batch]) -> Batch | None:
        begin = time.perf_counter()
        batch = next(source, None)
        self.waited += time.perf_counter() - begin
        return batch

    def state_dict(self) -> dict[str, int]:
        """Where the trainer stands: epoch, and global rows of it that were given out."""
        return {"epoch": self.batches.epoch, "rows": self.given * self.batches.config.batch_size}

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Go on from there, on any number of processes."""
        self.batches.epoch = state["epoch"]
        self.batches.skip = self.given = state["rows"] // self.batches.config.batch_size


def _ahead(source: Iterator[Batch], depth: int = 3) -> Iterator[Batch]:
    """The same batches in the same order, made by one thread a few ahead of their use."""
    with ThreadPoolExecutor(max_workers=1) as pool:
        waiting = [pool.submit(next, source, None) for _ in range(depth)]
        while (batch := waiting.pop(0).result()) is not None:
            waiting.append(pool.submit(next, source, None))
            yield batch


class DataModule(LightningDataModule):
    """Deals training rows to processes; validation rows are evaluated by whole parts, dealt in the same way."""

    def __init__(self, train: Rows, valid: Callable[[int, int], list[Any]], config: LoaderConfig, *, seed: int) -> None:
        """`valid(rank, world)` gives the validation loaders of one process; they need not be equal in length."""
        super().__init__()
        self.train, self.valid, self.config, self.seed = train, valid, config, seed

    def setup(self, stage: str) -> None:
        """All processes deal by what the first one holds to be alike: vectors differ a little between machines."""
        if self.train.alike is not None and self.trainer is not None:
            self.train.alike = self.trainer.strategy.broadcast(self.train.alike)

    def _place(self) -> tuple[int, int]:
        return (self.trainer.global_rank, self.trainer.world_size) if self.trainer else (0, 1)

    def train_dataloader(self) -> ResumableLoader:
        """The training loader of this process."""
        rank, world = self._place()
        batches = GlobalBatches(self.train, self.config, seed=self.seed, rank=rank, world=world)
        on_gpu = self.trainer is not None and self.trainer.strategy.root_device.type == "cuda"
        return ResumableLoader(batches, workers=self.config.workers, pin_memory=on_gpu)

    def val_dataloader(self) -> list[Any]:
        """The validation loaders of this process."""
        return self.valid(*self._place())
