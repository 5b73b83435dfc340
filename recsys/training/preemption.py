"""Ctrl-C and SIGTERM only raise a flag; at the next step boundary the run is saved and stops."""

import signal
from pathlib import Path
from types import FrameType

from lightning import Callback, LightningModule, Trainer


class Interrupted(Exception):  # noqa: N818
    """The run stopped before its end, after saving a checkpoint."""


class StopAtBoundary(Callback):
    """Saves `last.ckpt` inside the step loop (a checkpoint made after it would have skipped the rest of the epoch) and stops."""

    def __init__(self, checkpoint: Path) -> None:
        self.checkpoint, self.asked, self.saved = checkpoint, False, False
        self.before: dict[int, signal.Handlers | None] = {}

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Take the signals (again: Lightning puts its own handlers in front)."""
        for number in (signal.SIGINT, signal.SIGTERM):
            self.before[number] = signal.signal(number, self._ask)

    def _ask(self, number: int, frame: FrameType | None) -> None:
        if self.asked:  # a second signal does not wait
            raise KeyboardInterrupt
        self.asked = True

    def on_train_batch_end(self, trainer: Trainer, *args: object) -> None:
        """Save and stop when a signal has come."""
        if self.asked and not self.saved:
            trainer.save_checkpoint(self.checkpoint)
            self.saved, trainer.should_stop = True, True
            trainer.limit_val_batches = 0

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Give the signals back."""
        for number, handler in self.before.items():
            signal.signal(number, handler)
        self.before = {}
