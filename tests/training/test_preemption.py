import os
import signal
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning import LightningModule, Trainer
from torch import Tensor, nn
from torch.utils.data import DataLoader

from recsys.training.preemption import Interrupted, StopAtBoundary

BATCHES = 4


class Signalled(LightningModule):
    """A line fitted to nothing; its process gets a signal at some steps."""

    def __init__(self, at: tuple[int, ...] = (), number: int = signal.SIGINT) -> None:
        super().__init__()
        self.line, self.at, self.number, self.seen = nn.Linear(1, 1), at, number, 0
        self.validated = 0

    def training_step(self, batch: Tensor, _: int) -> Tensor:
        if self.seen in self.at:
            os.kill(os.getpid(), self.number)
        self.seen += 1
        return self.line(batch).square().mean()

    def validation_step(self, batch: Tensor, _: int) -> None:
        self.validated += 1

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.1)


def fit(module: Signalled, path: Path, **options: Any) -> Trainer:
    trainer = Trainer(
        **{"accelerator": "cpu", "max_epochs": 2, "logger": False, "callbacks": [StopAtBoundary(path)],
           "enable_progress_bar": False, "enable_model_summary": False, "num_sanity_val_steps": 0, **options},
    )  # fmt: skip
    trainer.fit(module, DataLoader(torch.ones(BATCHES, 1)), DataLoader(torch.ones(1, 1)))
    return trainer


def step_of(path: Path) -> int:
    return torch.load(path, weights_only=True)["global_step"]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_saves_at_the_end_of_its_step_and_stops(tmp_path: Path, number: int) -> None:
    module = Signalled(at=(1,), number=number)
    with pytest.raises(Interrupted, match=r"Stopped at step 2; everything is saved\. Go on with --resume=true\."):
        fit(module, tmp_path / "last.ckpt")
    assert (module.seen, module.validated) == (2, 0)
    assert step_of(tmp_path / "last.ckpt") == 2


def test_without_a_signal_every_epoch_is_saved_and_the_run_ends(tmp_path: Path) -> None:
    module = Signalled()
    fit(module, tmp_path / "last.ckpt")
    assert step_of(tmp_path / "last.ckpt") == module.seen == 2 * BATCHES


def test_a_signal_in_the_last_batch_of_an_epoch_stops_after_the_epoch(tmp_path: Path) -> None:
    module = Signalled(at=(BATCHES - 1,))
    with pytest.raises(Interrupted):
        fit(module, tmp_path / "last.ckpt")
    assert (module.seen, module.validated) == (BATCHES, 1)
    assert step_of(tmp_path / "last.ckpt") == BATCHES


def test_a_signal_in_the_very_last_batch_lets_the_run_end(tmp_path: Path) -> None:
    module = Signalled(at=(2 * BATCHES - 1,))
    fit(module, tmp_path / "last.ckpt")
    assert module.seen == 2 * BATCHES


def test_gradients_that_are_being_summed_are_stepped_before_the_stop(tmp_path: Path) -> None:
    module = Signalled(at=(0,))
    with pytest.raises(Interrupted):
        fit(module, tmp_path / "last.ckpt", accumulate_grad_batches=2)
    assert (step_of(tmp_path / "last.ckpt"), module.seen) == (1, 2)


def test_a_second_signal_does_not_wait(tmp_path: Path) -> None:
    stop = StopAtBoundary(tmp_path / "last.ckpt")
    stop._ask(signal.SIGINT, None)
    with pytest.raises(KeyboardInterrupt):
        stop._ask(signal.SIGINT, None)


def test_the_signals_are_given_back_even_after_an_error(tmp_path: Path) -> None:
    before = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)
    fit(Signalled(), tmp_path / "last.ckpt")
    assert (signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)) == before
    module = Signalled()
    module.training_step = None  # pyright: ignore[reportAttributeAccessIssue]
    with pytest.raises(Exception, match=r"training_step|NoneType"):
        fit(module, tmp_path / "last.ckpt")
    assert (signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)) == before
