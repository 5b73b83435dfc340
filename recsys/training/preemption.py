"""Ctrl-C and SIGTERM only raise a flag; at the next step boundary the run is saved and stops."""

import signal
import threading
from pathlib import Path
from types import FrameType
from typing import Any

from lightning import LightningModule, Trainer
from lightning.pytorch.callbacks import Checkpoint


class Interrupted(Exception):
    """The run stopped before its end, after saving a checkpoint."""


class StopAtBoundary(Checkpoint):
    """Saves `checkpoint` after every epoch, and after the step in which a signal comes; then it raises Interrupted.

    It raises when the next batch starts: Lightning has logged the step by then, as it does in a run that goes on.
    Lightning's own way to stop would log, validate and end the epoch where the uninterrupted run does not. Being the
    last of the callbacks that save, this one keeps what the others know (which weights were best).
    """

    def __init__(self, checkpoint: Path) -> None:
        self.checkpoint, self.asked, self.saved = checkpoint, False, False
        self.before: dict[int, Any] = {}

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Take the signals (again: Lightning puts its own handlers in front)."""
        if threading.current_thread() is threading.main_thread():
            self.before = {number: signal.signal(number, self._ask) for number in (signal.SIGINT, signal.SIGTERM)}

    def _ask(self, number: int, frame: FrameType | None) -> None:
        if self.asked:  # a second signal does not wait
            raise KeyboardInterrupt
        self.asked = True

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        """Stop, once all is saved."""
        if self.saved:
            raise Interrupted(f"Stopped at step {trainer.global_step}; everything is saved. Go on with --resume=true.")

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Save when a signal has come, but not among batches whose gradients are still summed: they would be lost.

        After the last batch of an epoch, the epoch ends first.
        """
        stepped = (batch_idx + 1) % trainer.accumulate_grad_batches == 0
        if self.asked and stepped and not trainer.is_last_batch:
            trainer.save_checkpoint(self.checkpoint)
            self.saved = True

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Save after a whole epoch."""
        asked = self.asked
        trainer.save_checkpoint(self.checkpoint)
        self.saved = asked

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Give the signals back."""
        self._give_back()

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Give the signals back, before Lightning gives its own back."""
        self._give_back()

    def _give_back(self) -> None:
        for number, handler in self.before.items():
            signal.signal(number, handler)
        self.before = {}
