"""The order of batches, whoever asks for them, and a run that goes on where it stopped."""

import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from lightning import Callback, LightningModule, Trainer
from torch import Tensor

from recsys.batch import Batch
from recsys.data.datamodule import DataModule, GlobalBatches, LoaderConfig, ResumableLoader
from recsys.data.sampling import Draw
from recsys.errors import InputError


@dataclass(frozen=True, kw_only=True)
class Shown(Batch):
    """What was drawn."""

    rows: Tensor
    epoch: int
    number: int


class Counted:
    """Rows that say who they are."""

    alike = None

    def __init__(self, sizes: tuple[int, ...] = (13,), broken: int = -1) -> None:
        self.sizes, self.broken = sizes, broken

    def lengths(self, epoch: int) -> np.ndarray:
        return (np.arange(sum(self.sizes)) * (epoch + 3)) % 7

    def groups(self) -> np.ndarray:
        return np.repeat(np.arange(len(self.sizes)), self.sizes)

    def assemble(self, draw: Draw) -> Shown:
        if self.broken in draw.rows:
            raise ValueError("broken row")
        return Shown(rows=torch.from_numpy(draw.rows), epoch=draw.epoch, number=draw.number)


def loader(rows: Counted | None = None, *, batch_size: int = 4, workers: int = 0, **place) -> ResumableLoader:
    batches = GlobalBatches(rows or Counted(), LoaderConfig(batch_size=batch_size), seed=3, **place)
    return ResumableLoader(batches, workers=workers, pin_memory=False)


def told(batch: Shown) -> tuple[int, int, tuple[int, ...]]:
    return batch.epoch, batch.number, tuple(batch.rows.tolist())


class Slow(Counted):
    """Rows that take a while."""

    def assemble(self, draw: Draw) -> Shown:
        time.sleep(0.02)
        return super().assemble(draw)


def test_the_wait_for_batches_is_counted_and_no_other_time():
    fast, slow = loader(), loader(Slow())
    for one in (fast, slow):
        for _ in one:
            time.sleep(0.01)
    assert slow.waited > 3 * 0.005  # three batches, each made while the trainer was busy for half of that time
    assert fast.waited < 3 * 0.01


def epochs(one: ResumableLoader, count: int) -> list[tuple[int, int, tuple[int, ...]]]:
    return [told(batch) for _ in range(count) for batch in one]


def joined(ranks: list[ResumableLoader], count: int) -> list[tuple[int, int, frozenset[int]]]:
    """The global batches that ranks make together; each rank's share is as large as the others'."""
    found = []
    for parts in zip(*(epochs(one, count) for one in ranks), strict=True):
        assert len({(epoch, number, len(rows)) for epoch, number, rows in parts}) == 1
        found.append((*parts[0][:2], frozenset(row for *_, rows in parts for row in rows)))
    return found


def world(size: int, **changes) -> list[ResumableLoader]:
    return [loader(Counted((29, 8)), rank=rank, world=size, **changes) for rank in range(size)]


def test_passes_go_on_to_the_next_epoch_in_another_order():
    found = epochs(loader(), 3)
    assert [(epoch, number) for epoch, number, _ in found] == [
        (epoch, number) for epoch in range(3) for number in range(3)
    ]
    assert len({rows for *_, rows in found}) == 9
    assert found == epochs(loader(), 3)
    assert len(loader()) == 3


@pytest.mark.parametrize("size", [2, 4])
def test_the_number_of_processes_does_not_change_the_global_batches(size):
    assert joined(world(size), 3) == joined(world(1), 3)


def test_batches_made_ahead_by_processes_are_the_same():
    assert epochs(loader(workers=1), 2) == epochs(loader(), 2)


@pytest.mark.parametrize(("before", "after"), [(1, 1), (1, 2), (2, 1), (4, 2)])
def test_a_pass_that_was_broken_off_goes_on_exactly_on_any_number_of_processes(before, after):
    whole = joined(world(1), 3)
    for given in range(1, 9):
        first = world(before)
        states = []
        for one in first:
            for _ in one:  # an epoch, so that the second one is broken off
                pass
            source = iter(one)
            for _ in range(given):
                next(source)
            states.append(one.state_dict())
            source.close()
        assert states == [{"epoch": 1, "rows": given * 4}] * before
        again = world(after)
        for one in again:
            one.load_state_dict(states[0])
            assert one.state_dict() == states[0]
        assert joined(again, 2) == whole[9 + given :]


def test_what_was_made_ahead_and_not_given_does_not_count():
    one = loader(Counted((400,)))
    source = iter(one)
    next(source)
    assert one.state_dict() == {"epoch": 0, "rows": 4}
    source.close()


def test_an_epoch_that_the_trainer_names_begins_anew():
    one = loader()
    one.load_state_dict({"epoch": 1, "rows": 8})
    one.batches.set_epoch(1)  # the same epoch: it goes on
    assert epochs(one, 1) == epochs(loader(), 2)[5:]
    one.batches.set_epoch(0)
    assert epochs(one, 1) == epochs(loader(), 1)


def test_a_loader_leaves_the_global_random_numbers_alone():
    torch.manual_seed(0)
    expected = torch.get_rng_state()
    epochs(loader(), 2)
    assert torch.equal(torch.get_rng_state(), expected)


def test_a_fault_in_a_batch_reaches_the_trainer():
    with pytest.raises(ValueError, match="broken row"):
        epochs(loader(Counted(broken=5)), 3)


def test_shapes_that_cannot_be_equal_are_refused():
    with pytest.raises(InputError, match=r"A batch of 4 rows cannot be dealt to 3 processes.*multiple of 3"):
        loader(world=3)
    with pytest.raises(InputError, match="A batch of 3 rows cannot be dealt to 2 processes"):
        loader(Counted((12, 3)), world=2)
    assert len(loader(Counted((12, 3)))) == 4


@pytest.mark.parametrize("changes", [{"batch_size": 0}, {"bucket": 0}, {"workers": -1}])
def test_settings_that_make_no_sense_are_refused(changes):
    with pytest.raises(InputError, match="batch_size and bucket must be at least 1"):
        LoaderConfig(**changes)


class Learner(LightningModule):
    """Writes down what it is given."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(1))
        self.given: list[tuple[int, int, tuple[int, ...]]] = []
        self.validated: list[str] = []

    def training_step(self, batch: Shown, _: int) -> Tensor:
        self.given.append(told(batch))
        return self.weight.sum()

    def validation_step(self, batch: str, _: int) -> None:
        self.validated.append(batch)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), 0.1)


class Once:
    """A validation loader of one batch."""

    def __init__(self, batch: str) -> None:
        self.batch = batch

    def __iter__(self) -> Iterator[str]:
        yield self.batch


class Saver(Callback):
    """Saves after a step, or at the end of the epoch that the step ends."""

    def __init__(self, folder: Path, step: int, *, epoch_end: bool) -> None:
        self.path, self.step, self.epoch_end = folder / "a.ckpt", step, epoch_end

    def on_train_batch_end(self, trainer: Trainer, *_) -> None:
        if trainer.global_step == self.step and not self.epoch_end:
            trainer.save_checkpoint(self.path)

    def on_train_epoch_end(self, trainer: Trainer, *_) -> None:
        if trainer.global_step == self.step and self.epoch_end:
            trainer.save_checkpoint(self.path)


def fit(folder: Path, callbacks: list[Callback], checkpoint: Path | None = None, workers: int = 0) -> Learner:
    module = Learner()
    config = LoaderConfig(batch_size=4, workers=workers)
    data = DataModule(Counted(), lambda rank, world: [Once(f"rank {rank} of {world}")], config, seed=3)
    trainer = Trainer(
        max_epochs=4, accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False,
        enable_model_summary=False, use_distributed_sampler=False, num_sanity_val_steps=0, callbacks=callbacks,
        default_root_dir=folder,
    )  # fmt: skip
    trainer.fit(module, datamodule=data, ckpt_path=checkpoint, weights_only=True)
    return module


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(("step", "epoch_end"), [(1, False), (5, False), (6, False), (6, True)])
def test_a_resumed_training_is_given_exactly_what_is_left(tmp_path, step, epoch_end):
    saver = Saver(tmp_path, step, epoch_end=epoch_end)
    whole = fit(tmp_path, [saver])
    assert whole.given == epochs(loader(), 4)
    assert whole.validated == ["rank 0 of 1"] * 4
    assert fit(tmp_path, [], saver.path).given == whole.given[step:]
