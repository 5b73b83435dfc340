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
    """Saves `checkpoint` after every epoch, and when a signal has come: then it also raises Interrupted.

    Lightning's own way to stop would log, validate and end the epoch first, none of which the uninterrupted run does
    there. Being the last of the callbacks that save, this one keeps what the others know (which weights were best).
    """

    def __init__(self, checkpoint: Path) -> None:
        self.checkpoint, self.asked = checkpoint, False
        self.before: dict[int, Any] = {}

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Take the signals (again: Lightning puts its own handlers in front)."""
        if threading.current_thread() is threading.main_thread():
            self.before = {number: signal.signal(number, self._ask) for number in (signal.SIGINT, signal.SIGTERM)}

    def _ask(self, number: int, frame: FrameType | None) -> None:
        if self.asked:  # a second signal does not wait
            raise KeyboardInterrupt
        self.asked = True

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Save and stop when a signal has come; after the last batch of an epoch, the epoch ends first.

        Not among batches whose gradients are still being summed: those of the first ones would be lost.
        """
        stepped = (batch_idx + 1) % trainer.accumulate_grad_batches == 0
        if self.asked and stepped and not trainer.is_last_batch:
            self._save(trainer)
            self._stop(trainer)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Save after a whole epoch, and stop there when a signal has come; the last epoch ends the run as always."""
        self._save(trainer)
        if self.asked and trainer.current_epoch + 1 < (trainer.max_epochs or 0):
            self._stop(trainer)

    def _save(self, trainer: Trainer) -> None:
        trainer.save_checkpoint(self.checkpoint, weights_only=False)

    def _stop(self, trainer: Trainer) -> None:
        raise Interrupted(f"Stopped at step {trainer.global_step}; everything is saved. Go on with --resume=true.")

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
