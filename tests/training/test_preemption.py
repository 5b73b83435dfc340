import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning import LightningModule, Trainer
from torch import Tensor, nn
from torch.utils.data import DataLoader

from recsys.stopping import Interrupted, StopRequest, request
from recsys.training.preemption import STARTED, StopAtBoundary

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


@pytest.fixture(autouse=True)
def signals_are_given_back() -> Iterator[None]:
    yield
    request.forget()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Of the checkpoint, below a run's folder."""
    return tmp_path / "checkpoints" / "last.ckpt"


def step_of(path: Path) -> int:
    return torch.load(path, weights_only=True)["global_step"]


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 75), (signal.SIGUSR1, 75)])
def test_a_signal_saves_at_the_end_of_its_step_and_stops(path: Path, number: int, code: int) -> None:
    module = Signalled(at=(1,), number=number)
    said = r"Stopped at step 2; everything is saved\. Go on with --resume=auto\."
    with pytest.raises(Interrupted, match=said) as stop:
        fit(module, path)
    assert stop.value.code == code
    assert (module.seen, module.validated) == (2, 0)
    assert step_of(path) == 2


def test_without_a_signal_every_epoch_is_saved_and_the_run_ends(path: Path) -> None:
    module = Signalled()
    fit(module, path)
    assert step_of(path) == module.seen == 2 * BATCHES


def test_a_signal_in_the_last_batch_of_an_epoch_stops_after_the_epoch(path: Path) -> None:
    module = Signalled(at=(BATCHES - 1,))
    with pytest.raises(Interrupted):
        fit(module, path)
    assert (module.seen, module.validated) == (BATCHES, 1)
    assert step_of(path) == BATCHES


def test_a_signal_in_the_very_last_batch_lets_the_run_end(path: Path) -> None:
    module = Signalled(at=(2 * BATCHES - 1,))
    fit(module, path)
    assert module.seen == 2 * BATCHES


def test_gradients_that_are_being_summed_are_stepped_before_the_stop(path: Path) -> None:
    module = Signalled(at=(0,))
    with pytest.raises(Interrupted):
        fit(module, path, accumulate_grad_batches=2)
    assert (step_of(path), module.seen) == (1, 2)


def test_a_flag_that_somebody_else_has_put_back_is_taken_down_too() -> None:
    stop = StopRequest()
    stop.listen()
    stop.before = {}  # as after a training: Lightning has put back what it had found
    stop.forget()
    assert signal.getsignal(signal.SIGTERM) == signal.getsignal(signal.SIGUSR1) == signal.SIG_DFL


def test_a_second_ctrl_c_does_not_wait_but_a_cluster_may_repeat_itself() -> None:
    stop = StopRequest()
    stop._ask(signal.SIGTERM, None)
    stop._ask(signal.SIGTERM, None)
    stop._ask(signal.SIGINT, None)
    with pytest.raises(KeyboardInterrupt):
        stop._ask(signal.SIGINT, None)


def test_a_signal_before_the_first_step_stops_there_with_nothing_to_save(path: Path) -> None:
    module = Signalled()
    request.listen()
    try:
        os.kill(os.getpid(), signal.SIGUSR1)
        with pytest.raises(
            Interrupted, match=r"Stopped at step 0; nothing was done yet\. Go on with --resume=auto\."
        ) as stop:
            fit(module, path)
    finally:
        request.forget()
    assert (stop.value.code, module.seen, path.exists()) == (75, 0, False)


def test_a_run_says_that_it_has_started(path: Path) -> None:
    fit(Signalled(), path)
    assert (path.parents[1] / STARTED).is_file()


def test_the_signals_are_given_back_even_after_an_error(path: Path) -> None:
    before = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)]
    fit(Signalled(), path)
    assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)] == before
    module = Signalled()
    module.training_step = None  # pyright: ignore[reportAttributeAccessIssue]
    with pytest.raises(Exception, match=r"training_step|NoneType"):
        fit(module, path)
    assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)] == before
